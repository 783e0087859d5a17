"""Which episodes of two agents belong together: the same question of the same task with the same seed.

Invariant: an episode that ended in a fault has no partner. Where a question was answered with several seeds, its
episodes are not independent. So statistics are over questions, each with the mean of its seeds
(``average_by_question``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fireact.errors import DataError
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
