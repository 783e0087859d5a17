"""Llama-like blocks that train in few operations: packed frozen weights, joined LoRA products, a lean attention.

A block keeps its modules, so that PEFT saves and loads its adapter as ever; its ``forward`` alone is exchanged. Frozen
weights are kept in the type that training multiplies in, packed for both directions, and no longer in float32.
Invariant: loss and gradients are those of transformers' and PEFT's own forward pass, up to the rounding of that type.
Blocks of other families, with dropout, a sliding window or trained weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fireact.base.machine import choose_product_dtype, training_device
from fireact.models.decoder import ATTENTION_LINEARS, LLAMA_LIKE, MLP_LINEARS, rotate, sign_sine
from fireact.models.packed import PackedLinear, can_pack, copy_frozen, join_linears
from fireact.training.frozen_blocks import find_blocks
from fireact.training.memory import TARGETS_AT_A_TIME

QUERIES_AT_A_TIME = 256
"""Queries whose scores the backward pass of attention computes at a time; they see no later keys."""


def can_join_blocks(model: Any) -> bool:
    """Whether all blocks of a model can be joined, and its head computes nothing that is trained."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if type(base).__name__ not in LLAMA_LIKE or base.config.hidden_act != "silu":
        return False
    if getattr(base.config, "sliding_window", None) or not can_pack(choose_product_dtype()):
        return False
    head = base.get_output_embeddings()
    return training_device() == "cpu" and all(map(_can_join, find_blocks(model)[2])) and _is_joinable(head)


def join_blocks(model: Any, *, dtype: torch.dtype) -> None:
    """Exchange the forward pass of all blocks in place, for products in ``dtype``."""
    for layer in find_blocks(model)[2]:
        layer.forward = _JoinedBlock(layer, dtype).forward


def _can_join(layer: Any) -> bool:
    linears = [part for part in layer.modules() if isinstance(part, nn.Linear) or hasattr(part, "base_layer")]
    factors = {id(part) for linear in linears for part in _list_factors(linear)}
    frozen = (layer.input_layernorm, layer.post_attention_layernorm)
    if hasattr(layer.self_attn, "q_norm"):  # of Qwen 3, which the joined blocks do not compute
        return False
    return all(_is_joinable(linear) for linear in linears if id(linear) not in factors) and not any(
        norm.weight.requires_grad for norm in frozen
    )


def _list_factors(linear: Any) -> list[nn.Module]:
    """The linear layers inside a layer of PEFT that hold its factors."""
    factors = (getattr(linear, name, {}).values() for name in ("lora_A", "lora_B"))
    return [factor for group in factors for factor in group]


def _is_joinable(linear: Any) -> bool:
    base = getattr(linear, "base_layer", linear)
    if type(base) is not nn.Linear or base.weight.requires_grad or base.weight.device.type == "cuda":
        return False
    adapters = getattr(linear, "lora_A", {})
    return not adapters or (
        list(adapters) == list(linear.active_adapters)
        and len(adapters) == 1
        and all(isinstance(dropout, nn.Identity) for dropout in linear.lora_dropout.values())
        and not any(linear.use_dora.values())
    )


