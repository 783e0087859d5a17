"""A recipe: how a student is fine-tuned, in plain values that go into ``config.toml``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fireact.errors import ConfigError, unknown
from fireact.training.schedule import SCHEDULES


@dataclass(frozen=True, slots=True)
class Recipe:
    """LoRA (Hu et al. 2021) on all linear layers of the upper blocks. Raises ConfigError for a senseless value.

    ``max_length`` is in tokens a sample (longer ones are left out), ``warmup`` is a share of all steps, and a
    checkpoint is written every ``save_every`` steps.

    ``blocks`` is how many of the uppermost blocks are adapted; 0 means all. The paper adapts all of them with rank 8
    for 30 epochs at 3e-4; a small student learns the format faster at a higher rate, and cheaper in its upper third.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    blocks: int = 10
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 4
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_length: int = 1024
    save_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind != "lora":
            raise ConfigError(f"recipe kind {self.kind!r} is not known. Known: lora.")
        for entry in fields(self):
            self._check_type(entry.name, str(entry.type))
        if self.schedule not in SCHEDULES:
            raise unknown("schedule of the recipe", self.schedule, SCHEDULES)
        for name in ("rank", "alpha", "epochs", "batch_size", "max_length", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("blocks", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be 0 or more.")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"recipe: learning_rate is {self.learning_rate}; it must be between 0 and 1.")
        for name in ("dropout", "warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be at least 0 and below 1.")

    def _check_type(self, name: str, wanted: str) -> None:
        """A file of settings may hold anything: ``epochs = 2.5``, ``rank = true``, ``learning_rate = "2e-3"``."""
        value = getattr(self, name)
        allowed = {"str": (str,), "int": (int,), "float": (int, float)}[wanted]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ConfigError(f"recipe: {name} is {value!r}; it must be of type {wanted}.")
