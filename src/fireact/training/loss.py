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

from fireact.base.machine import choose_product_dtype, has_bfloat16, training_device
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
        self,
        model: Any,
        samples: Sequence[Sample],
        *,
        frozen: int,
        cache_batch_size: int = CACHE_BATCH_SIZE,
        is_joined: bool = False,
    ) -> None:
        """``is_joined`` says that all blocks are joined, so that nothing lies between them, their norm and the head."""
        import torch

        from fireact.training.frozen_blocks import FrozenBlocks
        from fireact.training.joined_blocks import HeadLoss

        started = time.perf_counter()
        self.samples, self.model = samples, model
        self.device = torch.device(training_device())
        self.bfloat16 = has_bfloat16()
        self.head = model.get_output_embeddings()
        self.head_loss = HeadLoss(self.head, choose_product_dtype()) if is_joined else None
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

        batch_samples = [self.samples[index] for index in batch]
        weights = None
        if any(sample.weights for sample in batch_samples):
            weights = torch.tensor(
                [weight for sample in batch_samples for weight in sample.weights or (1.0,) * sample.targets]
            ).to(self.device)
        if self.head_loss is not None:
            hidden, labels = self._compute_hidden(batch)
            return self.head_loss(hidden, labels, weights)
        logits, labels = self._compute_logits(batch)
        if weights is None:
            return functional.cross_entropy(logits.float(), labels, reduction="sum")
        return functional.cross_entropy(logits.float(), labels, reduction="none") @ weights

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
        """Logits [targets, vocabulary] and labels [targets], sample after sample."""
        inputs, labels, is_target = self._prepare_inputs(batch)
        with self._limit_logits(is_target):
            logits = self._run_model(inputs)
        return logits if logits.dim() == 2 else logits[:, :-1][is_target], labels[is_target]

    def _compute_hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The hidden states that enter the head [targets, width], and labels [targets]; the head computes nothing."""
        inputs, labels, is_target = self._prepare_inputs(batch)
        hidden: list[Tensor] = []

        def divert(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            hidden.append(args[0][:, :-1][is_target])
            return (hidden[0][:0].detach(),)

        hook = self.head.register_forward_pre_hook(divert)
        try:
            self._run_model(inputs)
        finally:
            hook.remove()
        return hidden[0], labels[is_target]

    def _prepare_inputs(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The model's inputs, labels [batch, tokens - 1], and which of them are targets.

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
        return inputs, labels, is_target

    def _run_model(self, inputs: dict[str, Tensor]) -> Tensor:
        """The model's logits; from cached hidden states, its trained blocks alone run."""
        with (
            self.autocast(),
            self.frozen_blocks.use_trained_blocks() if self.cached_hidden_states else nullcontext(),
        ):
            logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits

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
