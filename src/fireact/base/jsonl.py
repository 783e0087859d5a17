"""JSON Lines on disk: appended as work is done, torn only in the last line, read with line numbers.

Invariant: once ``append`` returns, its line is on disk whole; a kill can tear only a later line.
This module knows nothing of what the lines mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fireact.base.redact import excerpt
from fireact.errors import DataError, missing_path_error


def dumps(value: Any) -> str:
    """One line of compact JSON, non-ASCII kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Appender:
    """Appends one JSON object a line and hands each to the operating system at once; torn tails are cut on opening."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_tail(path)
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def append(self, value: Mapping[str, Any]) -> None:
        self._file.write(dumps(value).encode() + b"\n")

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut_torn_tail(path: Path) -> None:
    """Drop a torn last line (one without a newline), so that appending can continue."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            file.truncate(end)


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file in order. Raises DataError naming the file and line that cannot be read."""
    for number, line in read_numbered_lines(path):
        yield _parse_object(path, number, line)


def read_numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The non-blank lines of a file, numbered from 1. Raises DataError for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise missing_path_error(path, error.strerror or str(error)) from error


def _parse_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{path}, line {number}: not JSON ({error}); it reads {excerpt(line, 60)!r}. Repair or delete that line."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}.")
    return value


def write_objects(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSONL file: it appears complete or not at all."""
    with open_replacement(path) as file:
        for value in values:
            file.write(dumps(value).encode() + b"\n")


def sort_lines(path: Path, order: Mapping[str, int], key: Callable[[Mapping[str, Any]], str]) -> None:
    """Sort the lines of a file by the position that ``order`` gives each key, without reading the file into memory."""
    places = []
    with path.open("rb") as file:
        start = 0
        for number, line in enumerate(file, 1):
            places.append((order[key(_parse_object(path, number, line))], start, len(line)))
            start += len(line)
        if places == sorted(places):
            return
        with open_replacement(path) as arranged:
            for _, start, length in sorted(places):
                file.seek(start)
                arranged.write(file.read(length))


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader or a kill sees the old text or the new one, never half."""
    with open_replacement(path) as file:
        file.write(text.encode())


@contextmanager
def open_replacement(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that replaces ``path`` once it is complete; after an error the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb", buffering=1 << 20) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
