"""Checkpoints that transformers' Trainer wrote: finds the one from which a run can resume.

Invariant: a returned checkpoint can be loaded, whenever the run was killed: all its files exist and are complete.
Writing and deleting them is Trainer's business; the pickles in them are read by torch with ``weights_only``.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""The files that one process writes beside its weights."""
WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
SHARDED = ("pytorch_model_fsdp_0", "optimizer_0")


def estimate_disk_gb(*, saved: int, trained: int) -> float:
    """GB on disk at the peak of a run, in float32.

    These are three checkpoints (weights, and two moments of each trained weight), and the best and the last weights.
    """
    return (3 * (4 * saved + 8 * trained) + 2 * 4 * saved) / 1e9


def used_disk_gb(directory: Path) -> float:
    """GB of the files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e9


def find_last_checkpoint(directory: Path) -> tuple[Path | None, int]:
    """The newest complete checkpoint and its step; (None, 0) where there is none. Incomplete ones are skipped."""
    numbered = [(path.name.rpartition("-")[2], path) for path in directory.glob("checkpoint-*")]
    checkpoints = [(int(number), path) for number, path in numbered if number.isdecimal()]
    return next(
        ((path, step) for step, path in sorted(checkpoints, reverse=True) if is_complete_checkpoint(path, step)),
        (None, 0),
    )


def is_complete_checkpoint(checkpoint: Path, step: int) -> bool:
    """Whether every file of a checkpoint is complete; the state, which contains the step, is written last."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    random_states = list(checkpoint.glob("rng_state*.pth"))  # one a process
    pickles = [checkpoint / "scheduler.pt", *random_states]
    return (
        isinstance(state, dict)
        and state.get("global_step") == step
        and (_has_sharded_weights(checkpoint) or _has_whole_weights(checkpoint))
        and bool(random_states)
        and all(zipfile.is_zipfile(path) for path in pickles)  # a zip file has its directory at its end
    )


def _has_whole_weights(checkpoint: Path) -> bool:
    """Whether unsharded weights (an adapter, or a model in one or several files) and the optimizer are complete."""
    try:
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = [name for name in WEIGHTS if (checkpoint / name).exists()]
    are_complete = all(_is_complete_safetensors(checkpoint / name) for name in names)
    return bool(names) and are_complete and zipfile.is_zipfile(checkpoint / "optimizer.pt")


def _has_sharded_weights(checkpoint: Path) -> bool:
    """Whether several processes wrote their shards of weights and optimizer; ``.metadata`` is written last."""
    return all((checkpoint / name / ".metadata").is_file() for name in SHARDED)


def _is_complete_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says. The header is parsed here, so that no extra is needed."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 100_000_000)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
    return path.stat().st_size == 8 + length + max(ends, default=0)
