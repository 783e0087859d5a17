"""Cross-entropy from hidden states, with a frozen head, in chunks: the logits of all targets never exist at once.

The gradient of the hidden states is computed beside the loss, while the logits of a chunk are at hand. Invariant: loss
and gradient are those of cross-entropy over all logits, up to the rounding of the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fireact.models.packed import PackedLinear, copy_frozen
from fireact.training.memory import TARGETS_AT_A_TIME


class HeadLoss:
    """The weighted sum of cross-entropy over targets, for a head without trained weights on the CPU."""

    def __init__(self, head: nn.Linear, dtype: torch.dtype) -> None:
        self._product, self._dtype = PackedLinear(copy_frozen(head, dtype)), dtype

    def __call__(self, hidden: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The sum for hidden states [targets, width], labels [targets], and weights [targets] (None: all 1)."""
        total: Tensor = _ChunkedLoss.apply(hidden.to(self._dtype), self._product, labels, weights)  # type: ignore[no-untyped-call]
        return total


class _ChunkedLoss(Function):
    @staticmethod
    def forward(context: Any, hidden: Tensor, head: PackedLinear, labels: Tensor, weights: Tensor | None) -> Tensor:
        total, gradient = torch.zeros(()), torch.empty_like(hidden)
        for start in range(0, len(labels), TARGETS_AT_A_TIME):
            rows = slice(start, start + TARGETS_AT_A_TIME)
            odds, chunk_labels = head(hidden[rows]).float(), labels[rows, None]
            right = odds.gather(1, chunk_labels)
            sums = odds.logsumexp(1, keepdim=True)
            losses = sums - right
            # The gradient of a logit is its probability, less 1 for the label.
            odds.sub_(sums).exp_().scatter_add_(1, chunk_labels, -torch.ones_like(losses))
            if weights is not None:
                losses, odds = losses * weights[rows, None], odds.mul_(weights[rows, None])
            total += losses.sum()
            gradient[rows] = head.input_gradient(odds.to(hidden.dtype))
        context.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = context.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None, None
