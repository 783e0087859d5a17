"""Linear layers with weights in oneDNN's memory layout: on a CPU they multiply two to four times as fast.

Invariant: a packed layer has the same output and input gradient as its ``nn.Linear``, up to rounding; its weight is
frozen. Layers on other devices or of other types stay unchanged, and so do biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 16
"""Number of rows for which the layout is chosen; by measurement it serves one row and thousands equally well."""


class PackedLinear(nn.Module):
    """A frozen ``nn.Linear`` in oneDNN's layout: input [..., in_features], output [..., out_features]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self._packed = pack_weight(linear.weight.detach())
        self._transposed: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        if torch.is_grad_enabled() and values.requires_grad:
            result: Tensor = _FrozenLinear.apply(values, self)  # type: ignore[no-untyped-call]
            return result
        return multiply_packed(values, self._packed, self.bias)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to the input; the transposed weight is packed when it is first needed."""
        if self._transposed is None:
            self._transposed = pack_weight(self._packed.to_dense().t().contiguous())
        return multiply_packed(gradient.contiguous(), self._transposed)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, layer: PackedLinear) -> Tensor:
        context.layer = layer
        return multiply_packed(values, layer._packed, layer.bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.layer.input_gradient(gradients[0]), None


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch can pack weights of a type (for x86), and this processor can multiply them."""
    is_available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not is_available or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack_linears(model: nn.Module) -> nn.Module:
    """Pack every ``nn.Linear`` that can be in place, one after the other, so that memory does not double."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, pack_linear(child))
    return model


def pack_linear(linear: nn.Linear) -> nn.Module:
    """A linear layer packed, where it is on the CPU and this build of torch can pack its type."""
    weight = linear.weight
    return PackedLinear(linear) if weight.device.type == "cpu" and can_pack(weight.dtype) else linear


def copy_frozen(linear: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """A linear layer with the same values in another type, which are not trained."""
    copy = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    copy.weight = nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
    if linear.bias is not None:
        copy.bias = nn.Parameter(linear.bias.detach().to(dtype), requires_grad=False)
    return copy


def join_linears(parent: nn.Module, names: Sequence[str]) -> nn.Module:
    """Linear layers of one input as one packed layer, whose output has theirs side by side; ``parent`` loses them."""
    linears: list[Any] = [getattr(parent, name) for name in names]
    for name in names:
        delattr(parent, name)  # so that memory does not double
    joined = linears[0]
    if len(linears) > 1:
        with torch.device("meta"):
            joined = nn.Linear(joined.in_features, sum(linear.out_features for linear in linears), bias=False)
        joined.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]), requires_grad=False)
        if any(linear.bias is not None for linear in linears):
            joined.bias = nn.Parameter(torch.cat([_get_bias(linear) for linear in linears]), requires_grad=False)
    return pack_linear(joined)


def _get_bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()


def pack_weight(weight: Tensor) -> Tensor:
    """A weight [out_features, in_features] in oneDNN's layout."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, ROWS)
    return packed


def multiply_packed(values: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """What ``nn.functional.linear`` computes, with a packed weight."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(values, packed, bias, "none", [], "")
    return result
