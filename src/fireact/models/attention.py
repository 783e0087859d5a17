"""Attention over slots: every running text has its own rows of keys and values, and one forward pass serves them all.

A pass gets the tokens of all texts after each other as one sequence [1, tokens]: first one token of each text that is
being written, then stretches of prompts that are being read. transformers hands the ``Pass`` through to ``attend``.
Invariant: a token sees the rows of its own slot up to itself. Query heads that share a key head are taken as further
queries of it, so keys are never repeated, and a beginning that all writing slots have in common is read once for all of
them. It does not decide who writes or reads: that is the engine's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fireact.errors import ConfigError

NAME = "fireact_slots"
GROW = 256
"""Positions by which the rows of keys and values grow."""
CALL = 400
"""What one more call of the kernel costs, in positions of one slot that could be read in its stead (measured)."""
SHARE = 2048
"""Positions that must be saved by reading a common beginning once, before it is worth a second kernel and a merge."""


class KeyValues:
    """Keys and values of all blocks: for each a tensor [slots, key heads, positions, width], made at first use."""

    def __init__(self, slots: int) -> None:
        self._slots, self._positions = slots, 0
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, positions: int) -> None:
        """Make room for so many positions in every slot."""
        if positions > self._positions:
            wanted = max(positions, self._positions + self._positions // 4)
            self._positions = -(-wanted // GROW) * GROW
            for block, (keys, values) in self._rows.items():
                self._rows[block] = (self._longer(keys), self._longer(values))

    def rows(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors of one block; ``key`` and ``value`` [1, heads, tokens, width] show of what shape they are."""
        if block not in self._rows:
            self._rows[block] = (self._empty(key), self._empty(value))
        return self._rows[block]

    def copy(self, source: int, target: int, positions: int) -> None:
        """Give one slot the first positions of another."""
        for pair in self._rows.values():
            for rows in pair:
                rows[target, :, :positions] = rows[source, :, :positions]

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros((self._slots, like.shape[1], self._positions, like.shape[3]))

    def _longer(self, old: Tensor) -> Tensor:
        new = old.new_zeros((*old.shape[:2], self._positions, old.shape[3]))  # zeros: what is masked must be finite
        new[:, :, : old.shape[2]] = old
        return new


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent slots whose next tokens are computed in one call: ``at`` is the first one's place in the pass."""

    at: int
    slot: int
    count: int
    reach: int
    mask: Tensor | None
    """[count, 1, 1, reach - shared] where they are not of one length."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one slot's prompt from ``start`` on; ``mask`` [tokens, start + tokens], or None where start is 0."""

    at: int
    slot: int
    start: int
    tokens: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: which slots write a token, the beginning they share, and which prompts are read."""

    kv: KeyValues
    positions: Tensor
    """[tokens], of every token."""
    slots: Tensor
    """[written], of the tokens to write after; ascending."""
    runs: tuple[Run, ...]
    shared: int
    """So many first positions are the same in all writing slots and read once; 0 when it is not worth it."""
    chunks: tuple[Chunk, ...]


def plan_pass(
    kv: KeyValues,
    writing: Sequence[tuple[int, int]],
    reading: Sequence[tuple[int, int, int]],
    *,
    shared: int,
    device: torch.device,
) -> Pass:
    """A Pass from (slot, position) of each token to write after, by slot, and (slot, start, tokens) of each stretch.

    ``shared`` is how many first positions all writing slots have in common.
    """
    positions = [position for _, position in writing]
    chunks, at = [], len(writing)
    for slot, start, tokens in reading:
        chunks.append(Chunk(at, slot, start, tokens, _causal(start, tokens, device)))
        positions += range(start, start + tokens)
        at += tokens
    kv.reserve(max(positions) + 1)
    worth = device.type == "cpu" and shared * (len(writing) - 1) >= SHARE
    common = shared if worth else 0
    return Pass(
        kv=kv,
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor([slot for slot, _ in writing], dtype=torch.long, device=device),
        runs=tuple(_run(writing, first, end, shared=common, device=device) for first, end in _split(writing, common)),
        shared=common,
        chunks=tuple(chunks),
    )


def _split(writing: Sequence[tuple[int, int]], shared: int) -> Iterator[tuple[int, int]]:
    """Cut the writing slots into runs of adjacent ones; padding to the longest must cost less than a call."""
    first, longest = 0, 0
    for at, (slot, position) in enumerate(writing):
        length = position + 1 - shared
        if at > first:
            together = (at + 1 - first) * max(longest, length)
            apart = (at - first) * longest + CALL + length
            if slot != writing[at - 1][0] + 1 or together > apart:
                yield first, at
                first, longest = at, 0
        longest = max(longest, length)
    if writing:
        yield first, len(writing)


def _run(writing: Sequence[tuple[int, int]], first: int, end: int, *, shared: int, device: torch.device) -> Run:
    positions = [position for _, position in writing[first:end]]
    reach = max(positions) + 1
    mask = None
    if min(positions) + 1 < reach:
        seen = torch.tensor(positions, device=device)[:, None, None, None]
        hidden = torch.arange(shared, reach, device=device) > seen
        mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
    return Run(at=first, slot=writing[first][0], count=end - first, reach=reach, mask=mask)


def _causal(start: int, tokens: int, device: torch.device) -> Tensor | None:
    if start == 0:
        return None
    mask = torch.full((tokens, start + tokens), -torch.inf, device=device)
    return mask.triu_(start + 1)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    scaling: float,
    batch: Pass,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The attention function: query [1, heads, tokens, width], key and value [1, key heads, tokens, width].

    Raises ConfigError for a model whose attention is more than a softmax (soft caps, sinks).
    """
    for name in ("softcap", "s_aux"):
        if rest.get(name) is not None:
            what = f"{type(module).__name__} uses {name!r}, which in-process generation cannot do"
            raise ConfigError(f"{what}. Serve the model and name its endpoint.")
    keys, values = batch.kv.rows(module.layer_idx, key, value)
    count = len(batch.slots)
    parts = []
    if count:
        keys[batch.slots, :, batch.positions[:count]] = key[0, :, :count].transpose(0, 1)
        values[batch.slots, :, batch.positions[:count]] = value[0, :, :count].transpose(0, 1)
        parts = _write(query[0, :, :count].transpose(0, 1), keys, values, batch, scaling)
    for chunk in batch.chunks:
        stretch, place = slice(chunk.at, chunk.at + chunk.tokens), slice(chunk.start, chunk.start + chunk.tokens)
        keys[chunk.slot, :, place] = key[0, :, stretch]
        values[chunk.slot, :, place] = value[0, :, stretch]
        parts.append(_read(query[:, :, stretch], keys, values, chunk, scaling))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


