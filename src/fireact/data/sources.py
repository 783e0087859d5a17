"""Where data comes from: our own lines as they are, anything else turned into them first.

Invariant: what is downstream sees JSONL of trajectories alone, so large files of our own stream and other formats need
no second way. Recipes of mixtures, which are read from the package or from a TOML file, stand here too.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError, unknown
from fireact.formats.native import sniff
from fireact.formats.read import read_any
from fireact.formats.source import HEAD, UNREAD_CALL, UNREADABLE, Damage
from fireact.store import TRAJECTORIES, file_hash, trajectory_file


@dataclass(frozen=True, slots=True)
class Own:
    """A source as JSONL of trajectories: where it came from, the file to read, and the damage that does not stand in the

    trajectories themselves: rows, and tool calls, that could not be read.
    """

    source: Path
    file: Path
    damage: tuple[Damage, ...] = ()
    turned: bool = False

    @property
    def bad(self) -> list[Damage]:
        """The rows that could not be read."""
        return [one for one in self.damage if one.kind == UNREADABLE]

    @property
    def digest(self) -> str:
        """The hash of what the user named: of a file, of the trajectories of a run, or of all files of a directory."""
        if self.source.is_file():
            return file_hash(self.source)
        if not self.turned:
            return file_hash(self.file)
        files = sorted(path for path in self.source.rglob("*") if path.is_file())
        named = "".join(f"{path.relative_to(self.source)} {file_hash(path)}\n" for path in files)
        return sha256(named.encode("utf-8", "surrogateescape")).hexdigest()

    def place(self, number: int) -> str:
        """How a line of the file is named to the user."""
        return f"{self.source}, {'episode' if self.turned else 'line'} {number}"


def is_own(path: Path) -> bool:
    """Whether a path is a run directory or JSONL of trajectories, by its first lines; torn ones count where it is JSONL."""
    if path.is_dir():
        return (path / TRAJECTORIES).exists()
    rows = []
    try:
        for _, line in islice(jsonl.numbered(path), HEAD):
            with suppress(ValueError, RecursionError):  # whoever reads the lines says what is wrong with them
                rows.append(json.loads(line))
    except DataError:
        return not path.exists()
    return sniff(rows) if rows else path.suffix == ".jsonl"


@contextmanager
def own_files(paths: Sequence[Path], *, skip: bool = False) -> Iterator[list[Own]]:
    """Each path as JSONL of trajectories: as it is, or as a temporary file that it was turned into.

    Raises DataError for a row of another format that cannot be read, unless ``skip`` leaves such rows out.
    """
    with tempfile.TemporaryDirectory(prefix="fireact-") as folder:
        found = []
        for number, path in enumerate(paths):
            if is_own(path):
                found.append(Own(path, trajectory_file(path)))
                continue
            file, heard = Path(folder) / f"{number}.jsonl", list[Damage]()
            episodes = read_any(path, notice=heard.append, skip=skip)
            jsonl.write(file, (trajectory.to_dict() for trajectory in episodes))
            damage = tuple(one for one in heard if one.kind in (UNREADABLE, UNREAD_CALL))
            found.append(Own(path, file, damage, turned=True))
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
