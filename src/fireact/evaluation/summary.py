"""A summary in numbers of one agent's episodes on one task.

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
from fireact.evaluation.measures import GroupSummary, Measures, compute_measures
from fireact.evaluation.recovery import Recovery, measure_recovery
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Summary:
    """One agent on one task. Amounts are means per question; ``latency`` is over single episodes.

    ``tools`` are the calls per question by tool, ``by`` the ``measures`` by type of question.
    ``seconds_per_question`` is the wall time of all episodes divided by their number.
    """

    n: int
    measures: Measures
    seconds_per_question: float | None
    tools: Mapping[str, float]
    stops: Mapping[str, int]
    failures: Mapping[str, int]
    faults: int
    by: Mapping[str, Mapping[str, GroupSummary]]
    recovery: Recovery | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
        return {
            "n": self.n,
            **self.measures.to_dict(),
            "seconds_per_question": self.seconds_per_question,
            "tools": dict(self.tools),
            "stops": dict(self.stops),
            "failures": dict(self.failures),
            "faults": self.faults,
            "by": {
                kind: {value: group.to_dict() for value, group in groups.items()} for kind, groups in self.by.items()
            },
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Summary:
        """The summary in a manifest; an earlier version may not have counted all of it."""
        n, recovery = fields["n"], fields.get("recovery")
        return cls(
            n=n,
            measures=Measures.from_dict(fields, n),
            seconds_per_question=fields.get("seconds_per_question"),
            **{name: fields.get(name, {}) for name in ("tools", "stops", "failures")},
            faults=fields.get("faults", 0),
            by={
                kind: {value: GroupSummary.from_dict(group) for value, group in groups.items()}
                for kind, groups in fields.get("by", {}).items()
            },
            recovery=None if recovery is None else Recovery.from_dict(recovery),
        )


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


def read_summaries(manifest: Mapping[str, Any]) -> dict[str, Summary]:
    """Task -> its summary, from the manifest of an evaluation."""
    return {task: Summary.from_dict(fields) for task, fields in manifest["results"].items()}
