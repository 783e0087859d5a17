"""Our own runs: a directory of collect, mix or eval, or a JSONL file of trajectories. Nothing is lost in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fireact.formats.source import Source
from fireact.types import Trajectory


def sniff(rows: Sequence[Any]) -> bool:
    """Whether one of the first rows is a trajectory, if a damaged one; the others are then bad lines of our own file."""
    return any(isinstance(row, dict) and {"example", "steps"} <= row.keys() for row in rows)


def read(source: Source) -> Iterator[Trajectory]:
    """The trajectories as they were written."""
    return source.each(lambda number, row: [Trajectory.from_dict(row)])


def row(trajectory: Trajectory) -> dict[str, Any]:
    """The trajectory as JSON holds it."""
    return trajectory.to_dict()
