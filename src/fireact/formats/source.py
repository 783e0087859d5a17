"""A file of episodes in some format: its rows with their numbers, and the damage in them.

Invariant: rows of JSONL and Parquet stream, one at a time. A row that cannot be read is an error that names its number;
with ``skip`` it is reported and left out. This module does not know what the rows mean: the readers do.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from fireact.base.redact import excerpt
from fireact.base.run_directory import TRAJECTORIES
from fireact.errors import DataError, missing_extra_error, missing_path_error
from fireact.types import FINISH, Action, Example, Step, Stop, Trajectory, Usage, answer_of
from fireact.wire.fields import WireDamage, replace_surrogates, to_json
from fireact.wire.schemas import find_bad_schemas

HEAD = 50
"""Rows (or lines of text) that are read to recognise a format."""
SESSIONS = "sessions"
"""The folder of a dataset that holds one file of JSON Lines for each session."""
TRACES = "traces.jsonl"
"""The file of episodes in a directory that verifiers wrote."""
UNREADABLE = "unreadable"
"""The kind of Damage of a row that was left out."""
LOST_KINDS = (
    UNREADABLE, "unread-tool-call", "unknown-role", "unknown-block", "stray-result", "unread-schema", "wrong-type",
    "lone-surrogate", "not-a-number", "call-without-content", "unread-score",
)  # fmt: skip
"""The kinds of Damage of rows, and of what stands in rows, that was left out, replaced, or read with weight 0."""
RELEASED = "released"
"""The key of ``Trajectory.meta`` for what the byte-faithful round trip of a released file needs."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A problem in a source file: its kind, the row or line (from 1), and an excerpt or reason."""

    kind: str
    number: int
    detail: str


Notice = Callable[[Damage], None]
T = TypeVar("T")


def ignore_damage(damage: Damage) -> None:
    """Ignore a report of damage."""


