"""The forward pass of Llama-like models for the engine, in few and large operations.

Queries, keys and values come from one product, and so do the two inner layers of the MLP. The last block and the head
compute only the tokens after which a token is predicted. Norms, rotary embedding and activation are the model's own
modules. Invariant: logits are those of transformers' own forward pass, up to rounding. A model of another family keeps
that pass, with ``attend`` in the place of its attention.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fireact.errors import ConfigError
from fireact.models.attention import ATTENTION_NAME, ForwardPass, attend
from fireact.models.packed import join_linears, pack_linear, pack_linears

LLAMA_LIKE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Classes of transformers whose blocks compute what ``_Block`` does."""
ATTENTION_LINEARS = (("q_proj", "k_proj", "v_proj"), ("o_proj",))
MLP_LINEARS = (("gate_proj", "up_proj"), ("down_proj",))
"""The linear layers of a block; those of one input are one product."""


def sign_sine(sine: Tensor) -> Tensor:
    """The sine for ``rotate``: by half a head, rotation is a roll with the sign of the first half turned."""
    half = sine.shape[-1] // 2
    return torch.cat((-sine[..., :half], sine[..., half:]), -1)


def rotate(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Rotary embedding along the last dimension, whose halves of cosine and of sine are alike."""
    rotated: Tensor = torch.addcmul(heads * cosine, heads.roll(heads.shape[-1] // 2, -1), signed_sine)
    return rotated


class Decoder(Protocol):
    """A model as the engine calls it."""

    def __call__(self, *, ids: Tensor, last: Tensor, batch: ForwardPass) -> Tensor:
        """Logits [predictions, vocabulary] after the tokens ``last`` of a pass, whose token ids are ``ids``."""
        ...


def build_decoder(model: Any) -> Decoder:
    """The fastest decoder of a causal LM of transformers, which it takes apart; weights stay where they are.

    Raises ConfigError for a model with attention that cannot be exchanged.
    """
    if type(model).__name__ in LLAMA_LIKE and _has_plain_linears(model):
        return LlamaDecoder(model)
    return TransformersDecoder(model)


def _has_plain_linears(model: Any) -> bool:
    block = model.model.layers[0]
    return all(type(layer) is nn.Linear for layer in (block.self_attn.q_proj, block.mlp.gate_proj, model.lm_head))


class TransformersDecoder:
    """Transformers' own forward pass, with ``attend`` as its attention."""

    def __init__(self, model: Any) -> None:
        _take_over_attention(model)
        self._model = pack_linears(model)

    def __call__(self, *, ids: Tensor, last: Tensor, batch: ForwardPass) -> Tensor:
        logits: Tensor = self._model(
            input_ids=ids[None],
            position_ids=batch.positions[None],
            use_cache=False,
            logits_to_keep=last if len(last) else ids.new_zeros(1),  # some models fail when asked for none
            batch=batch,
        ).logits[0]
        return logits[: len(last)]


class LlamaDecoder:
    """The blocks of a Llama-like model with joined products."""

    def __init__(self, model: Any) -> None:
        body = model.model
        self._embed, self._rotary, self._norm = body.embed_tokens, body.rotary_emb, body.norm
        self._blocks = [_Block(layer) for layer in body.layers]
        self._head = pack_linear(model.lm_head)

    def __call__(self, *, ids: Tensor, last: Tensor, batch: ForwardPass) -> Tensor:
        hidden = self._embed(ids)
        cosine, sine = (each[0].unsqueeze(1) for each in self._rotary(hidden, batch.positions[None]))
        sine = sign_sine(sine)
        for block in self._blocks[:-1]:
            hidden = block(hidden, cosine, sine, batch)
        hidden = self._blocks[-1](hidden, cosine, sine, batch, last)
        logits: Tensor = self._head(self._norm(hidden))
        return logits


class _Block:
    """One block; hidden states are [tokens, width]."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_idx, self._scaling, self._head_width = attention.layer_idx, attention.scaling, attention.head_dim
        self._heads, self._key_heads = (
            linear.out_features // self._head_width for linear in (attention.q_proj, attention.k_proj)
        )
        self._input_norm, self._mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self._query_norm: Any = getattr(attention, "q_norm", None)
        self._key_norm: Any = getattr(attention, "k_norm", None)
        self._activation = mlp.act_fn
        self._window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
        self._attention_in, self._attention_out = (join_linears(attention, names) for names in ATTENTION_LINEARS)
        self._mlp_in, self._mlp_out = (join_linears(mlp, names) for names in MLP_LINEARS)

    def __call__(
        self, hidden: Tensor, cosine: Tensor, sine: Tensor, batch: ForwardPass, rows: Tensor | None = None
    ) -> Tensor:
        """The next hidden states: of all tokens, or of those at ``rows`` alone."""
        attended = self._attend(self._input_norm(hidden), cosine, sine, batch)
        if rows is not None:
            hidden, attended = hidden[rows], attended[rows]
        hidden = hidden + self._attention_out(attended)
        gate, up = self._mlp_in(self._mlp_norm(hidden)).chunk(2, -1)
        result: Tensor = hidden + self._mlp_out(self._activation(gate) * up)
        return result

    def _attend(self, values: Tensor, cosine: Tensor, sine: Tensor, batch: ForwardPass) -> Tensor:
        heads = self._attention_in(values).view(len(values), -1, self._head_width)
        rotated = heads[:, : self._heads + self._key_heads]
        if self._query_norm is not None:
            rotated = torch.cat(
                (self._query_norm(rotated[:, : self._heads]), self._key_norm(rotated[:, self._heads :])), 1
            )
        rotated = rotate(rotated, cosine, sine)
        by_head = rotated.transpose(0, 1)[None]
        output, _ = attend(
            self,
            by_head[:, : self._heads],
            by_head[:, self._heads :],
            heads[:, self._heads + self._key_heads :].transpose(0, 1)[None],
            None,
            scaling=self._scaling,
            batch=batch,
            sliding_window=self._window,
        )
        return output[0].reshape(len(values), -1)


def _take_over_attention(model: Any) -> None:
    """Make transformers call ``attend``. Raises ConfigError for a model that would bypass it."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or not getattr(model, "_supports_attention_backend", False):
        obstacle = f"layers of kind {sorted(kinds)}" if kinds else "attention that cannot be exchanged"
        raise ConfigError(
            f"{type(model).__name__} has {obstacle}; in-process generation needs plain attention. "
            "Serve the model and name its endpoint."
        )
    AttentionInterface.register(ATTENTION_NAME, attend)
    model.set_attn_implementation(ATTENTION_NAME)
