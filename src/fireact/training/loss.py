"""The loss: weighted mean cross-entropy over target tokens, with logits computed at positions with a label alone.

The hidden states after the frozen blocks are cached (``frozen_blocks``). The model's own forward is always called, so
that its steps between blocks and logits, and any wrappers, take part. Invariant: the loss equals that of all logits
with a mask.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fireact.base.machine import has_bfloat16, training_device
from fireact.errors import ConfigError
from fireact.render.tokens import IGNORED, Sample
from fireact.training.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor


def require_gpu(kind: str) -> None:
    """Raise ConfigError where there is no GPU, for a recipe kind that needs one."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"recipe kind {kind!r} needs a GPU; there is none. Use kind lora (or the recipe default).")


CACHE_BATCH_SIZE = 16
"""The largest number of samples that pass through the frozen blocks at a time."""


class TargetLoss:
    """Cross-entropy over the target tokens of a batch; caches the hidden states after the frozen blocks."""

    def __init__(
        self, model: Any, samples: Sequence[Sample], *, frozen: int, cache_batch_size: int = CACHE_BATCH_SIZE
    ) -> None:
        import torch

        from fireact.training.frozen_blocks import FrozenBlocks

        started = time.perf_counter()
        self.samples, self.model = samples, model
        self.device = torch.device(training_device())
        self.bfloat16 = has_bfloat16()
        self.head = model.get_output_embeddings()
        frozen_blocks = FrozenBlocks(model, frozen=frozen)
        probe = torch.tensor([max((sample.input_ids for sample in samples), key=len)], device=self.device)
        self.frozen_blocks = (
            frozen_blocks if not frozen or frozen_blocks.is_exact(probe) else FrozenBlocks(model, frozen=0)
        )
        self.cached_hidden_states: dict[int, Tensor] = {}
        if self.frozen_blocks.frozen:
            with self.autocast():
                self.cached_hidden_states = dict(
                    self.frozen_blocks.iterate_hidden_states(
                        [sample.input_ids for sample in samples], batch_size=min(CACHE_BATCH_SIZE, cache_batch_size)
                    )
                )
        self.seconds = time.perf_counter() - started

    def autocast(self) -> Any:
        """Multiply in bfloat16 where the hardware does so natively; weights, sums and the loss stay float32."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean over the target tokens of a batch, by their weights."""
        return self.sum_loss(batch) / self.total_weight(batch)

    def total_weight(self, batch: Batch) -> float:
        """The sum of the weights of a batch's target tokens; their number where all weights are 1."""
        return sum(self.samples[index].weight for index in batch)

    def count_targets(self, batch: Batch) -> int:
        return sum(self.samples[index].targets for index in batch)

    def sum_loss(self, batch: Batch) -> Tensor:
        """The weighted sum of the loss over the target tokens of a batch."""
        import torch
        from torch.nn import functional

        logits, labels = self._compute_logits(batch)
        batch_samples = [self.samples[index] for index in batch]
        if not any(sample.weights for sample in batch_samples):
            return functional.cross_entropy(logits.float(), labels, reduction="sum")
        weights = torch.tensor(
            [weight for sample in batch_samples for weight in sample.weights or (1.0,) * sample.targets]
        )
        return functional.cross_entropy(logits.float(), labels, reduction="none") @ weights.to(logits.device)

    def measure_batch(self, batch: Batch) -> tuple[float, int]:
        """The summed loss over the target tokens, and how many samples greedy decoding would write correctly."""
        import torch
        from torch.nn import functional

        with torch.no_grad():
            logits, labels = self._compute_logits(batch)
            target_counts = [self.samples[index].targets for index in batch]
            token_is_right = (logits.argmax(-1) == labels).split(target_counts)  # type: ignore[no-untyped-call]
            total = functional.cross_entropy(logits.float(), labels, reduction="sum").item()
        return total, sum(bool(is_right.all()) for is_right in token_is_right)

    def _compute_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [targets, vocabulary] and labels [targets], sample after sample.

        The logits at a position predict the next token, so labels are shifted by one: ``is_target`` marks the positions
        whose next token is a target.
        """
        import torch

        from fireact.training.frozen_blocks import pad_right

        labels = pad_right([torch.tensor(self.samples[index].labels) for index in batch], value=IGNORED)[:, 1:]
        labels = labels.to(self.device)
        is_target = labels != IGNORED
        if self.cached_hidden_states:
            inputs = {"inputs_embeds": pad_right([self.cached_hidden_states[index] for index in batch], value=0)}
        else:
            ids = pad_right([torch.tensor(self.samples[index].input_ids) for index in batch], value=0)
            inputs = {"input_ids": ids.to(self.device)}
        with (
            self.autocast(),
            self._limit_logits(is_target),
            self.frozen_blocks.use_trained_blocks() if self.cached_hidden_states else nullcontext(),
        ):
            logits = self.model(**inputs, use_cache=False).logits
        return logits if logits.dim() == 2 else logits[:, :-1][is_target], labels[is_target]

    @contextmanager
    def _limit_logits(self, is_target: Tensor) -> Iterator[None]:
        """Make the model compute logits [targets, vocabulary] only at positions whose next token is a target."""
        if self.head is None:
            yield
            return
        hook = self.head.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][is_target],))
        try:
            yield
        finally:
            hook.remove()
