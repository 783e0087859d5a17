"""What the episodes of one agent on one task say in numbers, and how two agents compare on the same questions.

Invariant: an episode that a fault of the infrastructure ended is counted in ``faults`` and in nothing else, so the kinds of
``failures`` and the episodes that are right make up ``n``. Nothing is run or read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import DataError
from fireact.evaluation.breakdown import breakdown
from fireact.evaluation.failures import counted, searches
from fireact.evaluation.measures import Measures, measures, plain, score
from fireact.evaluation.pairing import by_question, pairs
from fireact.evaluation.recovery import Recovery, recovery
from fireact.evaluation.statistics import Paired, paired
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Summary:
    """One agent on one task; amounts are means a question, ``latency`` is of single episodes.

    ``tools`` are the calls a question by tool, ``by`` the ``measures`` by type of question.
    ``seconds_per_question`` is the time that all took together, divided among them.
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
            **plain(self.measures),
            "seconds_per_question": self.seconds_per_question,
            "tools": dict(self.tools),
            "stops": dict(self.stops),
            "failures": dict(self.failures),
            "faults": self.faults,
            "by": {kind: {value: dict(group) for value, group in groups.items()} for kind, groups in self.by.items()},
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two agents on the questions of one task that both were scored on: what changed in EM and in F1."""

    em: Paired
    f1: Paired

    def to_dict(self) -> dict[str, Any]:
        return {"em": self.em.to_dict(), "f1": self.f1.to_dict()}


def summarise(trajectories: Sequence[Trajectory], *, wall_seconds: float | None = None, seed: int = 0) -> Summary:
    """Summarise one agent's episodes on one task.

    ``wall_seconds``, the time that all of them took together, makes ``seconds_per_question`` a throughput; without it,
    it is the mean time of an episode, which is longer where episodes run side by side. Raises DataError when none is
    scored.
    """
    scored = [trajectory for trajectory in trajectories if trajectory.stop != "error"]
    n, faults = len(scored), len(trajectories) - len(scored)
    if not n:
        raise DataError(f"of {len(trajectories)} episodes {faults} ended in a fault: none is left to score. Run again.")
    called = sum(map(searches, scored), Counter[str]())
    return Summary(
        n=n,
        measures=measures(scored, seed=seed),
        seconds_per_question=sum(trajectory.seconds for trajectory in scored) / n
        if wall_seconds is None
        else wall_seconds / n,
        tools={name: count / n for name, count in sorted(called.items())},
        stops=dict(sorted(Counter(trajectory.stop for trajectory in scored).items())),
        failures=counted(scored),
        faults=faults,
        by=breakdown(scored, seed=seed),
        recovery=recovery(scored, seed=seed),
    )


def compare(
    before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True, seed: int = 0
) -> Comparison:
    """Compare two agents' episodes on one task, paired by question and (with ``seeds``) seed; a question with a fault is left out.

    A question that was answered with several seeds counts once, with the mean of its scores. Raises DataError where an
    agent answered a question twice, or where they share none.
    """
    found = pairs(before, after, seeds=seeds)

    def metric(name: str) -> Paired:
        return paired(*by_question(found, lambda trajectory: score(trajectory, name)), seed=seed)

    return Comparison(em=metric("em"), f1=metric("f1"))
