"""The learning curve: ``log.jsonl``, a line an optimizer step, and ``validation.jsonl``, a line an epoch.

Invariant: no step and no epoch stands in it twice, however often the run was killed and gone on with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.machine import release_memory
from fireact.progress import Progress
from fireact.render.tokens import Sample
from fireact.training.batches import Batch

LOG, VALIDATION = "log.jsonl", "validation.jsonl"


def cut(path: Path, *, done: int, write: bool = True) -> list[dict[str, Any]]:
    """Take out what was logged after step ``done``, which will be done again; returns what stays.

    Of several processes one may ``write``; the others read what it cuts or has cut, which comes to the same.
    """
    if not path.exists():
        return []
    whole = (json.loads(line) for _, line in jsonl.numbered(path) if line.endswith(b"\n"))
    rows = [row for row in whole if row["step"] <= done]
    if write:
        jsonl.write(path, rows)
    return rows


def curve_end(out: Path) -> dict[str, Any]:
    """What the last step of a run logged, but for its number."""
    rows = list(jsonl.read(out / LOG))
    return {name: value for name, value in rows[-1].items() if name != "step"} if rows else {}


class Curve:
    """Writes a line an optimizer step."""

    def __init__(
        self, path: Path, batches: Sequence[Batch], samples: Sequence[Sample], progress: Progress, *, done: int
    ) -> None:
        self.path, self.batches, self.samples, self.progress = path, batches, samples, progress
        self.last = time.perf_counter()
        cut(path, done=done)

    def callback(self) -> Any:
        import transformers

        curve = self

        class Log(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                curve.last = time.perf_counter()

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    curve.add(state.global_step, logs)

        return Log()

    def add(self, step: int, logs: dict[str, Any]) -> None:
        batch = self.batches[step - 1]
        seen = sum(map(len, self.batches[:step]))
        row = {
            "step": step,
            "epoch": round(seen / len(self.samples), 4),
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
            release_memory()  # batches differ in shape, so freed blocks seldom fit again and would pile up

    def final_loss(self) -> float:
        """The mean loss of the last tenth of the steps."""
        losses = [float(row["loss"]) for row in jsonl.read(self.path)]
        last = losses[-max(1, len(losses) // 10) :]
        return round(sum(last) / len(last), 4)
