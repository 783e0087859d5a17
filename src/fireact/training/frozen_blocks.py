"""A causal LM in two parts: the lower blocks, which stay frozen, and the upper ones, which are trained.

The hidden states after the frozen blocks are the same in every epoch, so they are computed once and cached; an
optimizer step then runs the trained blocks alone. Invariant: frozen and trained blocks in turn compute what the whole
model computes. ``is_exact`` proves it for each model before training starts, since architectures differ in what happens
between their blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fireact.errors import ConfigError


class FrozenBlocks:
    """A model whose ``frozen`` lowest blocks run apart from the others. Hidden states are [batch, tokens, width]."""

    def __init__(self, model: Any, *, frozen: int) -> None:
        self.body, self.name, layers = find_blocks(model)
        blocks = list(layers)
        self._lower, self._upper = nn.ModuleList(blocks[:frozen]), nn.ModuleList(blocks[frozen:])
        self.frozen = frozen

    @torch.no_grad()
    def compute_hidden_states(self, input_ids: Tensor) -> Tensor:
        """The hidden states that enter the trained blocks, for right-padded ids [batch, tokens]."""
        with _swap_module(self.body, self.name, self._lower), _remove_final_norm(self.body):
            hidden: Tensor = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    @contextmanager
    def use_trained_blocks(self) -> Iterator[None]:
        """Within this context the model has its trained blocks alone: ``inputs_embeds`` are their hidden states."""
        with _swap_module(self.body, self.name, self._upper):
            yield

    @torch.no_grad()
    def is_exact(self, input_ids: Tensor) -> bool:
        """Whether frozen and trained blocks in turn compute what the whole model does, for ids [1, tokens]."""
        expected = self.body(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden = self.compute_hidden_states(input_ids)
        with self.use_trained_blocks():  # right padding needs no mask: attention is causal
            final = self.body(inputs_embeds=hidden, use_cache=False).last_hidden_state
        return torch.allclose(final, expected, rtol=1e-3, atol=1e-3)

    def iterate_hidden_states(
        self, samples: Sequence[Sequence[int]], *, batch_size: int = 16
    ) -> Iterator[tuple[int, Tensor]]:
        """(index, hidden states [tokens, width]) of every sample, computed in batches of similar length."""
        device = next(self.body.parameters()).device
        order = sorted(range(len(samples)), key=lambda index: len(samples[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            hidden = self.compute_hidden_states(
                pad_right([torch.tensor(samples[index]) for index in chosen], value=0).to(device)
            )
            for row, index in enumerate(chosen):
                yield index, hidden[row, : len(samples[index])].clone()


def pad_right(rows: Sequence[Tensor], *, value: int) -> Tensor:
    """Rows of unequal length as one tensor, padded on the right."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def find_blocks(model: Any) -> tuple[Any, str, nn.ModuleList]:
    """Find the blocks of a causal LM: the module around them, their name in it, and the blocks themselves.

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


def find_final_norm(body: nn.Module) -> str | None:
    """The name of the norm after the blocks; None where there is none."""
    names = [name for name, child in body.named_children() if "norm" in type(child).__name__.lower()]
    return names[-1] if names else None


@contextmanager
def _swap_module(body: Any, name: str, replacement: nn.Module) -> Iterator[None]:
    """Replace a child of the body within this context."""
    original = body._modules[name]
    body._modules[name] = replacement
    try:
        yield
    finally:
        body._modules[name] = original


@contextmanager
def _remove_final_norm(body: Any) -> Iterator[None]:
    name = find_final_norm(body)
    if name is None:
        yield
        return
    with _swap_module(body, name, nn.Identity()):
        yield
