"""Pairs of trajectories as rows of tokens, and the order in which preference training compares them.

Invariant: each pair is in every epoch once. A trajectory of several samples (where the chat template rewrites earlier
turns) is one row in which no sample attends to another. The loss is the trainer's business (``preference``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireact.render.tokens import IGNORED, Sample
from fireact.training.batches import Batch, measure_padding, plan_batches, split_by_length

TrajectorySamples = Sequence[Sample]
"""A trajectory: one sample, or one per step."""


class PairRows:
    """Pairs as rows of tokens, two rows a pair, and batches of pairs of similar length in training order."""

    def __init__(
        self,
        pairs: Sequence[Sequence[TrajectorySamples]],
        *,
        epochs: int,
        batch_size: int,
        pairs_at_once: int,
        seed: int,
    ) -> None:
        self.pairs, self.pairs_at_once = pairs, pairs_at_once
        self.sides = [concatenate_samples(side) for pair in pairs for side in pair]
        self.lengths = [len(row.input_ids) for row in self.sides]
        self.widths = [max(self.lengths[offset : offset + 2]) for offset in range(0, len(self.lengths), 2)]
        self.batches = plan_batches(self.widths, epochs=epochs, batch_size=batch_size, seed=seed)

    def collate(self, piece: Batch) -> dict[str, Any]:
        """The model's inputs for some pairs."""
        return collate_pairs([self.pairs[index] for index in piece])

    def split_batch(self, batch: Batch) -> list[Batch]:
        """A batch in pieces: the pairs that are computed at a time."""
        return split_by_length(batch, self.widths, size=self.pairs_at_once)

    def row_indices(self, batch: Batch) -> Batch:
        """The rows of some pairs: both sides of each."""
        return tuple(row for index in batch for row in (2 * index, 2 * index + 1))

    def count_tokens(self, done: int = 0) -> int:
        """Tokens of all batches after the first ``done``."""
        return sum(self.lengths[row] for batch in self.batches[done:] for row in self.row_indices(batch))

    @property
    def padding_share(self) -> float:
        """The share of padding among all tokens computed."""
        return measure_padding(
            [self.row_indices(piece) for batch in self.batches for piece in self.split_batch(batch)], self.lengths
        )


def concatenate_samples(side: TrajectorySamples) -> Sample:
    """The samples of a trajectory, one after the other."""
    return Sample(
        tuple(token for sample in side for token in sample.input_ids),
        tuple(label for sample in side for label in sample.labels),
        side[0].key,
    )


def collate_pairs(pairs: Sequence[Sequence[TrajectorySamples]]) -> dict[str, Any]:
    """Padded ids and masks [2 x pairs, tokens]: first the successes, then the failures.

    The completion mask marks the student's own tokens. Where a trajectory has several samples, positions restart with
    each sample, and the attention mask is [2 x pairs, 1, tokens, tokens]: a token attends to earlier tokens of its own
    sample alone.
    """
    import torch

    from fireact.training.frozen_blocks import pad_right

    sides = [pair[side] for side in (0, 1) for pair in pairs]
    rows = [concatenate_samples(side) for side in sides]
    ids = pad_right([torch.tensor(row.input_ids) for row in rows], value=0)
    is_completion = pad_right([(torch.tensor(row.labels) != IGNORED).long() for row in rows], value=0)
    if all(len(side) == 1 for side in sides):
        attention = pad_right([torch.ones(len(row.input_ids), dtype=torch.long) for row in rows], value=0)
        return {"input_ids": ids, "attention_mask": attention, "completion_mask": is_completion}
    lengths = [[len(sample.input_ids) for sample in side] for side in sides]
    sample_of_token = pad_right(
        [
            torch.tensor([sample_index for sample_index, length in enumerate(sample_lengths) for _ in range(length)])
            for sample_lengths in lengths
        ],
        value=-1,
    )
    positions = pad_right(
        [torch.cat([torch.arange(length) for length in sample_lengths]) for sample_lengths in lengths], value=0
    )
    # a token attends to a token of the same sample (padding, -1, to padding alone) that is not after it
    is_earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    attention = (sample_of_token[:, None, :, None] == sample_of_token[:, None, None, :]) & is_earlier
    return {"input_ids": ids, "attention_mask": attention, "position_ids": positions, "completion_mask": is_completion}
