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

from fireact.errors import ConfigError


class Halves:
    """The halves of a model whose ``frozen`` lowest blocks stay frozen. Hidden states are [batch, tokens, width]."""

    def __init__(self, model: Any, *, frozen: int) -> None:
        self.body, self.name, found = find_blocks(model)
        blocks = list(found)
        self._lower, self._upper = nn.ModuleList(blocks[:frozen]), nn.ModuleList(blocks[frozen:])
        self.frozen = frozen

    @torch.no_grad()
    def lower(self, input_ids: Tensor) -> Tensor:
        """The hidden states that enter the trained blocks, of right-padded ids [batch, tokens]."""
        with _swapped(self.body, self.name, self._lower), _without_norm(self.body):
            hidden: Tensor = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    @contextmanager
    def upper(self) -> Iterator[None]:
        """Inside it the model is its upper half: it takes what ``lower`` made as ``inputs_embeds``."""
        with _swapped(self.body, self.name, self._upper):
            yield

    @torch.no_grad()
    def check(self, input_ids: Tensor) -> bool:
        """Whether both halves in turn compute what the whole model does, for ids [1, tokens]."""
        whole = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden = self.lower(input_ids)
        with self.upper():  # padding on the right needs no mask: attention looks to the left
            final = self.body(inputs_embeds=hidden, use_cache=False).last_hidden_state
        return torch.allclose(final, whole, rtol=1e-3, atol=1e-3)

    def keep(self, samples: Sequence[Sequence[int]], *, batch_size: int = 16) -> Iterator[tuple[int, Tensor]]:
        """(index, hidden states [tokens, width]) of every sample, computed in batches of like length."""
        device = next(self.body.parameters()).device
        order = sorted(range(len(samples)), key=lambda index: len(samples[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            hidden = self.lower(pad([torch.tensor(samples[index]) for index in chosen], value=0).to(device))
            for row, index in enumerate(chosen):
                yield index, hidden[row, : len(samples[index])].clone()


def pad(rows: Sequence[Tensor], *, value: int) -> Tensor:
    """Rows of unequal length as one tensor, padded on the right."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def find_blocks(model: Any) -> tuple[Any, str, nn.ModuleList]:
    """The module that holds the blocks of a causal LM, adapted or not, the blocks' name in it, and the blocks.

    Raises ConfigError for a model without a list of as many blocks as its config says.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    count = base.config.get_text_config().num_hidden_layers
    for root in (base.get_decoder(), base):
        for module in root.modules() if root is not None else ():
            for name, child in module.named_children():
                if isinstance(child, nn.ModuleList) and len(child) == count:
                    return module, name, child
    raise ConfigError(
        f"the student, a {type(base).__name__}, has no list of {count} blocks, so it cannot be trained here. "
        "Choose a decoder-only causal LM."
    )


def final_norm(body: nn.Module) -> str | None:
    """The name of the norm behind the blocks; None where there is none."""
    names = [name for name, child in body.named_children() if "norm" in type(child).__name__.lower()]
    return names[-1] if names else None


@contextmanager
def _swapped(body: Any, name: str, other: nn.Module) -> Iterator[None]:
    """The body with another module in a place of its own."""
    held = body._modules[name]
    body._modules[name] = other
    try:
        yield
    finally:
        body._modules[name] = held


@contextmanager
def _without_norm(body: Any) -> Iterator[None]:
    name = final_norm(body)
    if name is None:
        yield
        return
    with _swapped(body, name, nn.Identity()):
        yield
