"""The released evaluation runs: recognised here, and read by ``render.released_run``, as in ``score --task``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fireact.formats.source import SourceFile
from fireact.render.released_run import read_released_run
from fireact.types import Trajectory


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the document maps numbers to episodes with ``traj`` and ``gt``."""
    if len(rows) != 1 or not isinstance(rows[0], dict) or not rows[0]:
        return False
    return all(isinstance(value, dict) and {"traj", "gt"} <= value.keys() for value in rows[0].values())


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a run, in the order of the file."""
    return read_released_run(source.path)
