"""A recipe: how a student is fine-tuned, in plain values that go into ``config.toml``; and the shipped recipes.

A recipe file is TOML with the fields of ``Recipe``; absent fields keep their defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from fireact.base.names import list_shipped_files, read_shipped_file
from fireact.base.settings import check_settings, setting
from fireact.errors import ConfigError, unknown_name_error

KINDS = ("lora", "int8-lora", "qlora", "full")
"""LoRA on unquantised weights, on 8-bit weights (as in the paper), on 4-bit weights; and full fine-tuning."""
ADAPTED = ("lora", "int8-lora", "qlora")
QUANTISED = ("int8-lora", "qlora")
MAX_LENGTH = 1024
"""The longest sample in tokens where the recipe has no ``max_length``; recordings may need more."""
DATA, LORA, SCHEDULE = "Data", "LoRA", "Schedule"
"""Headings of options."""
SCHEDULES = ("cosine", "linear", "constant")
"""Curves along which the learning rate falls, after it has risen to its full value."""
TRAIN_ON = ("student", "all")
"""The student's own words, or every token: questions, observations and the chat template's too."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune: by default LoRA (Hu et al. 2021) on all blocks. Raises ConfigError for an invalid value.

    Training stops after ``patience`` epochs without a better validation loss (0: never) and keeps the best weights.
    ``train_on`` selects the tokens of the loss.

    The paper adapts all blocks with rank 8 for 30 epochs at 3e-4 (``paper-lora``). A small student learns the format
    faster at a higher rate.
    """

    kind: str = setting("lora", choices=KINDS, panel=LORA)
    """lora, int8-lora, qlora or full."""
    rank: int = setting(16, low=1, panel=LORA)
    """Rank of LoRA; alpha is set to twice the rank."""
    alpha: int = setting(32, low=1, is_option=False)
    """The strength of LoRA: its output is scaled by alpha / rank."""
    dropout: float = setting(0.0, low=0, below=1, is_option=False)
    """The share of LoRA's inputs that is dropped in training."""
    targets: Sequence[str] = setting((), is_option=False)
    """The names of the linear layers that are adapted; all when empty."""
    blocks: int = setting(0, low=0, panel=LORA, earlier_default=10)
    """Uppermost blocks that are trained; 0 is all."""
    learning_rate: float = setting(1e-3, flags=("--lr",), above=0, below=1, panel=SCHEDULE)
    """Highest learning rate."""
    epochs: int = setting(3, low=1, panel=SCHEDULE)
    """Passes over the data."""
    batch_size: int = setting(4, low=1, panel=SCHEDULE)
    """Trajectories in an optimizer step."""
    micro_batch: int = setting(0, low=0, panel=SCHEDULE)
    """Trajectories per forward pass; 0 is the whole step."""
    schedule: str = setting("cosine", choices=SCHEDULES, is_option=False)
    """The learning rate after the warm-up: cosine, linear or constant."""
    warmup: float = setting(0.1, low=0, is_option=False)
    """A share of all steps where it is below 1, else a number of steps."""
    weight_decay: float = setting(0.0, low=0, below=1, is_option=False)
    """Weight decay of the optimizer."""
    max_length: int | None = setting(None, low=1, panel=DATA, earlier_default=MAX_LENGTH)
    """Longest sample in tokens; longer ones are left out and counted. Default: 1024, or what recordings need."""
    save_every: int = setting(5, low=1, is_option=False)
    """Steps between two checkpoints."""
    validation: float = setting(0.0, low=0, below=1, panel=DATA)
    """Share of questions kept out to measure on."""
    patience: int = setting(0, low=0, panel=SCHEDULE)
    """Epochs without a better validation loss before it stops."""
    train_on: str = setting("student", choices=TRAIN_ON, is_option=False)
    """Tokens of the loss: student, the student's own words; or all."""
    seed: int = setting(0, low=0, panel=SCHEDULE)
    """Seed of initial weights and order."""

    def __post_init__(self) -> None:
        check_settings(self, "recipe")
        if self.warmup > 1 and self.warmup % 1:
            raise ConfigError(f"recipe: warmup is {self.warmup}; it must be a share below 1 or a number of steps.")

    def count_trained_blocks(self, blocks: int) -> int:
        """The number of trained blocks of a student with ``blocks``. Raises ConfigError where it has too few."""
        if self.blocks > blocks:
            raise ConfigError(
                f"recipe: blocks is {self.blocks}, but the student has {blocks}. Lower it, or give 0 for all."
            )
        return self.blocks or blocks


def list_recipes() -> list[str]:
    """The names of the recipes that ship with the package."""
    return list_shipped_files(_recipe_folder())


def _recipe_folder() -> Any:
    return files("fireact.training").joinpath("recipes")


def read_recipe(name: str, **changes: Any) -> Recipe:
    """Read a shipped recipe by name, or a TOML file; ``changes`` replace its values. Raises ConfigError."""
    values = read_shipped_file("recipe", name, _recipe_folder())
    field_names = [entry.name for entry in fields(Recipe)]
    for key in values:
        if key not in field_names:
            raise unknown_name_error(f"setting of the recipe {name}", key, field_names)
    return Recipe(**{**values, **changes})


def adapt_recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by name or file with changes; where the rank changes, alpha is set to twice the rank."""
    return read_recipe(name, **({"alpha": 2 * changes["rank"]} if "rank" in changes else {}), **changes)


def learning_rate_share(step: int, *, total: int, warmup: float, schedule: str) -> float:
    """The share of the full learning rate at ``step`` (from 0) of ``total``, above zero and at most one.

    ``warmup`` below 1 is a share of all steps, from 1 on a number of steps.
    """
    warmup_steps = math.ceil(warmup * total) if warmup < 1 else min(int(warmup), total)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    decay_progress = min((step - warmup_steps) / max(1, total - warmup_steps), 1.0)
    return 1.0 - decay_progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * decay_progress))
