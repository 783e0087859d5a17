"""The order of training: all batches of all epochs, drawn once from the seed, of similar length to limit padding.

Invariant: the plan depends on the lengths and the recipe alone; each sample is in every epoch once. A batch is computed
in pieces of similar length, so that padding stays under ``MOST_PADDING`` of the tokens for every draw. The pieces do
not change what is learnt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Batch = tuple[int, ...]
MOST_PADDING = 0.05
"""The largest allowed share of padding among the tokens."""
_LIMITS = (1.0, 0.3, 0.2, 0.15, 0.1, 0.07, MOST_PADDING)


def plan_batches(lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of indices into ``lengths``, epoch after epoch; the last one of an epoch may be smaller."""
    generator = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _plan_epoch(lengths, batch_size, generator)]


def _plan_epoch(lengths: Sequence[int], batch_size: int, generator: random.Random) -> list[Batch]:
    """Shuffle, sort by length within stretches of some batches (so that epochs differ), cut, and shuffle again."""
    order = generator.sample(range(len(lengths)), len(lengths))
    stretch = 8 * batch_size
    batches = []
    for start in range(0, len(order), stretch):
        similar_lengths = sorted(order[start : start + stretch], key=lambda index: lengths[index])
        batches += [
            tuple(similar_lengths[offset : offset + batch_size])
            for offset in range(0, len(similar_lengths), batch_size)
        ]
    return generator.sample(batches, len(batches))


def split_among_processes(batch: Batch, processes: int) -> list[Batch]:
    """The samples of a batch that each process computes; none for the last processes if the batch is small."""
    return [batch[rank::processes] for rank in range(processes)]


def split_by_length(batch: Batch, lengths: Sequence[int], *, size: int = 0, limit: float = 1.0) -> list[Batch]:
    """A batch in pieces of at most ``size`` samples (0: any number), each with a padding share of at most ``limit``."""
    split: list[list[int]] = []
    for index in sorted(batch, key=lambda index_in_batch: lengths[index_in_batch]):
        last = split[-1] if split else []
        extended = [*last, index]
        if last and not (size and len(last) >= size) and measure_padding([tuple(extended)], lengths) <= limit:
            last.append(index)
        else:
            split.append([index])
    return [tuple(piece) for piece in split]


def split_all_batches(
    batches: Sequence[Batch], lengths: Sequence[int], *, size: int = 0, limit: float = 1.0, processes: int = 1
) -> list[Batch]:
    """All pieces that all processes compute, over all batches."""
    process_batches = [process_batch for batch in batches for process_batch in split_among_processes(batch, processes)]
    return [
        piece
        for process_batch in process_batches
        for piece in split_by_length(process_batch, lengths, size=size, limit=limit)
    ]


def choose_padding_limit(
    batches: Sequence[Batch], lengths: Sequence[int], *, size: int = 0, processes: int = 1
) -> float:
    """The loosest limit for ``split_by_length`` that keeps the padding of all batches under ``MOST_PADDING``."""

    def measure_with(limit: float) -> float:
        return measure_padding(
            split_all_batches(batches, lengths, size=size, limit=limit, processes=processes), lengths
        )

    return next((limit for limit in _LIMITS if measure_with(limit) < MOST_PADDING), _LIMITS[-1])


def measure_padding(batches: Sequence[Batch], lengths: Sequence[int]) -> float:
    """The share of padding among the tokens of padded batches."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / padded
