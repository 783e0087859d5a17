"""Measures held-out questions after each epoch, and decides when to stop.

Invariant: an epoch is measured once. The best weights so far are in ``best/``. A resumed run keeps earlier rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.render.tokens import Sample
from fireact.training.batches import plan_batches
from fireact.training.log import VALIDATION, truncate_log
from fireact.training.loss import TargetLoss

BEST = "best"
VALIDATION_BATCH_SIZE = 8
"""The largest number of samples that are measured at a time."""


def best_epoch(losses: Sequence[float]) -> int:
    """The index of the lowest validation loss; the earliest of equal ones. Raises ValueError without losses."""
    return min(range(len(losses)), key=lambda index: losses[index])


def is_over(losses: Sequence[float], *, patience: int) -> bool:
    """Whether the last ``patience`` epochs brought no lower validation loss; never with a patience of 0."""
    return bool(patience and losses) and best_epoch(losses) + patience < len(losses)


class EpochValidation:
    """Target-token loss and whole-sample accuracy on held-out samples, epoch by epoch."""

    def __init__(
        self,
        model: Any,
        samples: Sequence[Sample],
        *,
        frozen: int,
        batch_size: int = VALIDATION_BATCH_SIZE,
        out: Path,
        patience: int,
        progress: Progress,
        done: int,
        write: bool = True,
    ) -> None:
        self.loss = TargetLoss(model, samples, frozen=frozen, cache_batch_size=batch_size)
        self.batches = plan_batches(
            [len(sample.input_ids) for sample in samples], epochs=1, batch_size=batch_size, seed=0
        )
        self.model, self.out, self.patience, self.progress, self.write = model, out, patience, progress, write
        self.rows = truncate_log(out / VALIDATION, done_steps=done, write=write)

    def measure_epoch(self, *, step: int, epoch: int, save: Callable[[Path], None]) -> bool:
        """Measure after an epoch; returns whether training should stop.

        ``save`` writes the weights to a directory. Every process calls it; only the process that may ``write`` logs.
        """
        self.model.eval()
        measurements = [self.loss.measure_batch(batch) for batch in self.batches]
        self.model.train()
        samples = self.loss.samples
        row = {
            "step": step,
            "epoch": epoch,
            "validation_loss": round(
                sum(total for total, _ in measurements) / sum(sample.targets for sample in samples), 6
            ),
            "whole_sample_accuracy": round(sum(right for _, right in measurements) / len(samples), 4),
        }
        self.rows.append(row)
        if self.write:
            with jsonl.Appender(self.out / VALIDATION) as file:
                file.append(row)
        if self.best_row is row and self.patience:
            save(self.out / BEST)
        self.progress.say(
            f"train: epoch {epoch}, validation loss {row['validation_loss']:.3f}, "
            f"{row['whole_sample_accuracy']:.0%} of samples without a fault"
        )
        return self.should_stop

    @property
    def should_stop(self) -> bool:
        """Whether ``patience`` epochs passed without a better loss."""
        return is_over(self._losses, patience=self.patience)

    @property
    def final_row(self) -> dict[str, Any]:
        """The row of the weights that training keeps: with patience the best epoch's, else the last one's."""
        return (self.best_row if self.patience else self.rows[-1]) if self.rows else {}

    def find_row(self, step: int) -> dict[str, Any] | None:
        """The row that was measured after a step; None where there is none."""
        return self.rows[-1] if self.rows and self.rows[-1]["step"] == step else None

    @property
    def best_row(self) -> dict[str, Any]:
        """The row with the lowest validation loss."""
        return self.rows[best_epoch(self._losses)]

    @property
    def _losses(self) -> list[float]:
        return [float(row["validation_loss"]) for row in self.rows]

    def restore_best_weights(self, weights: Path) -> None:
        """Replace the last epoch's weights by the best epoch's, where ``patience`` is set.

        They stay in ``best/`` until the run is complete, so that a kill at any moment loses nothing.
        """
        if self.patience and self.rows and self.best_row is not self.rows[-1]:
            temporary = weights.with_name(f"{weights.name}.part")
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(self.out / BEST, temporary)
            shutil.rmtree(weights)
            temporary.rename(weights)
