"""FireAct's own format: a run directory of collect, mix or eval, or JSONL of trajectories. It loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fireact.base.run_directory import read_trajectory
from fireact.formats.source import SourceFile
from fireact.types import Trajectory


def sniff(rows: Sequence[Any]) -> bool:
    """Whether any of the first rows is a trajectory, even a damaged one; the others are then bad lines of our file."""
    return any(isinstance(row, dict) and {"example", "steps"} <= row.keys() for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The trajectories as they were written."""
    return source.build_each(lambda number, row: [read_trajectory(row)])


def native_row(trajectory: Trajectory) -> dict[str, Any]:
    """The trajectory as JSON holds it."""
    return trajectory.to_dict()
