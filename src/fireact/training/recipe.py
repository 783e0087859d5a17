"""A recipe: how a student is fine-tuned, in plain values that go into ``config.toml``; and the shipped recipes.

A recipe file is TOML with the fields of ``Recipe``; absent fields keep their defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, unknown_name_error
from fireact.training.schedule import SCHEDULES

KINDS = ("lora", "int8-lora", "qlora", "full")
"""LoRA on unquantised weights, on 8-bit weights (as in the paper), on 4-bit weights; and full fine-tuning."""
ADAPTED = ("lora", "int8-lora", "qlora")
QUANTISED = ("int8-lora", "qlora")
UPPERMOST = 10
"""The number of uppermost blocks that are trained by default; a smaller student trains all of its blocks."""
TRAIN_ON = ("student", "all")
"""The student's own words, or every token: questions, observations and the chat template's too."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune: by default LoRA (Hu et al. 2021) on the upper blocks. Raises ConfigError for an invalid value.

    ``kind`` is one of ``KINDS``. ``targets`` are the names of the linear layers that are adapted (all when empty).
    ``blocks`` is the number of uppermost blocks that are trained; 0 means all, None (left out) the upper ``UPPERMOST``,
    or all where there are fewer. ``batch_size`` is the number of trajectories per optimizer step, of which
    ``micro_batch`` (0: all) are computed at a time. ``max_length`` is in tokens; longer samples are left out.
    ``warmup`` below 1 is a share of all steps, from 1 on a number of steps. A checkpoint is written every
    ``save_every`` steps. ``validation`` is the share of questions to hold out and measure on after each epoch. Training
    stops after ``patience`` epochs without a better validation loss (0: never) and keeps the best weights.
    ``train_on`` is one of ``TRAIN_ON`` and selects the tokens of the loss.

    The paper adapts all blocks with rank 8 for 30 epochs at 3e-4 (``paper-lora``). A small student learns the format
    faster at a higher rate, and more cheaply in its upper third.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: Sequence[str] = ()
    blocks: int | None = None
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 4
    micro_batch: int = 0
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_length: int = 1024
    save_every: int = 5
    validation: float = 0.0
    patience: int = 0
    train_on: str = "student"
    seed: int = 0

    def __post_init__(self) -> None:
        for entry in fields(self):
            self._check_type(entry.name, str(entry.type))
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.kind not in KINDS:
            raise unknown_name_error("kind of the recipe", self.kind, KINDS)
        if self.train_on not in TRAIN_ON:
            raise unknown_name_error("train_on of the recipe", self.train_on, TRAIN_ON)
        if self.schedule not in SCHEDULES:
            raise unknown_name_error("schedule of the recipe", self.schedule, SCHEDULES)
        for name in ("rank", "alpha", "epochs", "batch_size", "max_length", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("blocks", "micro_batch", "patience", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be 0 or more.")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"recipe: learning_rate is {self.learning_rate}; it must be between 0 and 1.")
        for name in ("dropout", "weight_decay", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be at least 0 and below 1.")
        if self.warmup < 0 or (self.warmup > 1 and self.warmup % 1):
            raise ConfigError(f"recipe: warmup is {self.warmup}; it must be a share below 1 or a number of steps.")

    def count_trained_blocks(self, blocks: int) -> int:
        """The number of trained blocks of a student with ``blocks``. Raises ConfigError where it has too few."""
        if self.blocks is None:
            return min(UPPERMOST, blocks)
        if self.blocks > blocks:
            raise ConfigError(
                f"recipe: blocks is {self.blocks}, but the student has {blocks}. Lower it, or give 0 for all."
            )
        return self.blocks or blocks

    def _check_type(self, name: str, type_name: str) -> None:
        """Raise ConfigError for a value of the wrong type, such as ``epochs = 2.5`` or ``rank = true``."""
        value = getattr(self, name)
        if name == "targets":
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"recipe: targets is {value!r}; it must be a list of names of layers.")
            return
        if value is None and type_name.endswith("None"):
            return
        type_name = type_name.removesuffix(" | None")
        allowed = {"str": (str,), "int": (int,), "float": (int, float)}[type_name]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ConfigError(f"recipe: {name} is {value!r}; it must be of type {type_name}.")


def list_recipes() -> list[str]:
    """The names of the recipes that ship with the package."""
    return sorted(file.name.removesuffix(".toml") for file in files("fireact.training").joinpath("recipes").iterdir())


def read_recipe(name: str, **changes: Any) -> Recipe:
    """Read a shipped recipe by name, or a TOML file; ``changes`` replace its values. Raises ConfigError."""
    path = Path(name)
    if name in list_recipes():
        text = files("fireact.training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        raise unknown_name_error("recipe", name, [*list_recipes(), "a TOML file"])
    try:
        values = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"recipe {name}: not TOML ({error}).") from error
    field_names = [entry.name for entry in fields(Recipe)]
    for key in values:
        if key not in field_names:
            raise unknown_name_error(f"setting of the recipe {name}", key, field_names)
    return Recipe(**{**values, **changes})
