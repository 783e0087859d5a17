"""What the episodes of one agent on one task say in numbers, and how two agents compare on the same questions.

Invariant: an episode that a fault of the infrastructure ended is counted in ``faults`` and in nothing else. Nothing is
run or read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import DataError
from fireact.evaluation.statistics import Estimate, Paired, bootstrap, paired
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Summary:
    """One agent on one task; steps, tokens and seconds are means a question, ``latency`` is of single episodes."""

    n: int
    em: Estimate
    f1: Estimate
    finished: Estimate
    steps: float
    calls: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    seconds_per_question: float
    latency_mean: float
    latency_p50: float
    latency_p95: float
    stops: Mapping[str, int]
    faults: int

    @property
    def tokens_per_question(self) -> float:
        """Prompt and completion tokens of all calls; those that a cache spared are among them."""
        return self.prompt_tokens + self.completion_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
        return {
            "n": self.n,
            "em": self.em.mean,
            "em_interval": self.em.interval,
            "f1": self.f1.mean,
            "f1_interval": self.f1.interval,
            "finished": self.finished.mean,
            "finished_interval": self.finished.interval,
            "steps": self.steps,
            "calls": self.calls,
            "tokens_per_question": self.tokens_per_question,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds_per_question": self.seconds_per_question,
            "latency_mean": self.latency_mean,
            "latency_p50": self.latency_p50,
            "latency_p95": self.latency_p95,
            "stops": dict(self.stops),
            "faults": self.faults,
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
    latency_mean, latency_p50, latency_p95 = _latency([trajectory.seconds for trajectory in scored])
    return Summary(
        n=n,
        em=_estimate(scored, "em", seed),
        f1=_estimate(scored, "f1", seed),
        finished=bootstrap([float(trajectory.stop == "finish") for trajectory in scored], seed=seed),
        steps=sum(len(trajectory.steps) for trajectory in scored) / n,
        calls=sum(trajectory.usage.calls for trajectory in scored) / n,
        prompt_tokens=sum(trajectory.usage.prompt_tokens for trajectory in scored) / n,
        cached_tokens=sum(trajectory.usage.cached_tokens for trajectory in scored) / n,
        completion_tokens=sum(trajectory.usage.completion_tokens for trajectory in scored) / n,
        seconds_per_question=latency_mean if wall_seconds is None else wall_seconds / n,
        latency_mean=latency_mean,
        latency_p50=latency_p50,
        latency_p95=latency_p95,
        stops=dict(sorted(Counter(trajectory.stop for trajectory in scored).items())),
        faults=faults,
    )


def compare(before: Sequence[Trajectory], after: Sequence[Trajectory], *, seed: int = 0) -> Comparison:
    """Compare two agents' episodes on one task, paired by question and seed; a question with a fault is left out.

    Raises DataError where an agent answered a question twice, or where they share none.
    """
    first, second = _by_question(before), _by_question(after)
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise DataError(
            f"the two agents share no scored question ({len(first)} and {len(second)}). "
            "Evaluate both on the same task and split."
        )

    def metric(name: str) -> Paired:
        scores = ([_score(found[key], name) for key in shared] for found in (first, second))
        return paired(*scores, seed=seed)

    return Comparison(em=metric("em"), f1=metric("f1"))


def _by_question(trajectories: Sequence[Trajectory]) -> dict[tuple[str, str, int], Trajectory]:
    found: dict[tuple[str, str, int], Trajectory] = {}
    for trajectory in trajectories:
        if trajectory.stop == "error":
            continue
        key = (trajectory.task, trajectory.example.id, trajectory.seed)
        if key in found:
            raise DataError(f"{trajectory.key} was answered twice: give the episodes of one agent and one run.")
        found[key] = trajectory
    return found


def _estimate(trajectories: Sequence[Trajectory], name: str, seed: int) -> Estimate:
    return bootstrap([_score(trajectory, name) for trajectory in trajectories], seed=seed)


def _score(trajectory: Trajectory, name: str) -> float:
    if name not in trajectory.scores:
        known = ", ".join(trajectory.scores) or "none"
        raise DataError(f"episode {trajectory.key} has no score {name!r} (only {known}). A task must give em and f1.")
    return trajectory.scores[name]


def _latency(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Mean, median and 95th percentile."""
    import numpy as np

    p50, p95 = np.percentile(seconds, [50, 95])
    return sum(seconds) / len(seconds), float(p50), float(p95)
