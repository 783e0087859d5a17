"""The tasks of the embedded world: three to train on, shaped like the paper's, and one held out, like Bamboogle.

geo-hop      free-form, two and three hops and comparisons, like HotpotQA
geo-yesno    yes or no, like StrategyQA
geo-choice   four options, answered by letter, like MMLU
geo-compose  question shapes that none of the others has; evaluation only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from fireact.errors import ConfigError
from fireact.tasks.scoring import choice, free_form, yes_no
from fireact.types import Example, Limits
from fireact.world.facts import Split
from fireact.world.questions import examples

LIMITS = Limits(max_steps=8, max_tokens=96, reflect_at=(3, 6))
"""Chains are of two to four facts, so rounds are fewer than the paper's, and reflections earlier."""


@dataclass(frozen=True, slots=True)
class GeoTask:
    """One task of the embedded world."""

    name: str
    scorer: Callable[[str, str | None], dict[str, float]]
    splits: tuple[Split, ...] = ("train", "dev", "test")
    limits: Limits = LIMITS

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split, in fixed order. Raises ConfigError for a split that the task does not have."""
        for own in self.splits:
            if own == split:
                return examples(self.name, own)
        held_out = f" {self.name} is held out: it is never trained on." if split in get_args(Split) else ""
        raise ConfigError(f"{self.name} has no split {split!r}.{held_out} Known: {', '.join(self.splits)}.")

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return self.scorer(example.answer, answer)


def geo_hop() -> GeoTask:
    """Free-form questions of two and three hops, and comparisons."""
    return GeoTask("geo-hop", free_form)


def geo_yesno() -> GeoTask:
    """Yes/no questions."""
    return GeoTask("geo-yesno", yes_no)


def geo_choice() -> GeoTask:
    """Multiple choice with four options."""
    return GeoTask("geo-choice", choice)


def geo_compose() -> GeoTask:
    """Held-out question shapes, for evaluation only."""
    return GeoTask("geo-compose", free_form, splits=("dev", "test"))
