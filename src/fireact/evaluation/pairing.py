"""Which episodes of two agents belong together: the same question of the same task with the same seed.

Invariant: an episode that ended in a fault has no partner. Where a question was answered with several seeds, its
episodes are not independent. So statistics are over questions, each with the mean of its seeds
(``average_by_question``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fireact.errors import DataError
from fireact.tasks.question_hash import normalise_question
from fireact.types import Trajectory

Pair = tuple[Trajectory, Trajectory]
Key = tuple[str, str, int]


def pair_trajectories(before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True) -> list[Pair]:
    """The episodes of two agents that belong together, by task, question and seed; without ``seeds`` by question alone.

    Raises DataError where an agent answered a question twice, or where they share none.
    """
    before_by_key, after_by_key = index_trajectories(before, seeds=seeds), index_trajectories(after, seeds=seeds)
    shared = sorted(before_by_key.keys() & after_by_key.keys())
    if not shared:
        raise DataError(
            f"the two agents share no scored question ({len(before_by_key)} and {len(after_by_key)}). "
            "Evaluate both on the same task and split, with the same seed."
        )
    return [(before_by_key[key], after_by_key[key]) for key in shared]


def match_by_question(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> list[Trajectory]:
    """The second run, with the task and id of the first run where both have a question under other ones.

    Of episodes of one question with several ids, the first belongs to the first, the second to the second and so on.
    """
    places_by_question: dict[str, list[tuple[str, str]]] = {}
    question_by_place: dict[tuple[str, str], str] = {}
    for trajectory in before:
        place, words = (trajectory.task, trajectory.example.id), normalise_question(trajectory.example.question)
        if words and question_by_place.setdefault(place, words) == words:
            places = places_by_question.setdefault(words, [])
            places += [place] if place not in places else []
    new_places: dict[tuple[str, str], tuple[str, str]] = {}
    unmatched: dict[tuple[str, str], str] = {}
    for trajectory in after:
        place, words = (trajectory.task, trajectory.example.id), normalise_question(trajectory.example.question)
        if question_by_place.get(place) != words:
            unmatched[place] = words
        elif place in places_by_question.get(words, ()):
            places_by_question[words].remove(place)
    for place, words in unmatched.items():
        if places_by_question.get(words):
            new_places[place] = places_by_question[words].pop(0)
    return [_move_trajectory(trajectory, new_places) for trajectory in after]


def _move_trajectory(trajectory: Trajectory, places: Mapping[tuple[str, str], tuple[str, str]]) -> Trajectory:
    task, id = places.get((trajectory.task, trajectory.example.id), (trajectory.task, trajectory.example.id))
    return replace(trajectory, task=task, example=replace(trajectory.example, id=id))


def index_trajectories(trajectories: Sequence[Trajectory], *, seeds: bool = True) -> dict[Key, Trajectory]:
    """The episodes without a fault by task, question and seed. Raises DataError where two have the same key."""
    trajectories_by_key: dict[Key, Trajectory] = {}
    for trajectory in trajectories:
        if trajectory.stop == "error":
            continue
        key = (trajectory.task, trajectory.example.id, trajectory.seed if seeds else 0)
        if key in trajectories_by_key:
            raise DataError(f"{trajectory.key} was answered twice: give the episodes of one agent and one run.")
        trajectories_by_key[key] = trajectory
    return trajectories_by_key


def average_by_question(pairs: Sequence[Pair], value: Callable[[Trajectory], float]) -> tuple[list[float], list[float]]:
    """For each question, the mean over its seeds of a value of each agent, in the order of the pairs."""
    pairs_by_question: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        pairs_by_question.setdefault((pair[0].task, pair[0].example.id), []).append(pair)
    before_means = [sum(value(before) for before, _ in group) / len(group) for group in pairs_by_question.values()]
    after_means = [sum(value(after) for _, after in group) / len(group) for group in pairs_by_question.values()]
    return before_means, after_means
