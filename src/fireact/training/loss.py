"""The loss: mean cross-entropy over target tokens by their weights, with logits made where there is a label and nowhere else.

What the frozen blocks compute is kept (``halves``). Always the model's own forward is called, whatever it does between
its blocks and its logits, and whatever wraps it. Invariant: it is the loss that all logits and a mask would give.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fireact.errors import ConfigError, unknown
from fireact.render.tokens import IGNORED, Sample
from fireact.training.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor


BFLOAT16 = "FIREACT_BFLOAT16"
"""Environment variable: ``on`` or ``off`` decides whether products are bfloat16; unset, the hardware decides."""


def has_bfloat16() -> bool:
    """Whether training multiplies in bfloat16: where the hardware does so itself, unless FIREACT_BFLOAT16 decides.

    Emulated bfloat16 is slower than float32. Raises ConfigError for a value of the variable that is not on or off.
    """
    import torch

    choice = os.environ.get(BFLOAT16, "")
    if choice not in ("", "on", "off"):
        raise unknown(f"value of {BFLOAT16}", choice, ("on", "off"))
    if choice:
        return choice == "on"
    if device() != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def need_gpu(kind: str) -> None:
    """Raise ConfigError for a recipe's kind that there is no GPU for."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"recipe kind {kind!r} needs a GPU; there is none. Use kind lora (or the recipe default).")


def device() -> str:
    """Where training runs: this process's GPU where there is one, unless accelerate was told to use the CPU."""
    import torch

    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true":
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


KEPT = 16
"""Samples of which the frozen blocks are computed at a time, unless fewer are asked for."""


class TargetLoss:
    """Cross-entropy over a batch's target tokens; keeps what the frozen blocks compute."""

    def __init__(self, model: Any, samples: Sequence[Sample], *, frozen: int, at_a_time: int = KEPT) -> None:
        import torch

        from fireact.training.halves import Halves

        started = time.perf_counter()
        self.samples, self.model = samples, model
        self.device = torch.device(device())
        self.bfloat16 = has_bfloat16()
        self.head = model.get_output_embeddings()
        halves = Halves(model, frozen=frozen)
        probe = torch.tensor([max((sample.input_ids for sample in samples), key=len)], device=self.device)
        self.halves = halves if not frozen or halves.check(probe) else Halves(model, frozen=0)
        self.kept: dict[int, Tensor] = {}
        if self.halves.frozen:
            with self.autocast():
                self.kept = dict(
                    self.halves.keep([sample.input_ids for sample in samples], batch_size=min(KEPT, at_a_time))
                )
        self.seconds = time.perf_counter() - started

    def autocast(self) -> Any:
        """bfloat16 products where the hardware has them; weights, sums and the loss stay float32."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean over the target tokens of a batch, by their weights."""
        return self.total(batch) / self.weight(batch)

    def weight(self, batch: Batch) -> float:
        """The weights of all target tokens of a batch together; their number where all are 1."""
        return sum(self.samples[index].weight for index in batch)

    def targets(self, batch: Batch) -> int:
        return sum(self.samples[index].targets for index in batch)

    def total(self, batch: Batch) -> Tensor:
        """The sum over the target tokens of a batch, each with its weight."""
        import torch
        from torch.nn import functional

        logits, labels = self._logits(batch)
        chosen = [self.samples[index] for index in batch]
        if not any(sample.weights for sample in chosen):
            return functional.cross_entropy(logits.float(), labels, reduction="sum")
        weights = torch.tensor([one for sample in chosen for one in sample.weights or (1.0,) * sample.targets])
        return functional.cross_entropy(logits.float(), labels, reduction="none") @ weights.to(logits.device)

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
        if self.kept:
            inputs = {"inputs_embeds": pad([self.kept[index] for index in batch], value=0)}
        else:
            ids = pad([torch.tensor(self.samples[index].input_ids) for index in batch], value=0)
            inputs = {"input_ids": ids.to(self.device)}
        with self.autocast(), self._only(wanted), self.halves.upper() if self.kept else nullcontext():
            logits = self.model(**inputs, use_cache=False).logits
        return logits if logits.dim() == 2 else logits[:, :-1][wanted], labels[wanted]

    @contextmanager
    def _only(self, wanted: Tensor) -> Iterator[None]:
        """Let the model make logits [targets, vocabulary], where the next token is wanted, and nowhere else."""
        if self.head is None:
            yield
            return
        hook = self.head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][wanted],))
        try:
            yield
        finally:
            hook.remove()
