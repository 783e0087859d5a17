"""Which episodes of two agents belong together: the same question of the same task with the same seed.

Invariant: an episode that ended in a fault is paired with nothing. Where a question was answered with several seeds, its
episodes are not independent: statistics are over questions, each with the mean of its seeds (``by_question``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fireact.errors import DataError
from fireact.types import Trajectory

Pair = tuple[Trajectory, Trajectory]
Key = tuple[str, str, int]


def pairs(before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True) -> list[Pair]:
    """The episodes of two agents that belong together, by task, question and seed; without ``seeds`` by question alone.

    Raises DataError where an agent answered a question twice, or where they share none.
    """
    first, second = keyed(before, seeds=seeds), keyed(after, seeds=seeds)
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise DataError(
            f"the two agents share no scored question ({len(first)} and {len(second)}). "
            "Evaluate both on the same task and split, with the same seed."
        )
    return [(first[key], second[key]) for key in shared]


def keyed(trajectories: Sequence[Trajectory], *, seeds: bool = True) -> dict[Key, Trajectory]:
    """The episodes that no fault ended, by what tells them apart. Raises DataError where two are the same."""
    found: dict[Key, Trajectory] = {}
    for trajectory in trajectories:
        if trajectory.stop == "error":
            continue
        key = (trajectory.task, trajectory.example.id, trajectory.seed if seeds else 0)
        if key in found:
            raise DataError(f"{trajectory.key} was answered twice: give the episodes of one agent and one run.")
        found[key] = trajectory
    return found


def by_question(found: Sequence[Pair], value: Callable[[Trajectory], float]) -> tuple[list[float], list[float]]:
    """A value of both agents for each question, the mean over its seeds; in the order of the pairs."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in found:
        groups.setdefault((pair[0].task, pair[0].example.id), []).append(pair)
    first = [sum(value(one) for one, _ in group) / len(group) for group in groups.values()]
    second = [sum(value(other) for _, other in group) / len(group) for group in groups.values()]
    return first, second
