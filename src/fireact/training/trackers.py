"""Experiment trackers, which get the learning curve and validation results in addition to the run directory.

transformers sends them. Invariant: an unknown or missing tracker is refused before anything is loaded or written.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, unknown_name_error

TRACKERS = ("trackio", "mlflow", "tensorboard", "wandb")
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is not known or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise unknown_name_error("tracker", name, TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{name} is not installed; --report-to {name} needs it. Run: pip install {name}")


@contextmanager
def set_tensorboard_directory(out: Path) -> Iterator[None]:
    """Within this context, a new trainer writes TensorBoard's files to ``out/tensorboard``.

    A directory that the environment sets takes precedence.
    """
    if _TENSORBOARD in os.environ:
        yield
        return
    os.environ[_TENSORBOARD] = str(out / "tensorboard")
    try:
        yield
    finally:
        del os.environ[_TENSORBOARD]  # else a later run of this process would write here


def to_tracker_names(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of ``validation.jsonl`` with the names that trackers group under eval."""
    return {"eval_loss": row["validation_loss"], "eval_whole_sample_accuracy": row["whole_sample_accuracy"]}
