"""Pairs of trajectories as rows of tokens, and the order in which preference training compares them.

Invariant: each pair stands once in every epoch; a trajectory of several samples (where the chat template rewrites earlier
turns) is one row, in which no sample sees another. The loss is the trainer's business (``preference``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireact.render.tokens import IGNORED, Sample
from fireact.training.batches import Batch, padding, pieces, plan

Side = Sequence[Sample]
"""A trajectory: one sample, or one a step."""


class Rows:
    """Pairs as rows of tokens, two a pair, and the order in which they are compared: batches of like length."""

    def __init__(
        self, pairs: Sequence[Sequence[Side]], *, epochs: int, batch_size: int, at_a_time: int, seed: int
    ) -> None:
        self.pairs, self.at_a_time = pairs, at_a_time
        self.sides = [in_a_row(side) for pair in pairs for side in pair]
        self.lengths = [len(one.input_ids) for one in self.sides]
        self.widths = [max(self.lengths[at : at + 2]) for at in range(0, len(self.lengths), 2)]
        self.batches = plan(self.widths, epochs=epochs, batch_size=batch_size, seed=seed)

    def collated(self, piece: Batch) -> dict[str, Any]:
        """What the model is given of some pairs."""
        return collate([self.pairs[index] for index in piece])

    def pieces(self, batch: Batch) -> list[Batch]:
        """The pairs of a batch that are computed at a time."""
        return pieces(batch, self.widths, size=self.at_a_time)

    def of(self, batch: Batch) -> Batch:
        """The rows of some pairs: both sides of each."""
        return tuple(row for index in batch for row in (2 * index, 2 * index + 1))

    def tokens(self, done: int = 0) -> int:
        """Tokens of all batches after the first ``done``."""
        return sum(self.lengths[row] for batch in self.batches[done:] for row in self.of(batch))

    @property
    def padding(self) -> float:
        """The share of all tokens computed that is padding."""
        return padding([self.of(piece) for batch in self.batches for piece in self.pieces(batch)], self.lengths)


def in_a_row(side: Side) -> Sample:
    """The samples of a trajectory, one after the other."""
    return Sample(
        tuple(token for one in side for token in one.input_ids),
        tuple(label for one in side for label in one.labels),
        side[0].key,
    )


def collate(pairs: Sequence[Sequence[Side]]) -> dict[str, Any]:
    """Padded ids and masks [2 x pairs, tokens]: the successes, then the failures; one mask is what the student wrote.

    Where a trajectory is several samples, positions begin anew with each, and the attention mask [2 x pairs, 1, tokens,
    tokens] says which tokens a token sees: those before it in its own sample.
    """
    import torch

    from fireact.training.halves import pad

    sides = [pair[side] for side in (0, 1) for pair in pairs]
    rows = [in_a_row(side) for side in sides]
    ids = pad([torch.tensor(one.input_ids) for one in rows], value=0)
    wrote = pad([(torch.tensor(one.labels) != IGNORED).long() for one in rows], value=0)
    if all(len(side) == 1 for side in sides):
        attention = pad([torch.ones(len(one.input_ids), dtype=torch.long) for one in rows], value=0)
        return {"input_ids": ids, "attention_mask": attention, "completion_mask": wrote}
    lengths = [[len(one.input_ids) for one in side] for side in sides]
    number = pad([torch.tensor([at for at, n in enumerate(own) for _ in range(n)]) for own in lengths], value=-1)
    places = pad([torch.cat([torch.arange(n) for n in own]) for own in lengths], value=0)
    earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    attention = (number[:, None, :, None] == number[:, None, None, :]) & earlier
    return {"input_ids": ids, "attention_mask": attention, "position_ids": places, "completion_mask": wrote}
