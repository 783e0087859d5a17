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
from fireact.evaluation.accuracy import accuracy
from fireact.evaluation.amounts import AMOUNTS, amount_of
from fireact.evaluation.breakdown import breakdown
from fireact.evaluation.failures import counted, searches
from fireact.evaluation.pairing import by_question, pairs
from fireact.evaluation.recovery import Recovery, recovery
from fireact.evaluation.statistics import Estimate, Paired, bootstrap, paired, quantile
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Summary:
    """One agent on one task; amounts are means a question, ``latency`` is of single episodes.

    ``amounts`` are those of ``AMOUNTS``, ``tools`` the calls a question by tool, ``by`` scores and amounts by type of question.
    ``seconds_per_question`` is the time that all took together, divided among them.
    """

    n: int
    accuracy: Estimate
    em: Estimate
    f1: Estimate
    finished: Estimate
    amounts: Mapping[str, Estimate | None]
    seconds_per_question: float
    latency_p50: Estimate
    latency_p95: Estimate
    tools: Mapping[str, float]
    stops: Mapping[str, int]
    failures: Mapping[str, int]
    faults: int
    by: Mapping[str, Mapping[str, Mapping[str, Any]]]
    recovery: Recovery | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
        estimates: dict[str, Estimate | None] = {
            "em": self.em,
            "f1": self.f1,
            "accuracy": self.accuracy,
            "finished": self.finished,
            **self.amounts,
            "latency_p50": self.latency_p50,
            "latency_p95": self.latency_p95,
        }
        plain: dict[str, Any] = {"n": self.n}
        for name, estimate in estimates.items():
            plain[name] = None if estimate is None else estimate.mean
            plain[f"{name}_interval"] = None if estimate is None else estimate.interval
        return plain | {
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
    seconds = [trajectory.seconds for trajectory in scored]
    called = sum(map(searches, scored), Counter[str]())
    return Summary(
        n=n,
        em=_estimate(scored, "em", seed),
        f1=_estimate(scored, "f1", seed),
        accuracy=bootstrap([accuracy(trajectory) or 0.0 for trajectory in scored], seed=seed),
        finished=bootstrap([float(trajectory.stop == "finish") for trajectory in scored], seed=seed),
        amounts={name: amount_of(scored, name, seed=seed) for name in AMOUNTS},
        seconds_per_question=sum(seconds) / n if wall_seconds is None else wall_seconds / n,
        latency_p50=quantile(seconds, 0.5, seed=seed),
        latency_p95=quantile(seconds, 0.95, seed=seed),
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


def score(trajectory: Trajectory, name: str) -> float:
    """A score of an episode. Raises DataError where it has none of that name."""
    if name not in trajectory.scores:
        known = ", ".join(trajectory.scores) or "none"
        raise DataError(f"episode {trajectory.key} has no score {name!r} (only {known}). A task must give em and f1.")
    return trajectory.scores[name]


def _estimate(trajectories: Sequence[Trajectory], name: str, seed: int) -> Estimate:
    return bootstrap([score(trajectory, name) for trajectory in trajectories], seed=seed)
