"""Gives different seeds to episodes with the same key: the same question twice in a file becomes two seeds of it.

Invariant: reading and writing assign the same seeds, so a row that is read back is the same episode.
"""

from __future__ import annotations

from dataclasses import replace

from fireact.types import Trajectory


class RepeatSeeds:
    """Called with the episodes of one file in order; a repeated key and model gets the next seed."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        key = hash((trajectory.key, trajectory.model))
        times = self._seen.get(key, 0)
        self._seen[key] = times + 1
        return replace(trajectory, seed=trajectory.seed + times) if times else trajectory