_SHAPE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What a reader raises for a row that is not of its format's shape."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file, or the files of a directory, to read; ``head`` are its first rows, or the first lines of a text."""

    path: Path
    kind: Literal["jsonl", "json", "text", "parquet"]
    head: tuple[Any, ...]
    document: Any = None
    notice: Notice = ignore_damage
    skip: bool = False

    @property
    def name(self) -> str:
        """The task's name for rows that name no task."""
        return self.path.stem or "imported"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Rows and their numbers: lines of JSONL, items of a JSON array (a whole JSON object is one row)."""
        if self.kind == "jsonl":
            yield from self._json_lines()
        elif self.kind == "parquet":
            yield from enumerate(_read_parquet(self.path), 1)
        else:
            yield from enumerate(self.document if isinstance(self.document, list) else [self.document], 1)

    def lines(self) -> Iterator[str]:
        """The lines of a text, without their ends; bytes that are no UTF-8 are reported and replaced."""
        for number, line in self._numbered_lines(self.path):
            yield self._mend_text(number, line.rstrip("\r\n"))

    def build_each(self, build: Callable[[int, Any], Iterable[T]]) -> Iterator[T]:
        """What ``build`` makes of each row, trajectories or their parts; a row of another shape is unreadable."""
        for number, row in self.rows():
            yield from self.attempt(number, partial(_list_built, build, number, row)) or ()

    def attempt(self, number: int, build: Callable[[], T]) -> T | None:
        """What ``build`` makes of a row, or None after a report where it is of another shape."""
        try:
            return build()
        except _SHAPE_ERRORS as error:
            self.report_unreadable(number, f"{type(error).__name__}: {error}")
            return None

    def reporter(self, number: int) -> Callable[[WireDamage], None]:
        """A function that reports what could not be read of a row's messages."""

        def report(damage: WireDamage) -> None:
            detail = damage.value if damage.kind == "unread-tool-call" else damage
            text = detail if isinstance(detail, str) else str(detail)
            self.notice(Damage(damage.kind, number, excerpt(text, 120)))

        return report

    def report_bad_schemas(self, number: int, tools: Any) -> None:
        """Report the tool schemas of a row that are none."""
        for tool in find_bad_schemas(tools):
            self.notice(Damage("unread-schema", number, excerpt(to_json(tool), 120)))

    def report_unreadable(self, number: int, why: str) -> None:
        """Report a row that cannot be read. Raises DataError unless such rows are to be skipped."""
        if not self.skip:
            raise DataError(
                f"{self.path}, row {number}: cannot be read as this format ({why}). Repair it, name the format "
                "with --from, or leave such rows out with --skip-bad."
            )
        self.notice(Damage(UNREADABLE, number, why))

    def _json_lines(self) -> Iterator[tuple[int, Any]]:
        for number, (_, line) in enumerate(chain.from_iterable(map(self._numbered_lines, self._files())), 1):
            if not line.strip():
                continue
            try:
                row = self._load_row(number, line)
            except (ValueError, RecursionError) as error:
                self.report_unreadable(number, f"not JSON: {error}")
                continue
            yield number, row

    def _files(self) -> list[Path]:
        """The file, or the files of a directory whose lines are read."""
        if not self.path.is_dir():
            return [self.path]
        return sorted((self.path / SESSIONS).glob("*.jsonl")) or [self.path / TRAJECTORIES]

    def _numbered_lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """The lines of a file and their numbers; with ``skip`` a damaged file ends, after a report, at its damage."""
        number = 0
        with open_text(path) as file:
            try:
                for number, line in enumerate(file, 1):
                    yield number, line
            except _DamagedFileError as error:
                if not self.skip:
                    raise
                self.notice(Damage(UNREADABLE, number + 1, str(error)))

    def _load_row(self, number: int, line: str) -> Any:
        """The JSON value of a line. NaN becomes null, half a surrogate pair a question mark, and both are reported."""
        numbers: list[str] = []
        row = json.loads(line, parse_constant=numbers.append)
        for name in numbers:
            self.notice(Damage("not-a-number", number, f"{name} became null"))
        if "\\u" not in line and not _has_surrogates(line):
            return row
        mended = replace_surrogates(row)
        if mended != row:
            self.notice(Damage("lone-surrogate", number, "half of a surrogate pair, or bytes that are no UTF-8"))
        return mended

    def _mend_text(self, number: int, line: str) -> str:
        if not _has_surrogates(line):
            return line
        self.notice(Damage("lone-surrogate", number, "bytes that are no UTF-8"))
        return line.encode("utf-8", "replace").decode()


def _list_built(build: Callable[[int, Any], Iterable[T]], number: int, row: Any) -> list[T]:
    return list(build(number, row))


def open_source_file(path: Path, *, notice: Notice = ignore_damage, skip: bool = False) -> SourceFile:
    """Find out the kind of file at a path and read its head. Raises DataError where it is missing, empty or broken."""
    if path.is_dir() and (path / TRACES).is_file():
        path = path / TRACES
    if path.is_dir() and any((path / SESSIONS).glob("*.jsonl")):
        return _open_jsonl(path, notice, skip)
    if path.is_dir() and not (path / TRAJECTORIES).is_file():
        return _open_parquet(path, notice, skip)
    if path.is_file() and _read_magic(path).startswith(b"PAR1"):
        return _open_parquet(path, notice, skip)
    file = path / TRAJECTORIES if path.is_dir() else path
    first_line = _first_lines(file, 1)
    if not first_line:
        raise DataError(f"{file} is empty. Give a file that holds episodes.")
    first = first_line[0].lstrip()[0]
    if first == "{" and (_is_json(first_line[0]) or _is_mostly_json(_first_lines(file, HEAD))):
        return _open_jsonl(path, notice, skip)
    if first in "{[" and path.suffix != ".txt":
        return _open_json(file, notice, skip)
    probe = SourceFile(file, "text", (), skip=True)
    return SourceFile(file, "text", tuple(islice(probe.lines(), HEAD)), notice=notice, skip=skip)


