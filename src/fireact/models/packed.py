"""Linear layers whose weights lie in memory as oneDNN wants them: on a CPU they multiply two to four times as fast.

Invariant: a packed layer computes what the ``nn.Linear`` computed, up to rounding, and its gradient with respect to its
input; its weight is frozen. Layers on other devices or of other kinds are left as they are. Biases stay as they were.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 16
"""The number of rows that the layout is chosen for; measured, it is as good for one row and for thousands."""


class PackedLinear(nn.Module):
    """A frozen ``nn.Linear`` in oneDNN's layout: input [..., in_features], output [..., out_features]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self._packed = _pack(linear.weight.detach())
        self._transposed: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        if torch.is_grad_enabled() and values.requires_grad:
            result: Tensor = _Frozen.apply(values, self)  # type: ignore[no-untyped-call]
            return result
        return _product(values, self._packed, self.bias)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to the input; the transposed weight is packed when it is first needed."""
        if self._transposed is None:
            self._transposed = _pack(self._packed.to_dense().t().contiguous())
        return _product(gradient.contiguous(), self._transposed, None)


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, layer: PackedLinear) -> Tensor:
        context.layer = layer
        return _product(values, layer._packed, layer.bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.layer.back(gradients[0]), None


def available() -> bool:
    """Whether this build of torch can pack float32 weights (its CPU builds for x86 can)."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def pack(model: nn.Module) -> nn.Module:
    """Replace every float32 ``nn.Linear`` on the CPU in place, one after the other, so that memory does not double."""
    if available():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and _fits(child.weight):
                    setattr(parent, name, PackedLinear(child))
    return model


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, ROWS)
    return packed


def _product(values: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(values, packed, bias, "none", [], "")
    return result
