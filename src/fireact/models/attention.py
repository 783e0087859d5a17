"""Attention over slots: each running text has its own rows of keys and values, and one forward pass serves all texts.

A pass gets the tokens of all texts as one sequence [1, tokens]: first one token of each text that is being decoded
("writing"), then chunks of prompts that are being prefilled ("reading"). transformers passes the ``ForwardPass``
through to ``attend``. Invariant: a token attends to the rows of its own slot up to itself. Query heads that share a key
head are treated as further queries of it, so keys are never repeated. A prefix that all writing slots share is read
once for all of them. The engine decides which slots write and read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fireact.errors import ConfigError

ATTENTION_NAME = "fireact_slots"
GROWTH = 256
"""Positions by which the rows of keys and values grow."""
CALL_COST = 400
"""Measured cost of one more kernel call, in positions of one slot that could be read instead."""
MIN_SAVED_POSITIONS = 2048
"""Positions that reading a shared prefix once must save to be worth a second kernel call and a merge."""


class KeyValueCache:
    """Keys and values of all blocks, each a tensor [slots, key heads, positions, width] that is made at first use."""

    def __init__(self, slots: int) -> None:
        self._slots, self._positions = slots, 0
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, positions: int) -> None:
        """Make room for this many positions in every slot."""
        if positions > self._positions:
            capacity = max(positions, self._positions + self._positions // 4)
            self._positions = -(-capacity // GROWTH) * GROWTH
            for block, (keys, values) in self._rows.items():
                self._rows[block] = (self._lengthen(keys), self._lengthen(values))

    def rows(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors of one block; ``key`` and ``value`` [1, heads, tokens, width] give their shape and dtype."""
        if block not in self._rows:
            self._rows[block] = (self._allocate(key), self._allocate(value))
        return self._rows[block]

    def copy(self, source: int, target: int, positions: int) -> None:
        """Copy the first positions of one slot to another."""
        for pair in self._rows.values():
            for rows in pair:
                rows[target, :, :positions] = rows[source, :, :positions]

    def _allocate(self, sample: Tensor) -> Tensor:
        # On a CPU torch's attention for one query a text takes a third longer in bfloat16, for which it converts keys.
        dtype = torch.float32 if sample.device.type == "cpu" else sample.dtype
        return sample.new_zeros((self._slots, sample.shape[1], self._positions, sample.shape[3]), dtype=dtype)

    def _lengthen(self, old: Tensor) -> Tensor:
        new = old.new_zeros(
            (*old.shape[:2], self._positions, old.shape[3])
        )  # zeros, because masked values must be finite
        new[:, :, : old.shape[2]] = old
        return new


