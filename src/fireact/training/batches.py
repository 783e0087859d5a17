"""The order of training: all batches of all epochs, drawn once from the seed, of like length so that little is padded.

Invariant: the plan depends on the lengths, the recipe and nothing else; each sample stands once in every epoch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Batch = tuple[int, ...]


def plan(lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of indices into ``lengths``, epoch after epoch; the last one of an epoch may be smaller."""
    draw = random.Random(seed)
    return [batch for _ in range(epochs) for batch in _epoch(lengths, batch_size, draw)]


def _epoch(lengths: Sequence[int], batch_size: int, draw: random.Random) -> list[Batch]:
    """Shuffled, sorted by length within stretches of some batches (so that epochs differ), cut, and shuffled again."""
    order = draw.sample(range(len(lengths)), len(lengths))
    stretch = 8 * batch_size
    batches = []
    for start in range(0, len(order), stretch):
        near = sorted(order[start : start + stretch], key=lambda index: lengths[index])
        batches += [tuple(near[at : at + batch_size]) for at in range(0, len(near), batch_size)]
    return draw.sample(batches, len(batches))


def padding(batches: Sequence[Batch], lengths: Sequence[int]) -> float:
    """The share of tokens in padded batches that is padding."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / padded
