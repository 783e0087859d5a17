"""Measures of some episodes: their scores, and what a question takes in steps, searches, tokens, seconds and dollars.

Invariant: a whole task and each group of its questions are measured here alone, so that their numbers have one meaning.
An amount is known for all episodes or for none, so that no mean leaves out the episodes with unknown amounts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

Measures = Mapping[str, Estimate | None]
"""By name: ``SCORES``, ``AMOUNTS``, and the quantiles ``latency_p50`` and ``latency_p95`` of an episode's seconds.

None means that an amount is not known.
"""


def compute_measures(trajectories: Sequence[Trajectory], *, seed: int = 0) -> Measures:
    """All measures of episodes that did not end in a fault. Raises DataError where one has no EM or F1."""
    seconds = [trajectory.seconds for trajectory in trajectories]
    return {
        **{
            name: bootstrap_mean([value(trajectory) for trajectory in trajectories], seed=seed)
            for name, value in SCORES.items()
        },
        **{
            name: _estimate_if_known([value(trajectory) for trajectory in trajectories], seed)
            for name, value in AMOUNTS.items()
        },
        **{f"latency_p{share}": estimate_quantile(seconds, share / 100, seed=seed) for share in (50, 95)},
    }


def measures_to_dict(estimates: Measures) -> dict[str, Any]:
    """Measures for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
    fields: dict[str, Any] = {}
    for name, estimate in estimates.items():
        fields |= {name: estimate and estimate.mean, f"{name}_interval": estimate and estimate.interval}
    return fields


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
