"""A recipe: how a student is fine-tuned, in plain values that go into ``config.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from fireact.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Recipe:
    """LoRA (Hu et al. 2021) on all linear layers of the upper blocks; ``max_length`` is in tokens a sample.

    ``blocks`` is how many of the uppermost blocks are adapted; 0 means all. The paper adapts all of them with rank 8 for
    30 epochs at 3e-4; a small student learns the format faster at a higher rate, and cheaper in its upper third.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    blocks: int = 10
    learning_rate: float = 2e-3
    epochs: int = 2
    batch_size: int = 8
    warmup: float = 0.1
    max_length: int = 1024
    save_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind != "lora":
            raise ConfigError(f"recipe kind {self.kind!r} is not known. Known: lora.")
        for name in ("rank", "alpha", "epochs", "batch_size", "max_length", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be at least 1.")
        if self.blocks < 0:
            raise ConfigError(f"recipe: blocks is {self.blocks}; it must be 0 (all) or more.")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"recipe: learning_rate is {self.learning_rate}; it must be between 0 and 1.")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is {getattr(self, name)}; it must be at least 0 and below 1.")