@dataclass(frozen=True, slots=True)
class SlotRun:
    """Adjacent slots whose next tokens are computed in one call.

    ``offset`` is the position of the first slot's token in the pass, and ``reach`` the length of the longest slot.
    """

    offset: int
    slot: int
    count: int
    reach: int
    mask: Tensor | None
    """[count, 1, 1, reach - shared], or None where all slots have one length."""


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """A chunk of one slot's prompt from ``start`` on; ``mask`` [tokens, start + tokens], or None where start is 0."""

    offset: int
    slot: int
    start: int
    tokens: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One forward pass: the slots that write a token, the prefix they share, and the prompt chunks that are read."""

    kv: KeyValueCache
    positions: Tensor
    """[tokens], the position of every token in its text."""
    slots: Tensor
    """[written], the slot of each text that is being written; ascending."""
    runs: tuple[SlotRun, ...]
    shared: int
    """Length of the prefix that all writing slots share and that is read once; 0 when that is not worth it."""
    chunks: tuple[PromptChunk, ...]


def plan_pass(
    kv: KeyValueCache,
    writing: Sequence[tuple[int, int]],
    reading: Sequence[tuple[int, int, int]],
    *,
    shared: int,
    device: torch.device,
) -> ForwardPass:
    """Plan a pass: ``writing`` holds (slot, position) by slot, and ``reading`` holds (slot, start, tokens) of chunks.

    ``shared`` is the length of the prefix that all writing slots have in common.
    """
    positions = [position for _, position in writing]
    chunks, offset = [], len(writing)
    for slot, start, tokens in reading:
        chunks.append(PromptChunk(offset, slot, start, tokens, _causal_mask(start, tokens, device)))
        positions += range(start, start + tokens)
        offset += tokens
    kv.reserve(max(positions) + 1)
    is_worth_sharing = device.type == "cpu" and shared * (len(writing) - 1) >= MIN_SAVED_POSITIONS
    shared_positions = shared if is_worth_sharing else 0
    return ForwardPass(
        kv=kv,
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor([slot for slot, _ in writing], dtype=torch.long, device=device),
        runs=tuple(
            _plan_run(writing, first, end, shared=shared_positions, device=device)
            for first, end in _split_runs(writing, shared_positions)
        ),
        shared=shared_positions,
        chunks=tuple(chunks),
    )


def _split_runs(writing: Sequence[tuple[int, int]], shared: int) -> Iterator[tuple[int, int]]:
    """Split the writing slots into runs of adjacent slots; padding to the longest must cost less than another call."""
    first, longest = 0, 0
    for index, (slot, position) in enumerate(writing):
        length = position + 1 - shared
        if index > first:
            padded_cost = (index + 1 - first) * max(longest, length)
            split_cost = (index - first) * longest + CALL_COST + length
            if slot != writing[index - 1][0] + 1 or padded_cost > split_cost:
                yield first, index
                first, longest = index, 0
        longest = max(longest, length)
    if writing:
        yield first, len(writing)


def _plan_run(
    writing: Sequence[tuple[int, int]], first: int, end: int, *, shared: int, device: torch.device
) -> SlotRun:
    positions = [position for _, position in writing[first:end]]
    reach = max(positions) + 1
    mask = None
    if min(positions) + 1 < reach:
        last_positions = torch.tensor(positions, device=device)[:, None, None, None]
        # Shorter slots of the run are padded to its reach, so the rows behind their last token are masked.
        is_masked = torch.arange(shared, reach, device=device) > last_positions
        mask = torch.zeros(is_masked.shape, device=device).masked_fill_(is_masked, -torch.inf)
    return SlotRun(offset=first, slot=writing[first][0], count=end - first, reach=reach, mask=mask)


def _causal_mask(start: int, tokens: int, device: torch.device) -> Tensor | None:
    if start == 0:
        return None
    # Row i is the token at position start + i: it sees all earlier chunks and this one up to itself.
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
    batch: ForwardPass,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function: query [1, heads, tokens, width], key and value [1, key heads, tokens, width].

    With the option ``sliding_window`` a token sees that many positions, itself the last of them. Raises ConfigError for
    a model whose attention is more than a softmax (soft caps, sinks).
    """
    for name in ("softcap", "s_aux"):
        if options.get(name) is not None:
            obstacle = f"{type(module).__name__} uses {name!r}, which in-process generation cannot do"
            raise ConfigError(f"{obstacle}. Serve the model and name its endpoint.")
    window: int | None = options.get("sliding_window")
    if window is not None:
        batch = _narrow_pass(batch, window)
    keys, values = batch.kv.rows(module.layer_idx, key, value)
    dtype = query.dtype
    query, key, value = (each.to(keys.dtype) for each in (query, key, value))
    count = len(batch.slots)
    outputs = []
    if count:
        keys[batch.slots, :, batch.positions[:count]] = key[0, :, :count].transpose(0, 1)
        values[batch.slots, :, batch.positions[:count]] = value[0, :, :count].transpose(0, 1)
        outputs = _attend_written(query[0, :, :count].transpose(0, 1), keys, values, batch, scaling)
    for chunk in batch.chunks:
        token_range = slice(chunk.offset, chunk.offset + chunk.tokens)
        position_range = slice(chunk.start, chunk.start + chunk.tokens)
        keys[chunk.slot, :, position_range] = key[0, :, token_range]
        values[chunk.slot, :, position_range] = value[0, :, token_range]
        outputs.append(_attend_prompt(query[:, :, token_range], keys, values, chunk, scaling))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).to(dtype).unsqueeze(0), None


def _narrow_pass(batch: ForwardPass, window: int) -> ForwardPass:
    """The pass for a block whose tokens see a sliding window of positions; the same where no text is longer."""
    if int(batch.positions.max()) < window:
        return batch

    def mask_window(offset: int, tokens: int, reach: int) -> Tensor:
        distances = batch.positions[offset : offset + tokens, None] - torch.arange(reach, device=batch.positions.device)
        is_masked = (distances < 0) | (distances >= window)
        return torch.zeros(is_masked.shape, device=is_masked.device).masked_fill_(is_masked, -torch.inf)

    runs = [replace(run, mask=mask_window(run.offset, run.count, run.reach)[:, None, None]) for run in batch.runs]
    chunks = [
        replace(chunk, mask=mask_window(chunk.offset, chunk.tokens, chunk.start + chunk.tokens))
        for chunk in batch.chunks
    ]
    return replace(batch, shared=0, runs=tuple(runs), chunks=tuple(chunks))


