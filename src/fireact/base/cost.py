"""What a run will cost, before it is made, and what it did cost, afterwards.

Invariant: an amount that nobody knows is never guessed. A sum leaves it out and names it; a single amount is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What a run will take; ``uncounted``, ``unpriced`` and ``untimed`` name what its amounts leave out.

    ``searches`` are the paid ones, and ``tokens`` those of training in all epochs. ``details`` are what a dry run of
    the verb shows.
    """

    episodes: int = 0
    searches: int = 0
    tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    uncounted: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_terms(
        cls,
        *,
        tokens: Mapping[str, int | None] | None = None,
        dollars: Mapping[str, float | None] | None = None,
        seconds: Mapping[str, float | None] | None = None,
        **amounts: Any,
    ) -> CostEstimate:
        """The estimate of amounts by name, of which those that are not known are None."""
        sums: dict[str, Any] = {}
        for unit, unknown, terms in (
            ("tokens", "uncounted", tokens), ("dollars", "unpriced", dollars), ("seconds", "untimed", seconds),
        ):  # fmt: skip
            sums[unit] = sum(amount for amount in (terms or {}).values() if amount is not None)
            sums[unknown] = tuple(name for name, amount in (terms or {}).items() if amount is None)
        return cls(**sums, **amounts)

    def __add__(self, added: CostEstimate) -> CostEstimate:
        """What two runs take together, without their details; what both leave out is named once."""
        amounts: dict[str, Any] = {
            name: getattr(self, name) + getattr(added, name)
            for name in ("episodes", "searches", "tokens", "dollars", "seconds")
        }
        unknown: dict[str, Any] = {
            name: tuple(dict.fromkeys(getattr(self, name) + getattr(added, name)))
            for name in ("uncounted", "unpriced", "untimed")
        }
        return CostEstimate(**amounts, **unknown)


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs cost: dollars for models and jobs (None: a price is not known), seconds, and their episodes."""

    dollars: float | None = 0.0
    seconds: float = 0.0
    episodes: int = 0

    def __add__(self, added: Cost) -> Cost:
        dollars = None if self.dollars is None or added.dollars is None else self.dollars + added.dollars
        return Cost(dollars, self.seconds + added.seconds, self.episodes + added.episodes)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Cost:
        """The cost that a manifest records; the seconds of a training are those of the training alone."""
        usage, counts = manifest.get("usage", {}), manifest.get("counts", {})
        return cls(
            dollars=manifest.get("cost_usd", usage.get("cost", 0.0)),
            seconds=float(manifest.get("training_seconds", manifest.get("seconds", 0.0))),
            episodes=sum(count["n"] for count in counts.values()),
        )
