"""Large JSONL files in blocks of whole lines, processed in parallel, with results in the order of the file.

Invariant: each process holds at most a few blocks in memory, whatever the size of the file; the result does not depend
on the number of processes. A line that is not a trajectory is reported by its number and never skipped silently.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fireact.base.run_directory import parse_trajectory
from fireact.errors import DataError, FormatError, missing_path_error
from fireact.types import Trajectory

Result = TypeVar("Result")
BLOCK_BYTES = 4 << 20
"""Bytes of a block: some thousand trajectories, which outweigh the cost of passing it to a process."""
SINGLE_PROCESS_BYTES = 48 << 20
"""Bytes below which more processes cost more than they save."""


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of a file from byte ``start`` up to ``end``."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line that is not blank: its number within the block (from 1), its byte offset, and its trajectory.

    ``reason`` says why there is no trajectory.
    """

    line: int
    offset: int
    raw: bytes
    trajectory: Trajectory | None
    reason: str = ""

    @property
    def sound(self) -> Trajectory:
        assert self.trajectory is not None
        return self.trajectory


def split_into_blocks(path: Path, size: int = BLOCK_BYTES) -> list[Block]:
    """The blocks of a file, cut at the ends of lines. Raises DataError when it cannot be read."""
    file_blocks, start = [], 0
    try:
        with path.open("rb") as file:
            file_size = file.seek(0, os.SEEK_END)
            while start < file_size:
                file.seek(min(start + size, file_size))
                file.readline()
                end = file.tell()
                file_blocks.append(Block(path, start, end))
                start = end
    except OSError as error:
        raise missing_path_error(path, error.strerror or str(error)) from error
    return file_blocks


def read_entries(block: Block, lines: Sequence[bytes] | None = None) -> Iterator[Entry]:
    """The parsed lines of a block; an entry without a trajectory has the reason. ``lines`` saves reading them again."""
    offset = block.start
    for number, raw in enumerate(read_raw_lines(block) if lines is None else lines, 1):
        if raw.strip():
            try:
                yield Entry(number, offset, raw, parse_trajectory(raw))
            except FormatError as error:
                yield Entry(number, offset, raw, None, str(error))
        offset += len(raw) + 1


def read_raw_lines(block: Block) -> list[bytes]:
    """The lines of a block without their ends."""
    with block.path.open("rb") as file:
        file.seek(block.start)
        lines = file.read(block.end - block.start).split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def choose_worker_count(requested: int, files: Iterable[Path], *, single_below: int = SINGLE_PROCESS_BYTES) -> int:
    """The number of processes: ``requested``; where that is 0, one below ``single_below`` bytes, else one per core."""
    if requested:
        return requested
    if sum(path.stat().st_size for path in files if path.is_file()) < single_below:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], *, workers: int) -> Iterator[Result]:
    """Yield ``work(*job)`` for every job, in order; at most two results per process wait for the caller.

    Raises what the work raises, and DataError when a process was killed.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from (work(*job) for job in jobs)
        return
    # A fork needs no guard in the user's script; elsewhere than on Linux it is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_init_worker)
    try:
        waiting: deque[Future[Result]] = deque()
        for job in jobs:
            waiting.append(pool.submit(work, *job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that read the data was killed (out of memory?). Try again with --workers 1."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _init_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent process alone
    gc.freeze()
