"""What a question takes: steps, searches, calls, tokens, seconds and dollars.

Invariant: an amount is known of all episodes or of none, so that a mean never leaves out what could not be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fireact.evaluation.failures import searches
from fireact.evaluation.statistics import Estimate, amount
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


def amount_of(trajectories: Sequence[Trajectory], name: str, *, seed: int = 0) -> Estimate | None:
    """The mean of an amount with its interval; None where an episode does not tell it."""
    values = [AMOUNTS[name](one) for one in trajectories]
    known = [value for value in values if value is not None]
    return amount(known, seed=seed) if len(known) == len(values) else None
