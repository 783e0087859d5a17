"""New episodes in run directories since the last look: whole lines only, found by file and byte offset.

Invariant: nothing is written, and nothing is kept between two looks: the client sends the marks (``seen``) back. A file
that was replaced (sorted at the end of a run, or scored again) is read from its start. Lines are not trusted: a line
that is no trajectory is counted and skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.run_directory import CONFIG, MANIFEST, TRAJECTORIES, parse_trajectory, read_config, read_manifest
from fireact.errors import DataError, FormatError, missing_path_error
from fireact.formats.read import read_any
from fireact.reporting.browser import episode_entry
from fireact.rollout.shards import take_shard
from fireact.types import Trajectory

AT_A_TIME = 4_000_000
"""Most bytes of lines that one look reads; the rest is left to the next."""
DEPTH = 3
"""Levels of directories below a given one that are searched for runs: stages, or the runs of a study."""
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A run directory or a file of episodes, and its name on the page."""

    name: str
    path: Path


def find_watched_runs(paths: Sequence[Path]) -> list[WatchedRun]:
    """The runs at and below the paths at this moment that have episodes or a training log.

    Raises DataError for a path that is no run directory and holds none.
    """
    names_by_path: dict[Path, str] = {}
    for path in paths:
        if not path.exists():
            raise missing_path_error(path)
        if path.is_file():
            names_by_path.setdefault(path, path.name)
            continue
        inside = [
            run for run in _run_dirs_below(path, DEPTH) if any((run / name).exists() for name in (TRAJECTORIES, LOG))
        ]
        if not inside and not (path / CONFIG).exists() and not any(_run_dirs_below(path, DEPTH)):
            raise DataError(
                f"{path} is no run directory and holds none. Give a file of episodes, or a directory of collect, eval, "
                "quickstart, ..."
            )
        for run in inside:
            name = path.name if run == path else str(run.relative_to(path))
            names_by_path.setdefault(run, name if len(paths) == 1 or run == path else f"{path.name}/{name}")
    name_counts: dict[str, int] = {}
    for name in names_by_path.values():
        name_counts[name] = name_counts.get(name, 0) + 1
    return [WatchedRun(name if name_counts[name] == 1 else str(run), run) for run, name in names_by_path.items()]


def read_updates(runs: Sequence[WatchedRun], last_marks: Mapping[str, Any]) -> dict[str, Any]:
    """The state of each run, and the new episodes.

    ``last_marks`` is the ``seen`` of the last look ({} at first; odd values count as a first look). In the answer,
    ``dropped`` names runs whose earlier episodes are no longer valid, and ``more`` says that there is more to read now.
    """
    states, marks, episodes, dropped, more = [], {}, [], [], False
    remaining_bytes = AT_A_TIME
    for run in runs:
        before = _parse_mark(last_marks.get(run.name))
        if run.path.is_file():
            trajectories, mark, replaced = _read_new_episodes(run.path, before)
            episodes += [episode_entry(trajectory, run.name) for trajectory in trajectories]
            marks[run.name] = [*mark]
            dropped += [run.name] if replaced and before[1] else []
            states.append({"name": run.name, "complete": True})
            continue
        state = _run_state(run)
        lines, mark, replaced = _read_new_lines(run.path / TRAJECTORIES, before, remaining_bytes)
        remaining_bytes -= sum(map(len, lines))
        more = more or remaining_bytes <= 0
        unreadable = mark[2] if replaced else before[2]
        if replaced and before[1]:
            dropped.append(run.name)
        for line in lines:
            try:
                episodes.append(episode_entry(parse_trajectory(line), run.name))
            except FormatError:
                unreadable += 1
        marks[run.name] = [mark[0], mark[1], unreadable]
        states.append({**state, "unreadable": unreadable} if unreadable else state)
    return {"runs": states, "seen": marks, "episodes": episodes, "dropped": dropped, "more": more}


def _run_dirs_below(path: Path, depth: int) -> Iterator[Path]:
    """The run directories at and below a path, in the order in which they were started."""
    run_dirs = [path] if (path / CONFIG).is_file() else []
    for level in range(1, depth + 1):
        run_dirs += [config.parent for config in path.glob("/".join("*" * level) + f"/{CONFIG}")]
    yield from sorted(run_dirs, key=lambda run: ((run / CONFIG).stat().st_mtime_ns, str(run)))


def _parse_mark(value: Any) -> tuple[int, int, int]:
    """The inode, the offset and the number of unreadable lines of the last look; zeros where the value is odd."""
    if isinstance(value, list) and len(value) == 3 and all(type(item) is int and item >= 0 for item in value):
        return value[0], value[1], value[2]
    return 0, 0, 0


def _read_new_lines(
    path: Path, before: tuple[int, int, int], limit: int
) -> tuple[list[bytes], tuple[int, int, int], bool]:
    """The whole lines after the mark, the new mark, and whether the file was replaced."""
    try:
        with path.open("rb") as file:
            file_stat = os.fstat(file.fileno())
            replaced = file_stat.st_ino != before[0] or file_stat.st_size < before[1]
            offset = 0 if replaced else before[1]
            file.seek(offset)
            lines, taken = [], 0
            while taken < limit and (line := file.readline()).endswith(b"\n"):
                lines.append(line)
                taken += len(line)
            return lines, (file_stat.st_ino, offset + taken, 0), replaced
    except OSError:  # not there yet, or just being replaced
        return [], before, False


def _read_new_episodes(path: Path, before: tuple[int, int, int]) -> tuple[list[Trajectory], tuple[int, int, int], bool]:
    """All episodes of a file that changed (else none), the new mark, and whether it changed."""
    file_stat = path.stat()
    mark = (file_stat.st_ino, file_stat.st_size, 0)
    if mark == before:
        return [], before, False
    return list(read_any(path)), mark, True


def _run_state(run: WatchedRun) -> dict[str, Any]:
    """The state of a run: its verb, whether it is complete, and its progress."""
    state: dict[str, Any] = {"name": run.name, "complete": (run.path / MANIFEST).exists()}
    try:
        config = read_config(run.path)
    except DataError:  # being written
        return state
    state["verb"] = str(config.get("verb", ""))
    total = _planned_episodes(config)
    if total:
        state["total"] = total
    last = _read_last_row(run.path / LOG)
    if isinstance(last.get("loss"), int | float) and isinstance(last.get("step"), int):
        state |= {"loss": float(last["loss"]), "steps": last["step"]}
        if state["complete"]:
            with contextlib.suppress(DataError):
                state["total"] = read_manifest(run.path).get("steps", last["step"])
    return state


def _planned_episodes(config: Mapping[str, Any]) -> int | None:
    """How many episodes a run, or its shard, will have, if its settings say so."""
    total = _planned_total(config)
    return total if total is None or "shard" not in config else len(take_shard(str(config["shard"]), range(total)))


def _planned_total(config: Mapping[str, Any]) -> int | None:
    plan, tasks, n = config.get("plan"), config.get("tasks"), config.get("n")
    if config.get("verb") == "collect" and isinstance(plan, Mapping):
        return sum(count for count in plan.values() if isinstance(count, int))
    if config.get("verb") == "eval" and isinstance(tasks, list) and isinstance(n, int):
        return n * len(tasks)
    return None


def _read_last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a training log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().split(b"\n")[:-1]
        row = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}
