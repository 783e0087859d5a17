"""Llama-like blocks that train in few operations: packed frozen weights, joined LoRA products, a lean attention.

A block keeps its modules, so that PEFT saves and loads its adapter as ever; its ``forward`` alone is exchanged. Frozen
weights are kept in the type that training multiplies in, packed for both directions, and no longer in float32.
Invariant: loss and gradients are those of transformers' and PEFT's own forward pass, up to the rounding of that type.
Blocks of other families, with dropout, or with trained weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fireact.models.packed import PackedLinear, can_pack, join_linears
from fireact.training.frozen_blocks import find_blocks

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""Classes of transformers whose blocks compute what ``_JoinedBlock`` does."""
QUERIES_AT_A_TIME = 256
"""Queries whose scores the backward pass of attention computes at a time; they see no later keys."""
SOURCES = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "mlp": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}


def join_blocks(model: Any, *, dtype: torch.dtype) -> int:
    """Exchange the forward pass of every block that can be, in place, for products in ``dtype``; returns how many."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if type(base).__name__ not in FAMILIES or not can_pack():
        return 0
    layers = [layer for layer in find_blocks(model)[2] if _can_join(layer)]
    for layer in layers:
        layer.forward = _JoinedBlock(layer, dtype).forward
    return len(layers)


def _can_join(layer: Any) -> bool:
    linears = [getattr(parent, name) for parent in (layer.self_attn, layer.mlp) for name in _list_linears(parent)]
    return all(_is_joinable(linear) for linear in linears) and not layer.input_layernorm.weight.requires_grad


def _list_linears(parent: nn.Module) -> list[str]:
    return [name for names in SOURCES.values() for name in names if hasattr(parent, name)]


def _is_joinable(linear: Any) -> bool:
    base = getattr(linear, "base_layer", linear)
    if type(base) is not nn.Linear or base.weight.requires_grad or base.weight.device.type != "cpu":
        return False
    adapters = getattr(linear, "lora_A", {})
    return not adapters or (
        list(adapters) == list(linear.active_adapters)
        and len(adapters) == 1
        and all(isinstance(dropout, nn.Identity) for dropout in linear.lora_dropout.values())
        and not any(linear.use_dora.values())
    )


class _JoinedBlock:
    """The forward pass of one block; hidden states are [batch, tokens, width] and stay float32."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._dtype, self._scaling, self._head_width = dtype, attention.scaling, attention.head_dim
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._activation = mlp.act_fn
        self._qkv, self._out = (_AdaptedProduct(attention, SOURCES[name], dtype) for name in ("qkv", "out"))
        self._mlp, self._down = (_AdaptedProduct(mlp, SOURCES[name], dtype) for name in ("mlp", "down"))
        self._heads = self._out.product.in_features // self._head_width

    def forward(self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """What the block of transformers computes, without a cache and with right padding."""
        cosine, sine = (each.unsqueeze(1) for each in position_embeddings)
        joined = self._qkv(self._normalise(hidden_states, 0))
        attended = _Attention.apply(joined, cosine, sine, self._heads, self._head_width, self._scaling)  # type: ignore[no-untyped-call]
        hidden = hidden_states + self._out(attended)
        inner: Tensor = _GatedUnit.apply(self._mlp(self._normalise(hidden, 1)))  # type: ignore[no-untyped-call]
        return hidden + self._down(inner)

    def _normalise(self, hidden: Tensor, index: int) -> Tensor:
        norm = self._norms[index]
        result: Tensor = _Norm.apply(hidden, norm.weight, norm.variance_epsilon, self._dtype)  # type: ignore[no-untyped-call]
        return result


class _AdaptedProduct:
    """Linear layers of one input as one packed product, and their LoRA products as two."""

    def __init__(self, parent: Any, names: Sequence[str], dtype: torch.dtype) -> None:
        layers = [getattr(parent, name) for name in names]
        frozen = nn.Module()
        for name, layer in zip(names, layers, strict=True):
            base = getattr(layer, "base_layer", layer)
            copy = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
            copy.weight = nn.Parameter(base.weight.detach().to(dtype), requires_grad=False)
            if base.bias is not None:
                copy.bias = nn.Parameter(base.bias.detach().to(dtype), requires_grad=False)
            frozen.add_module(name, copy)
            base.weight.data = base.weight.data.new_empty(0)  # the packed copy takes its place
        self.product: Any = join_linears(frozen, names)
        self._adapted = [layer for layer in layers if getattr(layer, "lora_A", None)]
        self._widths = [getattr(layer, "base_layer", layer).out_features for layer in layers]
        self._layers, self._dtype = layers, dtype

    def __call__(self, values: Tensor) -> Tensor:
        """Values [batch, tokens, inputs] to [batch, tokens, outputs of all layers]."""
        if not self._adapted:
            plain: Tensor = self.product(values)
            return plain
        result: Tensor = _LoraProduct.apply(values, self.product, *self._join_adapters())  # type: ignore[no-untyped-call]
        return result

    def _join_adapters(self) -> tuple[Tensor, Tensor]:
        """The first factors one below the other [ranks, inputs], and the second ones as blocks [outputs, ranks]."""
        first, second = [], []
        for layer, width in zip(self._layers, self._widths, strict=True):
            if layer not in self._adapted:
                second.append(self._first_weight(self._adapted[0]).new_zeros(width, 0))
                continue
            name = next(iter(layer.lora_A))
            first.append(layer.lora_A[name].weight)
            second.append(layer.lora_B[name].weight * layer.scaling[name])
        joined = torch.cat(first) if len(first) > 1 else first[0]
        blocks = torch.block_diag(*second) if len(second) > 1 else second[0]
        return joined.to(self._dtype), blocks.to(self._dtype)

    def _first_weight(self, layer: Any) -> Tensor:
        weight: Tensor = layer.lora_A[next(iter(layer.lora_A))].weight
        return weight


class _LoraProduct(Function):
    """A frozen packed product plus LoRA: values @ W' + (values @ A') @ B', for rows of values."""

    @staticmethod
    def forward(context: Any, values: Tensor, product: PackedLinear, first: Tensor, second: Tensor) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        low = rows @ first.t()
        result: Tensor = product(rows)
        result.addmm_(low, second.t())
        context.save_for_backward(rows, first, second, low)
        context.product, context.shape = product, values.shape
        return result.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        rows, first, second, low = context.saved_tensors
        gradient = gradients[0].reshape(len(rows), -1)
        low_gradient = gradient @ second
        result = context.product.input_gradient(gradient)
        result.addmm_(low_gradient, first)
        return result.view(context.shape), None, low_gradient.t() @ rows, gradient.t() @ low


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
        rotated = _rotate(by_head[:, : heads + key_heads], cosine, sine).to(joined.dtype)
        query, key, value = rotated[:, :heads], rotated[:, heads:], by_head[:, heads + key_heads :].contiguous()
        output, weight_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            query, *(each.repeat_interleave(heads // key_heads, 1) for each in (key, value)), 0.0, True, scale=scaling
        )
        context.save_for_backward(query, key, value, output, weight_sums, cosine, sine)
        context.scaling = scaling
        return output.transpose(1, 2).reshape(batch, tokens, -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        query, key, value, output, weight_sums, cosine, sine = context.saved_tensors
        batch, heads, tokens, width = query.shape
        gradient = gradients[0].view(batch, tokens, heads, width).transpose(1, 2)
        parts = _attention_gradients(query, key, value, output, weight_sums, gradient, scaling=context.scaling)
        rotated = _rotate(torch.cat(parts[:2], 1), cosine, -sine)  # the inverse turns back
        joined = torch.cat((rotated.to(query.dtype), parts[2].to(query.dtype)), 1)
        return joined.transpose(1, 2).reshape(batch, tokens, -1), None, None, None, None, None


def _rotate(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of [batch, heads, tokens, width]; the halves of cosine and of sine are alike."""
    half = values.shape[-1] // 2
    signed = torch.cat((-sine[..., :half], sine[..., half:]), -1)
    return torch.addcmul(values * cosine, values.roll(half, -1), signed)


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
        scores = torch.bmm(queries, keys[:, :end].transpose(1, 2))
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
