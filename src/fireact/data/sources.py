"""Where data comes from: our own lines as they are, anything else turned into them first.

Invariant: what is downstream sees JSONL of trajectories alone, so large files of our own stream and other formats need
no second way. Recipes of mixtures, which are read from the package or from a TOML file, stand here too.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError, unknown
from fireact.formats.conversion import mended
from fireact.formats.read import read_any
from fireact.store import TRAJECTORIES, trajectory_file

_OWN = {"task", "example", "steps", "stop"}


def is_own(path: Path) -> bool:
    """Whether a path is a run directory or JSONL of trajectories, by its first line; a torn one counts where it is JSONL."""
    if path.is_dir():
        return (path / TRAJECTORIES).exists()
    try:
        first = next((line for _, line in jsonl.numbered(path)), b"")
        value = json.loads(first)
    except (DataError, ValueError, RecursionError):  # whoever reads the lines says what is wrong with them
        return not path.exists() or path.suffix == ".jsonl"
    return isinstance(value, dict) and len(_OWN & value.keys()) > 1


@contextmanager
def own_files(paths: Sequence[Path], *, skip: bool = False, fixed: Counter[str] | None = None) -> Iterator[list[Path]]:
    """For each path a JSONL file of trajectories: its own, or a temporary one that it was turned into.

    Where ``fixed`` is given, known damage of other formats is repaired and counted there.
    """
    with tempfile.TemporaryDirectory(prefix="fireact-") as folder:
        found = []
        for number, path in enumerate(paths):
            if is_own(path):
                found.append(trajectory_file(path))
                continue
            found.append(Path(folder) / f"{number}.jsonl")
            episodes = read_any(path, skip=skip)
            whole = episodes if fixed is None else mended(episodes, fixed)
            jsonl.write(found[-1], (trajectory.to_dict() for trajectory in whole))
        yield found


def shipped() -> list[str]:
    """The mixtures that come with the package, by name."""
    return sorted(file.name.removesuffix(".toml") for file in files("fireact").joinpath("mixtures").iterdir())


def mixture_values(name: str | Path) -> dict[str, Any]:
    """What a shipped mixture, or a TOML file, holds. Raises ConfigError when there is none or it cannot be read."""
    path = Path(name)
    try:
        if str(name) in shipped():
            return tomllib.loads(files("fireact").joinpath("mixtures", f"{name}.toml").read_text(encoding="utf-8"))
        if path.suffix == ".toml" or path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the mixture {path}: {error}.") from error
    raise unknown("mixture (a name, or a TOML file)", str(name), shipped())
