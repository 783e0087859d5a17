"""Which questions to show side by side: a rule takes one of each outcome, so that a report does not show only its best.

Invariant: the choice depends on the trajectories alone, not on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fireact.evaluation.accuracy import is_correct
from fireact.reporting.report_data import Case
from fireact.types import Trajectory

OUTCOMES: Mapping[tuple[bool, bool], str] = {
    (False, True): "wrong before, right after",
    (False, False): "wrong both times",
    (True, False): "right before, wrong after",
    (True, True): "right both times",
}
"""(Was the first agent right, was the last) -> outcome, in the order in which cases are shown."""
ALONE: Mapping[bool, str] = {False: "wrong", True: "right"}
"""Was the only agent right -> outcome."""

RULE = "Chosen by rule: the first question of each outcome, of different tasks where there are several."


def choose_cases(*groups: Mapping[str, Sequence[Trajectory]], n: int = 4) -> tuple[Case, ...]:
    """Up to ``n`` questions on which every agent of a group was scored, with all their trajectories.

    A group has agents by name, the baseline first. First comes one question of each outcome, from different tasks
    where possible; then further questions of the same outcomes.
    """
    cases = [case for group in groups for case in _shared_cases(group)]
    kinds = [*OUTCOMES.values(), *ALONE.values(), ""]  # "": an agent was not scored
    queues = {name: [case for case in cases if outcome(case) == name] for name in kinds}
    chosen: list[Case] = []
    while len(chosen) < min(n, len(cases)):
        for queue in queues.values():
            if queue and len(chosen) < n:
                chosen_tasks = {_case_task(case) for case in chosen}
                chosen.append(
                    queue.pop(
                        next((index for index, case in enumerate(queue) if _case_task(case) not in chosen_tasks), 0)
                    )
                )
    return tuple(chosen)


def _shared_cases(episodes: Mapping[str, Sequence[Trajectory]]) -> list[Case]:
    """Every question on which all agents of a group were scored."""
    by_agent = {
        name: {
            (trajectory.task, trajectory.example.id, trajectory.seed): trajectory
            for trajectory in trajectories
            if trajectory.scores
        }
        for name, trajectories in episodes.items()
    }
    shared_questions = set.intersection(*(set(by_question) for by_question in by_agent.values())) if by_agent else set()
    return [
        Case(
            next(iter(by_agent.values()))[key].example,
            {name: by_question[key] for name, by_question in by_agent.items()},
        )
        for key in sorted(shared_questions)
    ]


def outcome(case: Case) -> str:
    """Whether the first and the last agent of a case (or the only one) were right; empty where one was not scored."""
    agents = list(case.trajectories.values())
    if not agents or not agents[0].scores or not agents[-1].scores:
        return ""
    if len(agents) == 1:
        return ALONE[is_correct(agents[0])]
    return OUTCOMES[is_correct(agents[0]), is_correct(agents[-1])]


def _case_task(case: Case) -> str:
    return next(iter(case.trajectories.values())).task
