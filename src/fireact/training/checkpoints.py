"""Checkpoints that transformers' Trainer wrote: which of them a run can go on from.

Invariant: one that is returned can be loaded, whenever the run was killed: its files are there and none is cut short.
Writing and deleting them is Trainer's business; the pickles in them are read by torch with ``weights_only``.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What one process writes beside its weights."""
WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
SPREAD = ("pytorch_model_fsdp_0", "optimizer_0")


def disk_gb(*, saved: int, trained: int) -> float:
    """GB that a run takes at its peak: three checkpoints (weights, and two moments of each trained one), the best and the last weights, all float32."""
    return (3 * (4 * saved + 8 * trained) + 2 * 4 * saved) / 1e9


def taken_gb(directory: Path) -> float:
    """GB of the files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e9


def last_whole(directory: Path) -> tuple[Path | None, int]:
    """The newest checkpoint that is whole, and its step; (None, 0) where there is none. Torn ones are passed over."""
    numbered = [(path.name.rpartition("-")[2], path) for path in directory.glob("checkpoint-*")]
    found = [(int(number), path) for number, path in numbered if number.isdecimal()]
    return next(((path, step) for step, path in sorted(found, reverse=True) if is_whole(path, step)), (None, 0))


def is_whole(checkpoint: Path, step: int) -> bool:
    """Whether every file of a checkpoint is there to its end; the state, which names the step, is written last."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    draws = list(checkpoint.glob("rng_state*.pth"))  # one a process
    pickles = [checkpoint / "scheduler.pt", *draws]
    return (
        isinstance(state, dict)
        and state.get("global_step") == step
        and (_is_spread(checkpoint) or _is_in_one_place(checkpoint))
        and bool(draws)
        and all(zipfile.is_zipfile(path) for path in pickles)  # the directory of a zip is at its end
    )


def _is_in_one_place(checkpoint: Path) -> bool:
    """Whether weights (an adapter, a model, or a model in several files) and optimizer are there."""
    try:
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = [name for name in WEIGHTS if (checkpoint / name).exists()]
    whole = all(_is_whole_safetensors(checkpoint / name) for name in names)
    return bool(names) and whole and zipfile.is_zipfile(checkpoint / "optimizer.pt")


def _is_spread(checkpoint: Path) -> bool:
    """Whether weights and optimizer are there in the parts that several processes wrote; ``.metadata`` is written last."""
    return all((checkpoint / name / ".metadata").is_file() for name in SPREAD)


def _is_whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header says. The header is read by hand: this module needs no extra."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 100_000_000)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
    return path.stat().st_size == 8 + length + max(ends, default=0)
