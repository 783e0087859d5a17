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


def shares(batch: Batch, processes: int) -> list[Batch]:
    """What each of several processes computes of a batch; nothing, for those that a small batch does not reach."""
    return [batch[rank::processes] for rank in range(processes)]


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


def computed(
    batches: Sequence[Batch], lengths: Sequence[int], *, size: int = 0, limit: float = 1.0, processes: int = 1
) -> list[Batch]:
    """All pieces that all processes compute."""
    parts = [part for batch in batches for part in shares(batch, processes)]
    return [piece for part in parts for piece in pieces(part, lengths, size=size, limit=limit)]


def widest(batches: Sequence[Batch], lengths: Sequence[int], *, size: int = 0, processes: int = 1) -> float:
    """The loosest limit for ``pieces`` that keeps padding under ``MOST_PADDING`` over all that is computed."""

    def share(limit: float) -> float:
        return padding(computed(batches, lengths, size=size, limit=limit, processes=processes), lengths)

    return next((limit for limit in _LIMITS if share(limit) < MOST_PADDING), _LIMITS[-1])


def padding(batches: Sequence[Batch], lengths: Sequence[int]) -> float:
    """The share of tokens in padded batches that is padding."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / padded
