"""A causal LM in two halves: the lower blocks, which stay frozen, and the upper ones, which are trained.

What the lower half makes of a sample is the same in every epoch, so it is computed once and kept; an optimizer step
then runs the upper half alone. Invariant: upper(lower(ids)) is what the whole model computes; ``check`` proves it for
the model at hand before training starts, since architectures differ in what happens between their blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Halves:
    """The halves of a model whose ``frozen`` lowest blocks stay frozen. Hidden states are [batch, tokens, width]."""

    def __init__(self, model: Any, *, frozen: int) -> None:
        self.body = _body(model)
        self.head: nn.Module = model.get_output_embeddings()
        blocks = list(self.body.layers)
        self._lower, self._upper = nn.ModuleList(blocks[:frozen]), nn.ModuleList(blocks[frozen:])
        self.frozen = frozen

    @torch.no_grad()
    def lower(self, input_ids: Tensor) -> Tensor:
        """The hidden states that enter the trained blocks, of right-padded ids [batch, tokens]."""
        with _only(self.body, self._lower, norm=False):
            hidden: Tensor = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    def upper(self, hidden: Tensor) -> Tensor:
        """The final hidden states, normalised. Padding on the right needs no mask: attention looks to the left."""
        with _only(self.body, self._upper, norm=True):
            final: Tensor = self.body(inputs_embeds=hidden, use_cache=False).last_hidden_state
        return final

    @torch.no_grad()
    def check(self, input_ids: Tensor) -> bool:
        """Whether both halves in turn compute what the whole model does, for ids [1, tokens]."""
        whole = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        return torch.allclose(self.upper(self.lower(input_ids)), whole, rtol=1e-3, atol=1e-3)

    def keep(self, samples: Sequence[Sequence[int]], *, batch_size: int = 16) -> Iterator[tuple[int, Tensor]]:
        """(index, hidden states [tokens, width]) of every sample, computed in batches of like length."""
        order = sorted(range(len(samples)), key=lambda index: len(samples[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            hidden = self.lower(pad([torch.tensor(samples[index]) for index in chosen], value=0))
            for row, index in enumerate(chosen):
                yield index, hidden[row, : len(samples[index])].clone()


def pad(rows: Sequence[Tensor], *, value: int) -> Tensor:
    """Rows of unequal length as one tensor, padded on the right."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def _body(model: Any) -> Any:
    """The decoder inside a causal LM, adapted or not: what holds the blocks and the final norm."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_decoder()


@contextmanager
def _only(body: Any, blocks: nn.ModuleList, *, norm: bool) -> Iterator[None]:
    """Run the decoder with these blocks alone, and without its final norm unless ``norm``."""
    held = body._modules["layers"], body._modules["norm"]
    body._modules["layers"] = blocks
    if not norm:
        body._modules["norm"] = nn.Identity()
    try:
        yield
    finally:
        body._modules["layers"], body._modules["norm"] = held