def _attend_written(query: Tensor, keys: Tensor, values: Tensor, batch: ForwardPass, scaling: float) -> list[Tensor]:
    """Attention for one token of each writing slot; query [written, heads, width], outputs [count, heads, width]."""
    count, heads, width = query.shape
    key_heads = keys.shape[1]
    # The heads of a group become queries of their key head, so that keys and values are read once for the group.
    grouped = query.reshape(count, key_heads, heads // key_heads, width)
    if batch.shared:
        return [_attend_shared(grouped, keys, values, batch, scaling).reshape(count, heads, -1)]
    return [_attend_run(grouped, keys, values, run, scaling).reshape(run.count, heads, -1) for run in batch.runs]


def _attend_run(query: Tensor, keys: Tensor, values: Tensor, run: SlotRun, scaling: float) -> Tensor:
    slot_range, position_range = slice(run.slot, run.slot + run.count), slice(0, run.reach)
    return scaled_dot_product_attention(
        query[run.offset : run.offset + run.count],
        keys[slot_range, :, position_range],
        values[slot_range, :, position_range],
        attn_mask=_run_mask(run, query),
        scale=scaling,
    )


def _attend_shared(query: Tensor, keys: Tensor, values: Tensor, batch: ForwardPass, scaling: float) -> Tensor:
    """Attention over the shared prefix and over each slot's own rows, merged by their weights."""
    count, key_heads, group, width = query.shape
    slot = batch.runs[0].slot
    shared_output, shared_weight = _flash_attention(
        query.transpose(0, 1).reshape(1, key_heads, count * group, width),
        keys[slot : slot + 1, :, : batch.shared],  # equal in all writing slots, so the first one stands for all
        values[slot : slot + 1, :, : batch.shared],
        scaling=scaling,
        mask=None,
    )
    parts = [
        _flash_attention(
            query[run.offset : run.offset + run.count],
            keys[run.slot : run.slot + run.count, :, batch.shared : run.reach],
            values[run.slot : run.slot + run.count, :, batch.shared : run.reach],
            scaling=scaling,
            mask=_run_mask(run, query),
        )
        for run in batch.runs
    ]
    own_output = torch.cat([output for output, _ in parts]) if len(parts) > 1 else parts[0][0]
    own_weight = torch.cat([weight for _, weight in parts]) if len(parts) > 1 else parts[0][1]
    shared_output = shared_output.reshape(key_heads, count, group, -1).transpose(0, 1)
    # Two softmaxes merge by their sums of weights: exp(a) / (exp(a) + exp(b)) is the sigmoid of a - b.
    share = torch.sigmoid(shared_weight.reshape(key_heads, count, group).transpose(0, 1) - own_weight)
    return torch.lerp(own_output, shared_output, share.unsqueeze(-1).to(own_output.dtype))


def _flash_attention(
    query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of the sum of its weights [rows, heads, queries]."""
    output, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, keys, values, 0.0, False, attn_mask=mask, scale=scaling
    )
    return output, weight


def _run_mask(run: SlotRun, query: Tensor) -> Tensor | None:
    return None if run.mask is None else run.mask.to(query.dtype).expand(-1, -1, query.shape[2], -1)


def _attend_prompt(query: Tensor, keys: Tensor, values: Tensor, chunk: PromptChunk, scaling: float) -> Tensor:
    """Attention of a prompt chunk over its slot: [tokens, heads, width]."""
    heads, count, width = query.shape[1:]
    key_heads, reach = keys.shape[1], chunk.start + chunk.tokens
    slot_range = slice(chunk.slot, chunk.slot + 1)
    seen_keys, seen_values = keys[slot_range, :, :reach], values[slot_range, :, :reach]
    if chunk.mask is None:
        output = scaled_dot_product_attention(
            query, seen_keys, seen_values, is_causal=True, scale=scaling, enable_gqa=heads != key_heads
        )
        return output[0].transpose(0, 1)
    group = heads // key_heads
    grouped = query.reshape(1, key_heads, group * count, width)
    # The queries of a group lie one after the other, [group, tokens], and each of them has the mask of its token.
    mask = chunk.mask.to(query.dtype).repeat(group, 1)
    output = scaled_dot_product_attention(grouped, seen_keys, seen_values, attn_mask=mask, scale=scaling)
    return output.reshape(heads, count, -1).transpose(0, 1)
