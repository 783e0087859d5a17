"""Measures on questions that are kept out of training, after each epoch, and says when to stop.

Invariant: an epoch is measured once; the best weights so far lie in ``best/``; a run that goes on knows what was measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.progress import Progress
from fireact.render.tokens import Sample
from fireact.training.batches import plan
from fireact.training.curve import VALIDATION, cut
from fireact.training.loss import TargetLoss

BEST = "best"
VALIDATED = 8
"""Samples measured at a time, unless the recipe computes fewer."""


def best_epoch(losses: Sequence[float]) -> int:
    """The index of the lowest validation loss; the earliest of equal ones. Raises ValueError without losses."""
    return min(range(len(losses)), key=lambda index: losses[index])


def is_over(losses: Sequence[float], *, patience: int) -> bool:
    """Whether the last ``patience`` epochs brought no lower validation loss; never with a patience of 0."""
    return bool(patience and losses) and best_epoch(losses) + patience < len(losses)


class Validation:
    """Target-token loss and whole-sample accuracy of kept-out samples, epoch by epoch."""

    def __init__(
        self,
        model: Any,
        samples: Sequence[Sample],
        *,
        frozen: int,
        batch_size: int = VALIDATED,
        out: Path,
        patience: int,
        progress: Progress,
        done: int,
        write: bool = True,
    ) -> None:
        self.loss = TargetLoss(model, samples, frozen=frozen, at_a_time=batch_size)
        self.batches = plan([len(sample.input_ids) for sample in samples], epochs=1, batch_size=batch_size, seed=0)
        self.model, self.out, self.patience, self.progress, self.write = model, out, patience, progress, write
        self.rows = cut(out / VALIDATION, done=done, write=write)

    def measure(self, *, step: int, epoch: int, save: Callable[[Path], None]) -> bool:
        """Measure after an epoch; returns whether training should stop.

        ``save``, which every process calls, writes the weights to a directory; the one process that may write logs.
        """
        self.model.eval()
        found = [self.loss.measure(batch) for batch in self.batches]
        self.model.train()
        samples = self.loss.samples
        row = {
            "step": step,
            "epoch": epoch,
            "validation_loss": round(sum(total for total, _ in found) / sum(one.targets for one in samples), 6),
            "whole_sample_accuracy": round(sum(right for _, right in found) / len(samples), 4),
        }
        self.rows.append(row)
        if self.write:
            with jsonl.Appender(self.out / VALIDATION) as file:
                file.append(row)
        if self.best is row and self.patience:
            save(self.out / BEST)
        self.progress.say(
            f"train: epoch {epoch}, validation loss {row['validation_loss']:.3f}, "
            f"{row['whole_sample_accuracy']:.0%} of samples without a fault"
        )
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether so many epochs went by without a better loss that training is over."""
        return is_over(self._losses, patience=self.patience)

    @property
    def kept(self) -> dict[str, Any]:
        """What was measured of the weights that are kept: the best epoch's with patience, else the last one's."""
        return (self.best if self.patience else self.rows[-1]) if self.rows else {}

    def at(self, step: int) -> dict[str, Any] | None:
        """What was measured after a step; None where nothing was."""
        return self.rows[-1] if self.rows and self.rows[-1]["step"] == step else None

    @property
    def best(self) -> dict[str, Any]:
        """The epoch with the lowest validation loss."""
        return self.rows[best_epoch(self._losses)]

    @property
    def _losses(self) -> list[float]:
        return [float(row["validation_loss"]) for row in self.rows]

    def keep_best(self, weights: Path) -> None:
        """Put the best epoch's weights in place of the last one's, where training looked for them.

        They stay in ``best/`` until the run is complete, so that a kill at any moment loses nothing.
        """
        if self.patience and self.rows and self.best is not self.rows[-1]:
            part = weights.with_name(f"{weights.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(self.out / BEST, part)
            shutil.rmtree(weights)
            part.rename(weights)
