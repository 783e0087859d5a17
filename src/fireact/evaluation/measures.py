"""Measures of some episodes: their scores, and what a question takes in steps, searches, tokens, seconds and dollars.

Invariant: a whole task and each group of its questions are measured here alone, so that their numbers have one meaning.
An amount is known for all episodes or for none, so that no mean leaves out the episodes with unknown amounts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import DataError
from fireact.evaluation.accuracy import accuracy
from fireact.evaluation.failures import count_searches
from fireact.evaluation.statistics import Estimate, bootstrap_mean, estimate_amount, estimate_quantile
from fireact.types import Trajectory

AMOUNTS: Mapping[str, Callable[[Trajectory], float | None]] = {
    "steps": lambda trajectory: len(trajectory.steps),
    "searches": lambda trajectory: count_searches(trajectory).total(),
    "calls": lambda trajectory: trajectory.usage.calls,
    "tokens_per_question": lambda trajectory: trajectory.usage.prompt_tokens + trajectory.usage.completion_tokens,
    "prompt_tokens": lambda trajectory: trajectory.usage.prompt_tokens,
    "cached_tokens": lambda trajectory: trajectory.usage.cached_tokens,
    "completion_tokens": lambda trajectory: trajectory.usage.completion_tokens,
    "latency_mean": lambda trajectory: trajectory.seconds,
    "cost_per_question": lambda trajectory: trajectory.usage.cost,
}
"""What a question takes: ``calls`` are of the LM and ``searches`` of tools, ``latency_mean`` is an episode's seconds,
``cost_per_question`` US dollars (None: a price is not known). Tokens that a cache answered are included."""


SCORES: Mapping[str, Callable[[Trajectory], float]] = {
    "em": lambda trajectory: get_score(trajectory, "em"),
    "f1": lambda trajectory: get_score(trajectory, "f1"),
    "accuracy": lambda trajectory: accuracy(trajectory) or 0.0,
    "finished": lambda trajectory: float(trajectory.stop == "finish"),
}
"""Shares, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Measures:
    """``SCORES``, ``AMOUNTS``, and the quantiles ``latency_p50`` and ``latency_p95`` of an episode's seconds.

    None means that an amount is not known, or that an earlier version did not measure it.
    """

    em: Estimate
    f1: Estimate
    finished: Estimate
    accuracy: Estimate | None = None
    steps: Estimate | None = None
    searches: Estimate | None = None
    calls: Estimate | None = None
    tokens_per_question: Estimate | None = None
    prompt_tokens: Estimate | None = None
    cached_tokens: Estimate | None = None
    completion_tokens: Estimate | None = None
    latency_mean: Estimate | None = None
    cost_per_question: Estimate | None = None
    latency_p50: Estimate | None = None
    latency_p95: Estimate | None = None

    def get(self, name: str) -> Estimate | None:
        """The measure of this name."""
        estimate: Estimate | None = getattr(self, name)
        return estimate

    @property
    def differing_accuracy(self) -> Estimate | None:
        """Accuracy where it is not EM: the answers were judged, or the task has a score of its own."""
        return None if self.accuracy is None or self.accuracy.mean == self.em.mean else self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Measures for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
        fields: dict[str, Any] = {}
        for name in MEASURES:
            estimate = self.get(name)
            interval = estimate.interval if estimate and estimate.has_interval else None
            fields |= {name: estimate and estimate.mean, f"{name}_interval": interval}
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], n: int) -> Measures:
        """The measures of ``n`` episodes from JSON. Earlier versions lack some, and some intervals."""
        estimates: dict[str, Any] = {}
        for name in MEASURES:
            if fields.get(name) is not None:
                low, high = fields.get(f"{name}_interval") or (math.nan, math.nan)
                estimates[name] = Estimate(fields[name], low, high, n)
        return cls(**estimates)


MEASURES = (*SCORES, *AMOUNTS, "latency_p50", "latency_p95")


def compute_measures(trajectories: Sequence[Trajectory], *, seed: int = 0) -> Measures:
    """All measures of episodes that did not end in a fault. Raises DataError where one has no EM or F1."""
    shares: dict[str, Any] = {
        name: bootstrap_mean([value(trajectory) for trajectory in trajectories], seed=seed)
        for name, value in SCORES.items()
    }
    amounts: dict[str, Any] = {
        name: _estimate_if_known([value(trajectory) for trajectory in trajectories], seed)
        for name, value in AMOUNTS.items()
    }
    seconds = [trajectory.seconds for trajectory in trajectories]
    quantiles = {f"latency_p{share}": estimate_quantile(seconds, share / 100, seed=seed) for share in (50, 95)}
    return Measures(**shares, **amounts, **quantiles)


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Questions of one kind: their number and their measures."""

    n: int
    measures: Measures

    def to_dict(self) -> dict[str, Any]:
        return {"n": self.n, **self.measures.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GroupSummary:
        return cls(fields["n"], Measures.from_dict(fields, fields["n"]))


def summarise_group(trajectories: Sequence[Trajectory], seed: int = 0) -> GroupSummary:
    """The number and the measures of some episodes, with intervals."""
    return GroupSummary(len(trajectories), compute_measures(trajectories, seed=seed))


def get_score(trajectory: Trajectory, name: str) -> float:
    """A score of an episode. Raises DataError where it has none of that name."""
    if name not in trajectory.scores:
        score_names = ", ".join(trajectory.scores) or "none"
        raise DataError(
            f"episode {trajectory.key} has no score {name!r} (only {score_names}). A task must give em and f1."
        )
    return trajectory.scores[name]


def _estimate_if_known(values: Sequence[float | None], seed: int) -> Estimate | None:
    known_values = [value for value in values if value is not None]
    return estimate_amount(known_values, seed=seed) if len(known_values) == len(values) else None
