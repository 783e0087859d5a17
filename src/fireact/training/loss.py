"""The loss: mean cross-entropy over target tokens, with logits made where there is a label and nowhere else.

What the frozen blocks compute is kept (``halves``). Invariant: it is the loss that all logits and a mask would give.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fireact.errors import ConfigError
from fireact.machine import need_memory
from fireact.render.tokens import IGNORED, Sample
from fireact.training.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; where it is emulated, it is slower than float32."""
    import torch

    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def device() -> str:
    """Where training runs: the GPU where there is one, unless accelerate was told to use the CPU."""
    import os

    import torch

    return "cuda" if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU") != "true" else "cpu"


def need_room(model: Any, samples: Sequence[Sample], batches: Sequence[Batch], *, frozen: int) -> None:
    """Raise ConfigError when the largest batch would not fit into memory, so that no run dies of it hours later."""
    config = model.config.get_text_config()
    width, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    number = 2.5 if has_bfloat16() else 4.0  # bytes a kept activation, of which there are about 18 widths a block
    token = number * (config.num_hidden_layers - frozen) * (18 * width + 6 * inner)
    target = (8.0 if has_bfloat16() else 16.0) + number  # bytes a logit: it, its softmax, and the gradients of both

    def size(batch: Batch) -> float:
        tokens = len(batch) * max(len(samples[index].input_ids) for index in batch)
        targets = sum(samples[index].targets for index in batch)
        return float(token * tokens + target * config.vocab_size * targets)

    kept = 4.0 * width * sum(len(sample.input_ids) for sample in samples) if frozen else 0.0
    try:
        need_memory(gigabytes=(kept + max(map(size, batches))) / 1e9)
    except ConfigError as error:
        raise ConfigError(f"{error} Or give the recipe a smaller batch_size, max_length or blocks.") from error


class TargetLoss:
    """Cross-entropy over a batch's target tokens; keeps what the frozen blocks compute."""

    def __init__(self, model: Any, samples: Sequence[Sample], *, frozen: int) -> None:
        import torch

        from fireact.training.halves import Halves

        started = time.perf_counter()
        self.samples = samples
        self.device = next(model.parameters()).device
        self.bfloat16 = self.device.type != "cpu" or has_bfloat16()
        probe = torch.tensor([max((sample.input_ids for sample in samples), key=len)], device=self.device)
        halves = Halves(model, frozen=frozen)
        self.halves = halves if not frozen or halves.check(probe) else Halves(model, frozen=0)
        self.kept: dict[int, Tensor] = {}
        if self.halves.frozen:
            with self.autocast():
                self.kept = dict(self.halves.keep([sample.input_ids for sample in samples]))
        self.seconds = time.perf_counter() - started

    def autocast(self) -> Any:
        """bfloat16 products where the hardware has them; weights, sums and the loss stay float32."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean over the target tokens of a batch."""
        return self.total(batch) / self.targets(batch)

    def targets(self, batch: Batch) -> int:
        return sum(self.samples[index].targets for index in batch)

    def total(self, batch: Batch) -> Tensor:
        """The sum over the target tokens of a batch."""
        from torch.nn import functional

        logits, labels = self._logits(batch)
        return functional.cross_entropy(logits.float(), labels, reduction="sum")

    def measure(self, batch: Batch) -> tuple[float, int]:
        """The sum over the target tokens, and how many samples the model would write without a fault, greedily."""
        import torch
        from torch.nn import functional

        with torch.no_grad():
            logits, labels = self._logits(batch)
            right = (logits.argmax(-1) == labels).split([self.samples[index].targets for index in batch])  # type: ignore[no-untyped-call]
            total = functional.cross_entropy(logits.float(), labels, reduction="sum").item()
        return total, sum(bool(one.all()) for one in right)

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [targets, vocabulary] and labels [targets], sample after sample."""
        import torch

        from fireact.training.halves import pad

        labels = pad([torch.tensor(self.samples[index].labels) for index in batch], value=IGNORED)[:, 1:]
        labels = labels.to(self.device)
        wanted = labels != IGNORED
        with self.autocast():
            if self.kept:
                final = self.halves.upper(pad([self.kept[index] for index in batch], value=0))
            else:
                ids = pad([torch.tensor(self.samples[index].input_ids) for index in batch], value=0)
                final = self.halves.body(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
            logits = self.halves.head(final[:, :-1][wanted])
        return logits, labels[wanted]
