"""Trackers of experiments, to which the learning curve and validation figures go beside the run directory.

Sending is transformers' business. Invariant: a tracker that is not known or not installed is refused before anything is
loaded or written.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, unknown

TRACKERS = ("trackio", "mlflow", "tensorboard", "wandb")
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is not known or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{name} is not installed; --report-to {name} needs it. Run: pip install {name}")


@contextmanager
def below(out: Path) -> Iterator[None]:
    """While a trainer is made: TensorBoard's files go to ``out/tensorboard``, unless the environment says where."""
    if _TENSORBOARD in os.environ:
        yield
        return
    os.environ[_TENSORBOARD] = str(out / "tensorboard")
    try:
        yield
    finally:
        del os.environ[_TENSORBOARD]  # else another run of this process would write here


def named(row: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``validation.jsonl`` by the names that trackers sort under eval."""
    return {"eval_loss": row["validation_loss"], "eval_whole_sample_accuracy": row["whole_sample_accuracy"]}
