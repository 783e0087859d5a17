"""Which questions to show side by side: by rule, one of each outcome, so that a report does not show its best alone.

Invariant: the choice depends on the trajectories alone, not on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fireact.evaluation.accuracy import right
from fireact.reporting.data import Case
from fireact.types import Trajectory

OUTCOMES: Mapping[tuple[bool, bool], str] = {
    (False, True): "wrong before, right after",
    (False, False): "wrong both times",
    (True, False): "right before, wrong after",
    (True, True): "right both times",
}
"""Was the first agent right, and the last; in the order in which cases are shown."""
ALONE: Mapping[bool, str] = {False: "wrong", True: "right"}
"""Was the only agent right."""

RULE = "Chosen by rule: the first question of each outcome, of different tasks where there are several."


def choose(*groups: Mapping[str, Sequence[Trajectory]], n: int = 4) -> tuple[Case, ...]:
    """Up to ``n`` questions on which every agent of a group was scored, with all their trajectories.

    A group has agents by name, the baseline first. One question of each outcome, of different tasks as far as there are;
    then further ones of the same outcomes.
    """
    cases = [case for group in groups for case in _shared(group)]
    kinds = [*OUTCOMES.values(), *ALONE.values(), ""]  # the last where one is not scored
    queues = {name: [case for case in cases if outcome(case) == name] for name in kinds}
    chosen: list[Case] = []
    while len(chosen) < min(n, len(cases)):
        for queue in queues.values():
            if queue and len(chosen) < n:
                seen = {_task(case) for case in chosen}
                chosen.append(queue.pop(next((at for at, case in enumerate(queue) if _task(case) not in seen), 0)))
    return tuple(chosen)


def _shared(episodes: Mapping[str, Sequence[Trajectory]]) -> list[Case]:
    """Every question on which all agents of a group were scored."""
    by_agent = {name: {_question(one): one for one in found if one.scores} for name, found in episodes.items()}
    shared = set.intersection(*(set(found) for found in by_agent.values())) if by_agent else set()
    return [
        Case(next(iter(by_agent.values()))[key].example, {name: found[key] for name, found in by_agent.items()})
        for key in sorted(shared)
    ]


def outcome(case: Case) -> str:
    """Whether the first and the last agent of a case were right, or the only one; empty where one was not scored."""
    agents = list(case.trajectories.values())
    if not agents or not agents[0].scores or not agents[-1].scores:
        return ""
    if len(agents) == 1:
        return ALONE[right(agents[0])]
    return OUTCOMES[right(agents[0]), right(agents[-1])]


def _question(trajectory: Trajectory) -> tuple[str, str, int]:
    return trajectory.task, trajectory.example.id, trajectory.seed


def _task(case: Case) -> str:
    return next(iter(case.trajectories.values())).task
