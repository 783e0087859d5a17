"""The learning curve: ``log.jsonl`` has a line per optimizer step, ``validation.jsonl`` a line per epoch.

Invariant: no step and no epoch is logged twice, however often the run was killed and resumed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.machine import release_memory
from fireact.base.progress import Progress
from fireact.render.tokens import Sample
from fireact.training.batches import Batch

LOG, VALIDATION = "log.jsonl", "validation.jsonl"


def truncate_log(path: Path, *, done_steps: int, write: bool = True) -> list[dict[str, Any]]:
    """Remove the rows after step ``done_steps``, since those steps are repeated; returns the remaining rows.

    Of several processes only one may ``write``. The others get the same rows, before or after it writes.
    """
    if not path.exists():
        return []
    complete_rows = (json.loads(line) for _, line in jsonl.read_numbered_lines(path) if line.endswith(b"\n"))
    rows = [row for row in complete_rows if row["step"] <= done_steps]
    if write:
        jsonl.write_objects(path, rows)
    return rows


def read_last_step(out: Path) -> dict[str, Any]:
    """The row of the last step of a run, without the step number."""
    rows = list(jsonl.read_objects(out / LOG))
    return {name: value for name, value in rows[-1].items() if name != "step"} if rows else {}


class CurveWriter:
    """Writes a line per optimizer step."""

    def __init__(
        self, path: Path, batches: Sequence[Batch], samples: Sequence[Sample], progress: Progress, *, done_steps: int
    ) -> None:
        self.path, self.batches, self.samples, self.progress = path, batches, samples, progress
        self.last = time.perf_counter()
        truncate_log(path, done_steps=done_steps)

    def build_callback(self) -> Any:
        import transformers

        curve = self

        class LogCallback(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                curve.last = time.perf_counter()

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    curve.log_step(state.global_step, logs)

        return LogCallback()

    def log_step(self, step: int, logs: dict[str, Any]) -> None:
        batch = self.batches[step - 1]
        samples_seen = sum(map(len, self.batches[:step]))
        row = {
            "step": step,
            "epoch": round(samples_seen / len(self.samples), 4),
            "loss": round(float(logs["loss"]), 6),
            "learning_rate": logs.get("learning_rate"),
            "gradient_norm": round(float(logs.get("grad_norm", 0.0)), 4),
            "tokens": sum(len(self.samples[index].input_ids) for index in batch),
            "target_tokens": sum(self.samples[index].targets for index in batch),
            "seconds": round(time.perf_counter() - self.last, 3),
        }
        with jsonl.Appender(self.path) as file:
            file.append(row)
        self.progress.advance(f"loss {row['loss']:.3f}")
        if step % 10 == 0:
            release_memory()  # batches differ in shape, so freed memory is rarely reused and would pile up

    def final_loss(self) -> float:
        """The mean loss of the last tenth of the steps."""
        losses = [float(row["loss"]) for row in jsonl.read_objects(self.path)]
        last = losses[-max(1, len(losses) // 10) :]
        return round(sum(last) / len(last), 4)
