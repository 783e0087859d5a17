"""Where data comes from: trajectory files as they are, other formats converted to them first.

Invariant: later code reads JSONL of trajectories only, so large trajectory files stream and other formats need no code
of their own. Mixtures are read here too, from the package or from a TOML file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.names import list_shipped_files, read_shipped_file
from fireact.base.run_directory import CONFIG, TRAJECTORIES, file_hash, read_config, read_trajectories, trajectory_file
from fireact.errors import DataError, missing_path_error
from fireact.formats.native import sniff
from fireact.formats.read import read_any
from fireact.formats.source import HEAD, LOST_KINDS, UNREADABLE, Damage, Notice, ignore_damage, is_plain_file
from fireact.types import Trajectory


def find_origins(data: Path) -> list[Path]:
    """The paths that a mixture or a repaired copy was made of; none for any other path."""
    settings = read_config(data) if (data / CONFIG).is_file() else {}
    origins = {"mix": settings.get("sources", ()), "doctor": [settings.get("data", "")]}
    return [Path(str(origin)) for origin in origins.get(settings.get("verb", ""), ())]


@dataclass(frozen=True, slots=True)
class TrajectoryFile:
    """A source as JSONL of trajectories: the path that the user named, and the file to read.

    ``damage`` lists rows and tool calls that could not be read, which the trajectories themselves cannot show.
    ``converted`` says whether ``file`` is a temporary file.
    """

    named_path: Path
    file: Path
    damage: tuple[Damage, ...] = ()
    converted: bool = False

    @property
    def bad(self) -> list[Damage]:
        """The rows that could not be read."""
        return [damage for damage in self.damage if damage.kind == UNREADABLE]

    @property
    def digest(self) -> str:
        """The hash of the named path: of a file, of a run's trajectories, or of all files of another directory."""
        if self.named_path.is_file():
            return file_hash(self.named_path)
        if not self.converted:
            return file_hash(self.file)
        files = sorted(path for path in self.named_path.rglob("*") if path.is_file())
        listing = "".join(f"{path.relative_to(self.named_path)} {file_hash(path)}\n" for path in files)
        return sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

    def describe_line(self, number: int) -> str:
        """The place of a line, for messages."""
        return f"{self.named_path}, {'episode' if self.converted else 'line'} {number}"


def is_trajectory_file(path: Path) -> bool:
    """Whether a path is a run directory or JSONL of trajectories, by its first lines.

    A .jsonl file without a readable line counts as one, so that its bad lines are reported.
    """
    if path.is_dir():
        return (path / TRAJECTORIES).exists()
    rows = []
    if path.is_file() and not is_plain_file(path):
        return False
    try:
        for _, line in islice(jsonl.read_numbered_lines(path), HEAD):
            with suppress(ValueError, RecursionError):  # reading the whole file reports bad lines
                rows.append(json.loads(line))
    except DataError:
        return not path.exists()
    return sniff(rows) if rows else path.suffix == ".jsonl"


@contextmanager
def open_trajectory_files(paths: Sequence[Path], *, skip: bool = False) -> Iterator[list[TrajectoryFile]]:
    """Each path as JSONL of trajectories: the file itself, or a converted temporary file.

    Raises DataError for a row of another format that cannot be read, unless ``skip`` leaves such rows out.
    """
    with tempfile.TemporaryDirectory(prefix="fireact-") as folder:
        opened = []
        for number, path in enumerate(paths):
            if is_trajectory_file(path):
                opened.append(TrajectoryFile(path, trajectory_file(path)))
                continue
            file, damages = Path(folder) / f"{number}.jsonl", list[Damage]()
            episodes = read_any(path, notice=damages.append, skip=skip)
            jsonl.write_objects(file, (trajectory.to_dict() for trajectory in episodes))
            damage = tuple(report for report in damages if report.kind in LOST_KINDS)
            opened.append(TrajectoryFile(path, file, damage, converted=True))
        yield opened


def read_any_trajectories(path: Path, notice: Notice = ignore_damage) -> Iterator[Trajectory]:
    """The trajectories of a run directory, of JSONL, or of a file in any format that ``convert`` reads.

    Raises DataError where there is nothing, or a row cannot be read.
    """
    if not path.exists():
        raise missing_path_error(path)
    yield from read_trajectories(path) if is_trajectory_file(path) else read_any(path, notice=notice)


def list_mixtures() -> list[str]:
    """The names of the mixtures that come with the package."""
    return list_shipped_files(_mixture_folder())


def _mixture_folder() -> Any:
    return files("fireact").joinpath("mixtures")


def load_mixture_values(name: str | Path) -> dict[str, Any]:
    """The values of a shipped mixture or a TOML file. Raises ConfigError where it is missing or cannot be read."""
    return read_shipped_file("mixture", str(name), _mixture_folder())