def import_trajectory(
    question: str,
    steps: Sequence[Step],
    *,
    task: str,
    id: str = "",
    answer: str = "",
    method: str = "",
    model: str = "",
    seed: int = 0,
    stop: Stop | None = None,
    scores: Mapping[str, float] | None = None,
    usage: Usage | None = None,
    seconds: float = 0.0,
    error: str | None = None,
    about: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Trajectory:
    """A Trajectory of what a format holds; the rest is inferred from the steps, or left empty.

    Without an id the example is identified by its question, so that it is the same example in every file.
    """
    return Trajectory(
        task=task,
        example=Example(id or question_id(question), question, answer, dict(about or {})),
        method=method or infer_method(steps),
        model=model,
        seed=seed,
        steps=tuple(steps),
        stop=stop or infer_stop(steps),
        scores=dict(scores or {}),
        usage=usage or Usage(cost=None),
        seconds=seconds,
        error=error,
        meta={key: value for key, value in (meta or {}).items() if value},
    )


def require_field(value: T | None, field_name: str) -> T:
    """A value that every row of a format has. Raises ValueError where it is missing, so that the row is unreadable."""
    if value is None:
        raise ValueError(f"it has no {field_name}")
    return value


def question_id(question: str) -> str:
    """An id for a question, derived from its text."""
    return hashlib.sha256(question.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def infer_method(steps: Sequence[Step]) -> str:
    """The method of the steps: one step without a tool is ``cot``, or ``io`` without a thought; else ``react``."""
    if len(steps) == 1 and answer_of(steps) is not None:
        return "cot" if steps[0].thought else "io"
    return "react"


def infer_stop(steps: Sequence[Step]) -> Stop:
    """Why an episode ended, as far as its steps show."""
    if answer_of(steps) is not None:
        return "finish"
    return "max_steps" if steps and steps[-1].action is not None else "format"


def finish_step(answer: str, *, thought: str = "", text: str | None = None, joined: bool = False) -> Step:
    """A last step that gives an answer."""
    return Step(thought, Action(FINISH, {"answer": answer}), None, answer if text is None else text, joined=joined)


def open_text(path: Path) -> TextIO:
    """A file of text to read: gzip and zstandard are unpacked, UTF-16 with a mark at its start is decoded.

    Bytes that are no UTF-8 become surrogates, and those that are no UTF-16 become U+FFFD. Raises DataError for a
    missing file, and for a packed or binary one that cannot be read here.
    """
    try:
        magic = _read_magic(path)
        for start, advice in _REFUSED_MAGIC.items():
            if magic.startswith(start):
                raise DataError(f"{path} {advice}.")
        opened: Any = (gzip.open if magic.startswith(b"\x1f\x8b") else open)(path, "rb")
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            opened = _unpack_zstandard(path, opened)
    except OSError as error:
        raise missing_path_error(path, error.strerror or str(error)) from error
    if magic.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _TextReader(opened, "utf-16", errors="replace", path=path)  # half a unit escapes to nothing
    return _TextReader(opened, "utf-8-sig", errors="surrogateescape", path=path)


class _DamagedFileError(DataError):
    """A file that cannot be read to its end: it was cut, or bytes of it were changed."""


class _TextReader(io.TextIOWrapper):
    """The text of a file, perhaps unpacked; damage raises ``_DamagedFileError`` with the last whole line before it."""

    def __init__(self, buffer: Any, encoding: str, *, errors: str, path: Path) -> None:
        super().__init__(buffer, encoding, errors=errors, newline="\n")
        self._path, self._whole_lines = path, 0

    def __next__(self) -> str:  # type: ignore[override]  # as in TextIOWrapper itself
        try:
            line = super().__next__()
        except _DAMAGE as error:
            raise self._damage_error(error) from error
        self._whole_lines += 1
        return line

    def read(self, size: int | None = -1, /) -> str:
        try:
            return super().read(size)
        except _DAMAGE as error:
            raise self._damage_error(error) from error

    def _damage_error(self, error: BaseException) -> _DamagedFileError:
        return _DamagedFileError(
            f"{self._path} is cut or damaged: it can be read to line {self._whole_lines} ({error}). Get the file "
            "again, or read the lines before the damage with --skip-bad."
        )


_DAMAGE = (EOFError, zlib.error, OSError, UnicodeError)
"""What the libraries raise within a file that was cut, or whose bytes were changed."""


def is_plain_file(path: Path) -> bool:
    """Whether a file is neither packed nor in UTF-16, so that its lines can be read as they are."""
    return not _read_magic(path).startswith(_PACKED_MAGIC)


_PACKED_MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff", b"{\x00", b"[\x00", b"\x00")
_REFUSED_MAGIC = {
    b"PK\x03\x04": "is a ZIP archive. Unpack it, and give the file in it",
    b"BZh": "is packed by bzip2. Unpack it with bunzip2",
    b"\xfd7zXZ": "is packed by xz. Unpack it with unxz",
    b"SQLite format 3": "is an SQLite database. Export its rows as JSON Lines",
    **dict.fromkeys(
        (b"{\x00", b"[\x00", b"\x00"),
        "is binary, or UTF-16 without a mark at its start. Convert it with iconv -t UTF-8",
    ),
}
"""How files begin that are not read, and what to do with them."""


def _read_magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise missing_path_error(path, error.strerror or str(error)) from error


def _unpack_zstandard(path: Path, file: Any) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{path} is packed by zstandard, which needs pyarrow here. Unpack it with unzstd, or pip install "
            "'fireact[train]'."
        ) from error
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")


def _first_lines(path: Path, count: int) -> list[str]:
    """The first lines that are not blank; fewer where the file is damaged after them."""
    lines: list[str] = []
    with open_text(path) as file:
        try:
            lines.extend(islice((line for line in file if line.strip()), count))
        except _DamagedFileError:
            if not lines:
                raise
    return lines


def _is_mostly_json(lines: Sequence[str]) -> bool:
    """Whether half of the lines are JSON, so that a few bad ones are rows of JSONL that cannot be read."""
    return 2 * sum(line.lstrip().startswith("{") and _is_json(line) for line in lines) >= len(lines) > 0


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text) if not text.isascii() else False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _open_jsonl(path: Path, notice: Notice, skip: bool) -> SourceFile:
    probe = SourceFile(path, "jsonl", (), skip=True)
    return SourceFile(path, "jsonl", tuple(row for _, row in islice(probe.rows(), HEAD)), notice=notice, skip=skip)


def _open_json(path: Path, notice: Notice, skip: bool) -> SourceFile:
    try:
        with open_text(path) as file:
            document = SourceFile(path, "json", (), notice=notice)._load_row(1, file.read())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}. Repair the file; JSONL may be read with --skip-bad.") from error
    head = tuple(document[:HEAD]) if isinstance(document, list) else (document,)
    return SourceFile(path, "json", head, document, notice=notice, skip=skip)


def _open_parquet(path: Path, notice: Notice, skip: bool) -> SourceFile:
    return SourceFile(path, "parquet", tuple(islice(_read_parquet(path), HEAD)), notice=notice, skip=skip)


def _read_parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra_error("pyarrow", "train") from error
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds neither {TRAJECTORIES} nor Parquet files. Give a file, or a run directory.")
    for file in files:
        try:
            opened = parquet.ParquetFile(file)
            is_json = {field.name for field in opened.schema_arrow if "json" in str(field.type)}
            for batch in opened.iter_batches(batch_size=500):
                for row in batch.to_pylist():
                    yield {
                        name: _parse_json_cell(value) if name in is_json else _drop_nulls(value)
                        for name, value in row.items()
                        if value is not None
                    }
        except OSError as error:
            raise DataError(f"cannot read {file}: {error}.") from error
        except ValueError as error:
            raise DataError(f"{file} is not Parquet: {error}.") from error


def _parse_json_cell(value: Any) -> Any:
    """The value of a cell of JSON: a text, or a list of texts."""
    return [json.loads(item) for item in value] if isinstance(value, list) else json.loads(value)


def _drop_nulls(value: Any) -> Any:
    """Remove the nulls that Arrow adds for absent keys."""
    if isinstance(value, dict):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value
