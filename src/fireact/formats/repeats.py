"""Tells episodes apart that would be the same one: the same question twice in a file is two seeds of it.

Invariant: what is read and what is written are told apart alike, so a row that is read back is the episode it was.
"""

from __future__ import annotations

from dataclasses import replace

from fireact.types import Trajectory


class Repeats:
    """Called with the episodes of one file in their order; a repeated key and model gets the next seed."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        key = hash((trajectory.key, trajectory.model))
        times = self._seen.get(key, 0)
        self._seen[key] = times + 1
        return replace(trajectory, seed=trajectory.seed + times) if times else trajectory
