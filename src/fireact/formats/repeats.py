"""Gives different seeds to episodes with the same key: the same question twice in a file becomes two seeds of it.

Invariant: reading and writing assign the same seeds, so a row that is read back is the same episode, and no two
episodes of one model have the same key afterwards.
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
        numbered = trajectory
        while times and (numbered is trajectory or hash((numbered.key, numbered.model)) in self._seen):
            numbered = replace(trajectory, seed=trajectory.seed + times)
            times += 1
        self._seen[hash((numbered.key, numbered.model))] = 1
        self._seen[key] = max(times, 1)
        return numbered
