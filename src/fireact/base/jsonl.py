"""JSON Lines on disk: appended as work is done, torn only in the last line, read with line numbers.

Invariant: once ``append`` returns, its line is on disk whole; a kill can tear only a later line, and an error leaves no
trace of its own. What JSON or UTF-8 cannot hold never leaves in a file, nor does a secret in use. This module knows
nothing of what the lines mean.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fireact.base.redact import excerpt, hide_secrets
from fireact.errors import DataError, missing_path_error, unwritable_file_error

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_SURROGATE, _SURROGATE_BYTES = re.compile(r"\\u[dD][89a-fA-F]"), re.compile(rb"\\u[dD][89a-fA-F]")
_UNSOUND = re.compile(rb"\\u[dD][89a-fA-F]|\b(?:NaN|Infinity)\b")


def dumps(value: Any) -> str:
    """One line of compact JSON, non-ASCII kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """The value of a JSON text; half a surrogate pair becomes U+FFFD. Raises ValueError, for deep nesting too."""
    try:
        value = json.loads(text)
        if (_SURROGATE_BYTES if isinstance(text, bytes) else _SURROGATE).search(text):  # type: ignore[arg-type]
            value = json.loads(encode_text(json.dumps(value, ensure_ascii=False)))
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def encode_text(text: str) -> bytes:
    """A text as UTF-8, with U+FFFD for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def encode_line(value: Mapping[str, Any]) -> bytes:
    """An object as a line of a file: a number that is not finite becomes null, and secrets in use are hidden."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = dumps(_replace_not_finite(value))
    return encode_text(hide_secrets(text)) + b"\n"


def mend_line(line: bytes) -> bytes:
    """A line as it is, or as ``encode_line`` writes it where it holds what no file may hold."""
    if not _UNSOUND.search(line):
        return line
    mended = encode_line(loads(line)).rstrip()
    return line if json.loads(line) == json.loads(mended) else mended  # the words may stand in a text


def _replace_not_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _replace_not_finite(item) for key, item in value.items()}
    return [_replace_not_finite(item) for item in value] if isinstance(value, list | tuple) else value


class Appender:
    """Appends one JSON object a line and hands each to the operating system at once; torn tails are cut on opening."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_torn_tail(path)
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            raise unwritable_file_error(path, error) from error

    def append(self, value: Mapping[str, Any]) -> None:
        """Append a line. Raises DiskError where it cannot be written whole; then nothing of it stays."""
        line = encode_line(value)
        with self._lock:
            end = os.fstat(self._file.fileno()).st_size
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError as error:
                with suppress(OSError):
                    self._file.truncate(end)
                raise unwritable_file_error(self._path, error) from error

    def close(self) -> None:
        """Wait until the disk has all lines. Raises DiskError."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable_file_error(self._path, error) from error
        finally:
            self._file.close()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(*([DataError] if kind is not None else [])):  # never hide the error that came first
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
        value = loads(line)
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
            file.write(encode_line(value))


def sort_lines(path: Path, positions: Iterable[int]) -> None:
    """Move each line of a file to its position, which the caller knows, without reading the file into memory.

    Blank lines have no position, and are left out where lines move.
    """
    places, remaining_positions = [], iter(positions)
    with path.open("rb") as file:
        start = 0
        for line in file:
            if line.strip():
                places.append((next(remaining_positions), start, len(line)))
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
        file.write(encode_text(text))


@contextmanager
def open_replacement(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that replaces ``path`` once it is complete; after an error the old file stays.

    Raises DiskError where it cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("wb", buffering=1 << 20)
    except OSError as error:
        raise unwritable_file_error(path, error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:  # of a file that is read meanwhile
            raise
        with suppress(OSError):
            temporary.unlink()
        raise unwritable_file_error(path, error) from error