def _write(query: Tensor, keys: Tensor, values: Tensor, batch: Pass, scaling: float) -> list[Tensor]:
    """Attention of one token of each writing slot, query [written, heads, width]; parts of [count, heads, width]."""
    count, heads, width = query.shape
    key_heads = keys.shape[1]
    grouped = query.reshape(count, key_heads, heads // key_heads, width)
    if batch.shared:
        return [_with_beginning(grouped, keys, values, batch, scaling).reshape(count, heads, -1)]
    return [_one_run(grouped, keys, values, run, scaling).reshape(run.count, heads, -1) for run in batch.runs]


def _one_run(query: Tensor, keys: Tensor, values: Tensor, run: Run, scaling: float) -> Tensor:
    rows, seen = slice(run.slot, run.slot + run.count), slice(0, run.reach)
    return scaled_dot_product_attention(
        query[run.at : run.at + run.count],
        keys[rows, :, seen],
        values[rows, :, seen],
        attn_mask=_mask(run, query),
        scale=scaling,
    )


def _with_beginning(query: Tensor, keys: Tensor, values: Tensor, batch: Pass, scaling: float) -> Tensor:
    """Attention in two parts, over what is common to all slots and over what is their own, merged by their weights."""
    count, key_heads, group, width = query.shape
    slot = batch.runs[0].slot
    common, common_weight = _flash(
        query.transpose(0, 1).reshape(1, key_heads, count * group, width),
        keys[slot : slot + 1, :, : batch.shared],
        values[slot : slot + 1, :, : batch.shared],
        scaling=scaling,
        mask=None,
    )
    parts = [
        _flash(
            query[run.at : run.at + run.count],
            keys[run.slot : run.slot + run.count, :, batch.shared : run.reach],
            values[run.slot : run.slot + run.count, :, batch.shared : run.reach],
            scaling=scaling,
            mask=_mask(run, query),
        )
        for run in batch.runs
    ]
    own = torch.cat([found for found, _ in parts]) if len(parts) > 1 else parts[0][0]
    own_weight = torch.cat([weight for _, weight in parts]) if len(parts) > 1 else parts[0][1]
    common = common.reshape(key_heads, count, group, -1).transpose(0, 1)
    share = torch.sigmoid(common_weight.reshape(key_heads, count, group).transpose(0, 1) - own_weight)
    return torch.lerp(own, common, share.unsqueeze(-1).to(own.dtype))


def _flash(
    query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of the sum of its weights, [rows, heads, queries]."""
    found, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, keys, values, 0.0, False, attn_mask=mask, scale=scaling
    )
    return found, weight


def _mask(run: Run, query: Tensor) -> Tensor | None:
    return None if run.mask is None else run.mask.to(query.dtype).expand(-1, -1, query.shape[2], -1)


def _read(query: Tensor, keys: Tensor, values: Tensor, chunk: Chunk, scaling: float) -> Tensor:
    """Attention of a stretch of prompt over its slot: [tokens, heads, width]."""
    heads, count, width = query.shape[1:]
    key_heads, reach = keys.shape[1], chunk.start + chunk.tokens
    own = slice(chunk.slot, chunk.slot + 1)
    seen_keys, seen_values = keys[own, :, :reach], values[own, :, :reach]
    if chunk.mask is None:
        found = scaled_dot_product_attention(
            query, seen_keys, seen_values, is_causal=True, scale=scaling, enable_gqa=heads != key_heads
        )
        return found[0].transpose(0, 1)
    group = heads // key_heads
    grouped = query.reshape(1, key_heads, group * count, width)
    mask = chunk.mask.to(query.dtype).repeat(group, 1)
    found = scaled_dot_product_attention(grouped, seen_keys, seen_values, attn_mask=mask, scale=scaling)
    return found.reshape(heads, count, -1).transpose(0, 1)
