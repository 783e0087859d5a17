"""What is measured of some episodes: their scores, and what a question takes in steps, searches, tokens, seconds and dollars.

Invariant: a whole task and each group of its questions are measured here alone, so that their numbers have one meaning; an
amount is known of all episodes or of none, so that a mean never leaves out what could not be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fireact.errors import DataError
from fireact.evaluation.accuracy import accuracy
from fireact.evaluation.failures import searches
from fireact.evaluation.statistics import Estimate, amount, bootstrap, quantile
from fireact.types import Trajectory

AMOUNTS: Mapping[str, Callable[[Trajectory], float | None]] = {
    "steps": lambda one: len(one.steps),
    "searches": lambda one: searches(one).total(),
    "calls": lambda one: one.usage.calls,
    "tokens_per_question": lambda one: one.usage.prompt_tokens + one.usage.completion_tokens,
    "prompt_tokens": lambda one: one.usage.prompt_tokens,
    "cached_tokens": lambda one: one.usage.cached_tokens,
    "completion_tokens": lambda one: one.usage.completion_tokens,
    "latency_mean": lambda one: one.seconds,
    "cost_per_question": lambda one: one.usage.cost,
}
"""What a question takes: ``calls`` are of the LM and ``searches`` of tools, ``latency_mean`` is an episode's seconds,
``cost_per_question`` US dollars (None: a price is not known). Tokens that a cache spared are among the tokens."""


SCORES: Mapping[str, Callable[[Trajectory], float]] = {
    "em": lambda one: score(one, "em"),
    "f1": lambda one: score(one, "f1"),
    "accuracy": lambda one: accuracy(one) or 0.0,
    "finished": lambda one: float(one.stop == "finish"),
}
"""Shares, from 0 to 1."""

Measures = Mapping[str, Estimate | None]
"""``SCORES``, ``AMOUNTS``, and ``latency_p50`` and ``latency_p95`` of an episode's seconds, by name; None is not known."""


def measures(trajectories: Sequence[Trajectory], *, seed: int = 0) -> Measures:
    """Everything that is measured of episodes which no fault ended. Raises DataError where one has no EM or F1."""
    seconds = [one.seconds for one in trajectories]
    return {
        **{name: bootstrap([value(one) for one in trajectories], seed=seed) for name, value in SCORES.items()},
        **{name: _amount([value(one) for one in trajectories], seed) for name, value in AMOUNTS.items()},
        **{f"latency_p{share}": quantile(seconds, share / 100, seed=seed) for share in (50, 95)},
    }


def plain(found: Measures) -> dict[str, Any]:
    """Measures for JSON: ``em``, ``em_interval`` as [low, high], and so on."""
    shown: dict[str, Any] = {}
    for name, one in found.items():
        shown |= {name: one and one.mean, f"{name}_interval": one and one.interval}
    return shown


def score(trajectory: Trajectory, name: str) -> float:
    """A score of an episode. Raises DataError where it has none of that name."""
    if name not in trajectory.scores:
        known = ", ".join(trajectory.scores) or "none"
        raise DataError(f"episode {trajectory.key} has no score {name!r} (only {known}). A task must give em and f1.")
    return trajectory.scores[name]


def _amount(values: Sequence[float | None], seed: int) -> Estimate | None:
    known = [value for value in values if value is not None]
    return amount(known, seed=seed) if len(known) == len(values) else None
