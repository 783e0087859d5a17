"""The order of training: all batches of all epochs, drawn once from the seed, of like length so that little is padded.

Invariant: the plan depends on the lengths, the recipe and nothing else; each sample stands once in every epoch. A batch
is computed in pieces of like length, so that padding stays under ``MOST_PADDING`` of the tokens whatever was drawn; what
is learnt from it is the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Batch = tuple[int, ...]
MOST_PADDING = 0.05
"""The share of tokens that may be padding."""
_LIMITS = (1.0, 0.3, 0.2, 0.15, 0.1, 0.07, MOST_PADDING)


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


def pieces(batch: Batch, lengths: Sequence[int], *, size: int = 0, limit: float = 1.0) -> list[Batch]:
    """A batch in pieces of at most ``size`` samples (0: any number), of none of which more than ``limit`` is padding."""
    found: list[list[int]] = []
    for index in sorted(batch, key=lambda one: lengths[one]):
        last = found[-1] if found else []
        whole = [*last, index]
        if last and not (size and len(last) >= size) and padding([tuple(whole)], lengths) <= limit:
            last.append(index)
        else:
            found.append([index])
    return [tuple(piece) for piece in found]


def widest(batches: Sequence[Batch], lengths: Sequence[int], *, size: int = 0) -> float:
    """The loosest limit for ``pieces`` that keeps padding under ``MOST_PADDING`` over all batches."""

    def share(limit: float) -> float:
        return padding([one for batch in batches for one in pieces(batch, lengths, size=size, limit=limit)], lengths)

    return next((limit for limit in _LIMITS if share(limit) < MOST_PADDING), _LIMITS[-1])


def padding(batches: Sequence[Batch], lengths: Sequence[int]) -> float:
    """The share of tokens in padded batches that is padding."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / padded
