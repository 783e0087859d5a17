"""What has come into run directories since somebody last looked: whole lines only, by file and byte offset.

Invariant: nothing is kept between two looks but what the one who looks brings back (``seen``), and nothing is written. A
file that was replaced (put in order at a run's end, scored anew) is read again from its start. What a line holds is not
trusted: one that is no trajectory is counted and passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import DataError, FormatError
from fireact.formats.read import read_any
from fireact.reporting.browser import episode
from fireact.store import CONFIG, MANIFEST, TRAJECTORIES, parse_trajectory, read_config, read_manifest
from fireact.types import Trajectory

AT_A_TIME = 4_000_000
"""Bytes of lines that one look reads at most; then there is more."""
DEPTH = 3
"""Directories below a given one in which runs are looked for: stages, or the runs of a study."""
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Watched:
    """A run directory, or a file of episodes, and the name that it has on the page."""

    name: str
    path: Path


def watched(paths: Sequence[Path]) -> list[Watched]:
    """The runs behind the paths as of now: each that has episodes or a training log, and those that lie below.

    Raises DataError for a path that is no run directory and holds none.
    """
    found: dict[Path, str] = {}
    for path in paths:
        if path.is_file():
            found.setdefault(path, path.name)
            continue
        inside = [run for run in _below(path, DEPTH) if any((run / name).exists() for name in (TRAJECTORIES, LOG))]
        if not inside and not (path / CONFIG).exists() and not any(_below(path, DEPTH)):
            raise DataError(
                f"{path} is no run directory and holds none. Give a file of episodes or one of collect, eval, quickstart, ..."
            )
        for run in inside:
            name = path.name if run == path else str(run.relative_to(path))
            found.setdefault(run, name if len(paths) == 1 or run == path else f"{path.name}/{name}")
    taken: dict[str, int] = {}
    for name in found.values():
        taken[name] = taken.get(name, 0) + 1
    return [Watched(name if taken[name] == 1 else str(run), run) for run, name in found.items()]


def look(runs: Sequence[Watched], seen: Mapping[str, Any]) -> dict[str, Any]:
    """How far each run is, and the episodes that are new.

    ``seen`` is what the last look gave under that name ({} at first; odd values count as nothing seen). ``dropped`` names
    runs whose earlier episodes no longer hold, ``more`` says that there is more to read at once.
    """
    states, marks, episodes, dropped, more = [], {}, [], [], False
    left = AT_A_TIME
    for run in runs:
        before = _mark(seen.get(run.name))
        if run.path.is_file():
            own, mark, again = _file(run.path, before)
            episodes += [episode(one, run.name) for one in own]
            marks[run.name] = [*mark]
            dropped += [run.name] if again and before[1] else []
            states.append({"name": run.name, "complete": True})
            continue
        state = _state(run)
        lines, mark, again = _new_lines(run.path / TRAJECTORIES, before, left)
        left -= sum(map(len, lines))
        more = more or left <= 0
        unreadable = mark[2] if again else before[2]
        if again and before[1]:
            dropped.append(run.name)
        for line in lines:
            try:
                episodes.append(episode(parse_trajectory(line), run.name))
            except FormatError:
                unreadable += 1
        marks[run.name] = [mark[0], mark[1], unreadable]
        states.append({**state, "unreadable": unreadable} if unreadable else state)
    return {"runs": states, "seen": marks, "episodes": episodes, "dropped": dropped, "more": more}


def _below(path: Path, depth: int) -> Iterator[Path]:
    """The run directories at and below a path, in the order in which they were begun."""
    found = [path] if (path / CONFIG).is_file() else []
    for level in range(1, depth + 1):
        found += [config.parent for config in path.glob("/".join("*" * level) + f"/{CONFIG}")]
    yield from sorted(found, key=lambda run: ((run / CONFIG).stat().st_mtime_ns, str(run)))


def _mark(value: Any) -> tuple[int, int, int]:
    """The file, the offset and the unreadable lines of the last look."""
    if isinstance(value, list) and len(value) == 3 and all(type(item) is int and item >= 0 for item in value):
        return value[0], value[1], value[2]
    return 0, 0, 0


def _new_lines(path: Path, before: tuple[int, int, int], limit: int) -> tuple[list[bytes], tuple[int, int, int], bool]:
    """Whole lines after the mark, the new mark, and whether the file is another one than it was."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            again = about.st_ino != before[0] or about.st_size < before[1]
            offset = 0 if again else before[1]
            file.seek(offset)
            lines, taken = [], 0
            while taken < limit and (line := file.readline()).endswith(b"\n"):
                lines.append(line)
                taken += len(line)
            return lines, (about.st_ino, offset + taken, 0), again
    except OSError:  # not there yet, or just being replaced
        return [], before, False


def _file(path: Path, before: tuple[int, int, int]) -> tuple[list[Trajectory], tuple[int, int, int], bool]:
    """All episodes of a file, the new mark, and whether it is another than it was; nothing new where it is the same."""
    about = path.stat()
    mark = (about.st_ino, about.st_size, 0)
    if mark == before:
        return [], before, False
    return list(read_any(path)), mark, True


def _state(run: Watched) -> dict[str, Any]:
    """What is known of a run besides its episodes."""
    state: dict[str, Any] = {"name": run.name, "complete": (run.path / MANIFEST).exists()}
    try:
        config = read_config(run.path)
    except DataError:  # being written
        return state
    state["verb"] = str(config.get("verb", ""))
    total = _total(config)
    if total:
        state["total"] = total
    last = _last_row(run.path / LOG)
    if isinstance(last.get("loss"), int | float) and isinstance(last.get("step"), int):
        state |= {"loss": float(last["loss"]), "steps": last["step"]}
        if state["complete"]:
            with contextlib.suppress(DataError):
                state["total"] = read_manifest(run.path).get("steps", last["step"])
    return state


def _total(config: Mapping[str, Any]) -> int | None:
    """How many episodes a run will have, where its settings say so."""
    plan, tasks, n = config.get("plan"), config.get("tasks"), config.get("n")
    if config.get("verb") == "collect" and isinstance(plan, Mapping):
        return sum(count for count in plan.values() if isinstance(count, int))
    if config.get("verb") == "eval" and isinstance(tasks, list) and isinstance(n, int):
        return n * len(tasks)
    return None


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a training log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().split(b"\n")[:-1]
        row = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}