class HeadLoss:
    """The weighted sum of cross-entropy over targets, for a head without trained weights on the CPU.

    Logits are computed in chunks, so those of all targets never exist at once.
    """

    def __init__(self, head: nn.Linear, dtype: torch.dtype) -> None:
        self._product, self._dtype = PackedLinear(copy_frozen(head, dtype)), dtype

    def __call__(self, hidden: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The sum for hidden states [targets, width], labels [targets], and weights [targets] (None: all 1)."""
        return _apply(_ChunkedLoss, hidden.to(self._dtype), self._product, labels, weights)


def _apply(function: Any, *values: Any) -> Tensor:
    """The result of an autograd function, which torch does not type."""
    result: Tensor = function.apply(*values)
    return result


class _JoinedBlock:
    """The forward pass of one block; hidden states are [batch, tokens, width] and stay float32."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._dtype, self._scaling, self._head_width = dtype, attention.scaling, attention.head_dim
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._qkv, self._out = (_AdaptedProduct(attention, names, dtype) for names in ATTENTION_LINEARS)
        self._mlp, self._down = (_AdaptedProduct(mlp, names, dtype) for names in MLP_LINEARS)
        self._heads = self._out.product.in_features // self._head_width

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """What the block of transformers computes, without a cache and with right padding."""
        if attention_mask is not None:
            raise ValueError("joined blocks take texts that are padded on the right, and no attention mask")
        cosine, sine = (each.unsqueeze(1) for each in position_embeddings)
        joined = self._qkv(self._normalise(hidden_states, 0))
        attended = _apply(_Attention, joined, cosine, sine, self._heads, self._head_width, self._scaling)
        hidden = hidden_states + self._out(attended)
        inner = _apply(_GatedUnit, self._mlp(self._normalise(hidden, 1)))
        output: Tensor = hidden + self._down(inner)
        return output

    def _normalise(self, hidden: Tensor, index: int) -> Tensor:
        norm = self._norms[index]
        return _apply(_Norm, hidden, norm.weight, norm.variance_epsilon, self._dtype)


class _AdaptedProduct:
    """Linear layers of one input as one packed product, with the LoRA products of those that have an adapter."""

    def __init__(self, parent: Any, names: Sequence[str], dtype: torch.dtype) -> None:
        self._dtype, self._adapters, start = dtype, list[_Adapter](), 0
        frozen = nn.Module()
        for name in names:
            layer = getattr(parent, name)
            base = getattr(layer, "base_layer", layer)
            frozen.add_module(name, copy_frozen(base, dtype))
            base.weight.data = base.weight.data.new_empty(0)  # the packed copy takes its place
            if getattr(layer, "lora_A", None):
                self._adapters.append(_Adapter(layer, slice(start, start + base.out_features)))
            start += base.out_features
        self.product: Any = join_linears(frozen, names)

    def __call__(self, values: Tensor) -> Tensor:
        """Values [batch, tokens, inputs] to [batch, tokens, outputs of all layers]."""
        if not self._adapters:
            plain: Tensor = self.product(values)
            return plain
        first = torch.cat([adapter.first for adapter in self._adapters]).to(self._dtype)
        second = [adapter.second.to(self._dtype) for adapter in self._adapters]
        outputs = [adapter.outputs for adapter in self._adapters]
        return _apply(_LoraProduct, values, self.product, outputs, first, *second)


@dataclass(frozen=True, slots=True)
class _Adapter:
    """The adapter of one layer, whose outputs are a slice of the joined ones."""

    layer: Any
    outputs: slice

    @property
    def first(self) -> Tensor:
        """A [rank, inputs], with LoRA's scale; read at each use, since loading a checkpoint may exchange it."""
        (name,) = self.layer.lora_A
        scaled: Tensor = self.layer.lora_A[name].weight * self.layer.scaling[name]
        return scaled

    @property
    def second(self) -> Tensor:
        """B [outputs, rank]."""
        (name,) = self.layer.lora_B
        weight: Tensor = self.layer.lora_B[name].weight
        return weight


class _LoraProduct(Function):
    """A frozen packed product plus LoRA: values @ W' + (values @ A') @ B' in the outputs of each adapter.

    ``first`` has the A of all adapters one below the other; their B follow.
    """

    @staticmethod
    def forward(
        context: Any, values: Tensor, product: PackedLinear, outputs: Sequence[slice], first: Tensor, *second: Tensor
    ) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        low = rows @ first.t()
        result: Tensor = product(rows)
        for columns, narrow, factor in zip(outputs, _split_ranks(low, second), second, strict=True):
            result[:, columns].addmm_(narrow, factor.t())
        context.save_for_backward(rows, low, first, *second)
        context.product, context.outputs, context.shape = product, outputs, values.shape
        return result.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, first, *second = context.saved_tensors
        gradient = gradients[0].reshape(len(rows), -1)
        parts = [gradient[:, columns] for columns in context.outputs]
        low_gradient = torch.cat([part @ factor for part, factor in zip(parts, second, strict=True)], 1)
        second_gradients = [
            (narrow.t() @ part).t() for narrow, part in zip(_split_ranks(low, second), parts, strict=True)
        ]
        result = None
        if context.needs_input_grad[0]:
            result = context.product.input_gradient(gradient).addmm_(low_gradient, first).view(context.shape)
        return result, None, None, low_gradient.t() @ rows, *second_gradients


def _split_ranks(values: Tensor, second: Sequence[Tensor]) -> Sequence[Tensor]:
    """Columns of each adapter's rank."""
    parts: Sequence[Tensor] = values.split([factor.shape[1] for factor in second], 1)  # type: ignore[no-untyped-call]
    return parts


class _Norm(Function):
    """RMSNorm with a frozen weight, from float32 to the type of the products."""

    @staticmethod
    def forward(context: Any, values: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        values = values.float()
        scale = values.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        context.save_for_backward(values, scale, weight)
        return (values * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        values, scale, weight = context.saved_tensors
        gradient = gradients[0] * weight  # float32, since the weight is
        shared = (gradient * values).mean(-1, keepdim=True).mul_(scale.square())
        return gradient.addcmul_(values, shared, value=-1).mul_(scale), None, None, None


class _GatedUnit(Function):
    """silu(gate) * up, where gate and up lie side by side in the last dimension."""

    @staticmethod
    def forward(context: Any, joined: Tensor) -> Tensor:
        context.save_for_backward(joined)
        gate, up = joined.chunk(2, -1)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (joined,) = context.saved_tensors
        (gate, up), gradient = joined.chunk(2, -1), gradients[0]
        result = torch.empty_like(joined)
        gate_gradient, up_gradient = result.chunk(2, -1)
        torch.mul(gradient, nn.functional.silu(gate), out=up_gradient)
        gate_gradient.copy_(torch.ops.aten.silu_backward(gradient * up, gate))
        return result


class _Attention(Function):
    """Causal attention with rotary embedding, on queries, keys and values that lie side by side.

    ``joined`` is [batch, tokens, (heads + 2 key heads) * width]; the result is [batch, tokens, heads * width]. The
    forward pass is torch's flash attention. The backward pass computes the weights again from its sums, in plain
    products, which are two times as fast on a CPU as the backward pass of flash attention.
    """

    @staticmethod
    def forward(
        context: Any, joined: Tensor, cosine: Tensor, sine: Tensor, heads: int, width: int, scaling: float
    ) -> Tensor:
        batch, tokens = joined.shape[:2]
        by_head = joined.view(batch, tokens, -1, width).transpose(1, 2)
        key_heads = (by_head.shape[1] - heads) // 2
        rotated = rotate(by_head[:, : heads + key_heads], cosine, sign_sine(sine)).to(joined.dtype)
        query, key, value = rotated[:, :heads], rotated[:, heads:], by_head[:, heads + key_heads :].contiguous()
        output, weight_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            query, *(each.repeat_interleave(heads // key_heads, 1) for each in (key, value)), 0.0, True, scale=scaling
        )
        context.save_for_backward(query, key, value, output, weight_sums, cosine, sine)
        context.scaling = scaling
        result: Tensor = output.transpose(1, 2).reshape(batch, tokens, -1)
        return result

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        query, key, value, output, weight_sums, cosine, sine = context.saved_tensors
        batch, heads, tokens, width = query.shape
        gradient = gradients[0].view(batch, tokens, heads, width).transpose(1, 2)
        parts = _attention_gradients(query, key, value, output, weight_sums, gradient, scaling=context.scaling)
        rotated = rotate(torch.cat(parts[:2], 1), cosine, sign_sine(-sine))  # the inverse turns back
        joined = torch.cat((rotated.to(query.dtype), parts[2].to(query.dtype)), 1)
        return joined.transpose(1, 2).reshape(batch, tokens, -1), None, None, None, None, None


def _attention_gradients(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, weight_sums: Tensor, gradient: Tensor, *, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values; ``weight_sums`` are logarithms [batch, heads, tokens]."""
    batch, heads, tokens, width = query.shape
    key_heads = key.shape[1]
    rows, group = batch * key_heads, heads // key_heads
    keys, values = key.reshape(rows, tokens, width), value.reshape(rows, tokens, width)
    # For a softmax, the gradient of a score is its weight times (its own gradient - the mean of them all).
    means = (gradient.float() * output).sum(-1)
    parts: list[Tensor] = []
    key_gradient, value_gradient = (torch.zeros(rows, tokens, width) for _ in range(2))
    for start in range(0, tokens, QUERIES_AT_A_TIME):
        end = min(tokens, start + QUERIES_AT_A_TIME)
        queries, gradients = (
            each[:, :, start:end].reshape(rows, group * (end - start), width) for each in (query, gradient)
        )
        sums, mean = (each[:, :, start:end].reshape(rows, group * (end - start), 1) for each in (weight_sums, means))
        scores = torch.bmm(queries.float(), keys[:, :end].float().transpose(1, 2))  # rounded, they err in exp()
        weights = torch.sub(scores * scaling, sums).exp_().view(rows, group, end - start, end)
        weights.tril_(start)  # a query sees no later key
        weights = weights.view(rows, -1, end)
        score_gradients = torch.sub(torch.bmm(gradients, values[:, :end].transpose(1, 2)), mean).mul_(weights)
        score_gradients = score_gradients.mul_(scaling).to(query.dtype)
        value_gradient[:, :end] += torch.bmm(weights.to(query.dtype).transpose(1, 2), gradients)
        key_gradient[:, :end] += torch.bmm(score_gradients.transpose(1, 2), queries)
        parts.append(torch.bmm(score_gradients, keys[:, :end]).view(batch, heads, end - start, width))
    shape = (batch, key_heads, tokens, width)
    return torch.cat(parts, 2), key_gradient.view(shape), value_gradient.view(shape)


class _ChunkedLoss(Function):
    """Computes the gradient of the hidden states beside the loss, while the logits of a chunk are at hand."""

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
