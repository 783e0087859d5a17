"""A summary in numbers of one agent's episodes on one task, and a comparison of two agents on the same questions.

Invariant: an episode that ended in a fault of the infrastructure counts in ``faults`` and nowhere else, so ``n`` is the
number of right episodes plus all ``failures``. This module runs and reads nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import DataError
from fireact.evaluation.breakdown import compute_breakdown
from fireact.evaluation.failures import count_failures, count_searches
from fireact.evaluation.measures import Measures, compute_measures, get_score, measures_to_dict
from fireact.evaluation.pairing import average_by_question, pair_trajectories
from fireact.evaluation.recovery import Recovery, measure_recovery
from fireact.evaluation.statistics import PairedDifference, compare_paired
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Summary:
    """One agent on one task. Amounts are means per question; ``latency`` is over single episodes.

    ``tools`` are the calls per question by tool, ``by`` the ``measures`` by type of question.
    ``seconds_per_question`` is the wall time of all episodes divided by their number.
    """

    n: int
    measures: Measures
    seconds_per_question: float
    tools: Mapping[str, float]
    stops: Mapping[str, int]
    failures: Mapping[str, int]
    faults: int
    by: Mapping[str, Mapping[str, Mapping[str, Any]]]
    recovery: Recovery | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
        return {
            "n": self.n,
            **measures_to_dict(self.measures),
            "seconds_per_question": self.seconds_per_question,
            "tools": dict(self.tools),
            "stops": dict(self.stops),
            "failures": dict(self.failures),
            "faults": self.faults,
            "by": {kind: {value: dict(group) for value, group in groups.items()} for kind, groups in self.by.items()},
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """The change in EM and F1 between two agents, over the questions of one task that both were scored on."""

    em: PairedDifference
    f1: PairedDifference

    def to_dict(self) -> dict[str, Any]:
        return {"em": self.em.to_dict(), "f1": self.f1.to_dict()}


def summarise_trajectories(
    trajectories: Sequence[Trajectory], *, wall_seconds: float | None = None, seed: int = 0
) -> Summary:
    """Summarise one agent's episodes on one task.

    ``wall_seconds`` is the time that all episodes took together; it makes ``seconds_per_question`` a throughput.
    Without it, ``seconds_per_question`` is the mean time of an episode, which is longer where episodes run in parallel.
    Raises DataError when no episode is scored.
    """
    scored = [trajectory for trajectory in trajectories if trajectory.stop != "error"]
    n, faults = len(scored), len(trajectories) - len(scored)
    if not n:
        raise DataError(f"of {len(trajectories)} episodes {faults} ended in a fault: none is left to score. Run again.")
    calls_by_tool = sum(map(count_searches, scored), Counter[str]())
    return Summary(
        n=n,
        measures=compute_measures(scored, seed=seed),
        seconds_per_question=sum(trajectory.seconds for trajectory in scored) / n
        if wall_seconds is None
        else wall_seconds / n,
        tools={name: count / n for name, count in sorted(calls_by_tool.items())},
        stops=dict(sorted(Counter(trajectory.stop for trajectory in scored).items())),
        failures=count_failures(scored),
        faults=faults,
        by=compute_breakdown(scored, seed=seed),
        recovery=measure_recovery(scored, seed=seed),
    )


def compare_scores(
    before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True, seed: int = 0
) -> ScoreComparison:
    """Compare two agents on one task, paired by question and (with ``seeds``) seed; episodes with a fault are left out.

    A question that was answered with several seeds counts once, with the mean of its scores. Raises DataError where an
    agent answered a question twice, or where they share none.
    """
    pairs = pair_trajectories(before, after, seeds=seeds)

    def metric(name: str) -> PairedDifference:
        return compare_paired(*average_by_question(pairs, lambda trajectory: get_score(trajectory, name)), seed=seed)

    return ScoreComparison(em=metric("em"), f1=metric("f1"))
