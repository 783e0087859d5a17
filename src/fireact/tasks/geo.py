"""The tasks of the embedded world: three to train on, similar to the paper's, and one held out, like Bamboogle.

geo-hop      free-form, two and three hops and comparisons, like HotpotQA
geo-yesno    yes or no, like StrategyQA
geo-choice   four options, answered by letter, like MMLU
geo-compose  kinds of questions that the others do not have; evaluation only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from fireact.errors import unknown_name_error
from fireact.tasks.scoring import score_choice, score_free_form, score_yes_no
from fireact.types import Example, Limits
from fireact.world.facts import Split
from fireact.world.questions import generate_examples

LIMITS = Limits(max_steps=8, max_tokens=96, reflect_at=(3, 6))
"""Chains have two to four facts, so steps are fewer than the paper's, and reflections earlier."""


@dataclass(frozen=True, slots=True)
class GeoTask:
    """One task of the embedded world."""

    name: str
    scorer: Callable[[str, str | None], dict[str, float]]
    splits: tuple[Split, ...] = ("train", "dev", "test")
    limits: Limits = LIMITS

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split, in fixed order. Raises ConfigError for a split that the task does not have."""
        for known_split in self.splits:
            if known_split == split:
                return generate_examples(self.name, known_split)
        held_out = f"{self.name} is held out: it is never trained on." if split in get_args(Split) else ""
        raise unknown_name_error(f"split of {self.name}", split, self.splits, note=held_out)

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return self.scorer(example.answer, answer)


def geo_hop() -> GeoTask:
    """Free-form questions of two and three hops, and comparisons."""
    return GeoTask("geo-hop", score_free_form)


def geo_yesno() -> GeoTask:
    """Yes/no questions."""
    return GeoTask("geo-yesno", score_yes_no)


def geo_choice() -> GeoTask:
    """Multiple choice with four options."""
    return GeoTask("geo-choice", score_choice)


def geo_compose() -> GeoTask:
    """Held-out kinds of questions, for evaluation only."""
    return GeoTask("geo-compose", score_free_form, splits=("dev", "test"))
