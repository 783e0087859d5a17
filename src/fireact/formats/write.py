"""Writes episodes for trainers: a file in one format, there complete or not at all, and what the format dropped.

Invariant: each row is read back as it is written and compared; so the counts of what was dropped are measured, not
declared. Rows stream; what fails leaves no file behind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from fireact.errors import ConfigError, DataError, missing_extra, unknown
from fireact.formats import alpaca, chats, completions, gpt, native, sharegpt
from fireact.formats.card import Origin, card
from fireact.formats.losses import lost
from fireact.formats.repeats import Repeats
from fireact.formats.source import Source
from fireact.formats.trainers import learns_all
from fireact.types import Tool, Trajectory

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Writer:
    """A format that can be written: the rows of a trajectory, what reads a row back, and how the file is laid out."""

    name: str
    rows: Callable[[Trajectory], list[Row]]
    back: Callable[[Source], Iterator[Trajectory]]
    layout: Literal["jsonl", "ascii", "array", "parquet", "dataset"]
    whole: Callable[[Trajectory], Row]
    """The row that is read back to see what is lost: of an episode that is spread over rows, all of it."""
    flaw: Callable[[Row], str] = lambda row: ""
    """Why the trainers that take the format would leave a row out, or nothing."""
    silent: bool = False
    """Whether an episode in which the student says nothing is written too."""


def _one(name: str, row: Callable[[Trajectory], Row], back: Any, layout: Any, **more: Any) -> Writer:
    return Writer(name, lambda trajectory: [row(trajectory)], back, layout, row, **more)


WRITERS = (
    _one("fireact", native.row, native.read, "jsonl", silent=True),
    _one("alpaca", alpaca.row, alpaca.read, "array"),
    _one("gpt", gpt.row, gpt.read, "ascii"),
    _one("sharegpt", sharegpt.row, sharegpt.read, "jsonl", flaw=sharegpt.flaw),
    _one("messages", chats.row, chats.read, "jsonl", silent=True),
    _one("openai", chats.api_row, chats.read, "jsonl"),
    Writer("prompt-completion", completions.rows, gpt.read, "jsonl", completions.whole),
    Writer("parquet", lambda it: [chats.arrow_row(it)], chats.read, "parquet", chats.row, silent=True),
    Writer("dataset", lambda it: [chats.arrow_row(it)], chats.read, "dataset", chats.row, silent=True),
)
"""What can be written: files, or a directory for the ``datasets`` library."""
_FOR_TRAINER = {("gpt", "llama-factory"): _one("gpt", gpt.open_row, gpt.read, "ascii", flaw=gpt.flaw)}
"""What is written otherwise for the sake of a trainer."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many trajectories came and how many of them lost what (by kind; see ``losses.KINDS``); rows and groups written."""

    trajectories: int
    rows: int
    dropped: dict[str, int]
    counts: dict[str, int]


def writer_of(format: str) -> Writer:
    """The writer with a name. Raises ConfigError that lists the known ones."""
    for writer in WRITERS:
        if writer.name == format:
            return writer
    raise unknown("format", format, [writer.name for writer in WRITERS])


def write(
    trajectories: Iterable[Trajectory],
    out: Path,
    format: str,
    *,
    tools: Sequence[Tool] = (),
    trainer: str | None = None,
    origin: Origin | None = None,
    force: bool = False,
) -> Written:
    """Write trajectories to ``out`` in a format. ``tools`` give schemas to episodes that come without.

    For a ``trainer`` that learns turns of weight 0 in this format, episodes with such turns are left out and counted; as
    are episodes in which the student says nothing. A data card tells the ``origin``. Raises DataError where ``out`` exists
    (unless ``force``) or where nothing is there to write.
    """
    writer = _FOR_TRAINER.get((format, trainer or "")) or writer_of(format)
    if (out.exists() and not force) or (out.is_dir() and not (out / "README.md").is_file()):
        raise DataError(
            f"{out} exists. Choose another -o, or --force to write it anew (a directory only if it is ours)."
        )
    tally = _Tally(writer, trainer, origin)
    rows = chain.from_iterable(map(tally.rows, (_with_tools(trajectory, tools) for trajectory in trajectories)))
    first = list(islice(rows, 1))
    if not first:
        why = "; ".join(f"{kind}: {count}" for kind, count in tally.dropped.items()) if tally.came else ""
        raise DataError(f"no episodes to write to {out}: {why or 'the source holds none'}.")
    _LAYOUTS[writer.layout](chain(first, rows), out, tally)
    return tally.written()


class _Tally:
    """Counts what is written and what is lost, as it goes by."""

    def __init__(self, writer: Writer, trainer: str | None, origin: Origin | None) -> None:
        self.writer = writer
        self.trainer = trainer
        self.origin = origin
        self.came = 0
        self.counts: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.row_count = 0
        self._told_apart = (lambda it: it) if writer.name == "fireact" else Repeats()

    def rows(self, trajectory: Trajectory) -> list[Row]:
        self.came += 1
        left_out = self._left_out(trajectory)
        if left_out:
            self.dropped[left_out] += 1
            return []
        self.counts[f"{trajectory.task}/{trajectory.method}"] += 1
        self.models[trajectory.model] += 1
        missing = lost(trajectory, self._back(trajectory))
        self.dropped.update(missing)
        if self.trainer and "weights" not in missing and any(0 < step.weight < 1 for step in trajectory.steps):
            self.dropped[f"weights between 0 and 1 (turns that {self.trainer} learns in full)"] += 1
        rows = self.writer.rows(trajectory)
        self.dropped.update(flaw for row in rows if (flaw := self.writer.flaw(row)))
        self.row_count += len(rows)
        return rows

    def _left_out(self, trajectory: Trajectory) -> str:
        """Why an episode is not written, or nothing."""
        steps = trajectory.steps
        if not self.writer.silent and not any(step.action or (step.text + step.thought).strip() for step in steps):
            return "episode without a turn of the student (left out)"
        if self.trainer and learns_all(self.trainer, self.writer.name) and any(step.weight <= 0 for step in steps):
            return f"episode with a turn of weight 0, which {self.trainer} would learn (left out)"
        return ""

    def _back(self, trajectory: Trajectory) -> Trajectory | None:
        row = json.loads(json.dumps(self.writer.whole(trajectory)))
        try:
            back = next(self.writer.back(Source(Path("written"), "json", (row,), [row])), None)
        except DataError:
            return None
        return None if back is None else self._told_apart(back)

    def written(self) -> Written:
        return Written(self.came, self.row_count, dict(self.dropped.most_common()), dict(sorted(self.counts.items())))


def _with_tools(trajectory: Trajectory, tools: Sequence[Tool]) -> Trajectory:
    if not tools or trajectory.meta.get("tools"):
        return trajectory
    given = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)} for tool in tools
    ]
    return replace(trajectory, meta={**trajectory.meta, "tools": given})


def _jsonl(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    _lines(rows, out, ascii=False)


def _ascii(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    _lines(rows, out, ascii=True)


def _lines(rows: Iterable[Row], out: Path, *, ascii: bool) -> None:
    def fill(file: IO[str]) -> None:
        for row in rows:
            text = json.dumps(row, ensure_ascii=ascii)
            file.write((text if _is_unicode(text) else json.dumps(row)) + "\n")

    _replace(out, fill)


def _array(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    """One JSON array, indented by four as the released code indents it, without a last newline."""

    def fill(file: IO[str]) -> None:
        for at, row in enumerate(rows):
            text = json.dumps([row], indent=4)
            file.write((",\n" if at else "[\n") + text.removeprefix("[\n").removesuffix("\n]"))
        file.write("\n]")

    _replace(out, fill)


def _replace(out: Path, fill: Callable[[IO[str]], None]) -> None:
    with _part(out) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        fill(file)


def _is_unicode(text: str) -> bool:
    """Whether a text can be UTF-8: half of a surrogate pair, which JSON can hold, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(rows: Iterable[Row], tally: _Tally) -> Iterator[Row]:
    """Rows as Arrow can hold them: characters that are no Unicode become "?", and are counted."""
    for row in rows:
        text = json.dumps(row, ensure_ascii=False)
        if not _is_unicode(text):
            tally.dropped["characters that are no Unicode"] += 1
            row = json.loads(text.encode(errors="replace"))
        yield row


@contextmanager
def _part(out: Path) -> Iterator[Path]:
    """The file to fill, which takes its name when it is whole, and is taken away where that fails."""
    if out.is_dir():
        raise DataError(f"{out} is a directory; this format is one file. Choose another -o.")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _parquet(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "train") from error
    texts, schema = _schema(pyarrow, pyarrow.string()), _schema(pyarrow, pyarrow.json_())
    waiting = _storable(rows, tally)
    with _part(out) as part, parquet.ParquetWriter(part, schema, compression="zstd") as file:
        while batch := list(islice(waiting, 1000)):
            file.write_table(pyarrow.Table.from_pylist(batch, schema=texts).cast(schema))


def _schema(pyarrow: Any, json: Any) -> Any:
    """The columns of a Parquet file: fixed, whatever the first rows look like; what differs from row to row is JSON."""
    text = pyarrow.string()
    columns = [("messages", pyarrow.list_(json)), ("tools", json), ("id", text), ("task", text), ("method", text)]
    columns += [
        ("model", text),
        ("seed", pyarrow.int64()),
        ("stop", text),
        ("answer", text),
        ("scores", json),
        ("extra", json),
    ]
    return pyarrow.schema(columns)


def _dataset(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    if out.is_file():
        raise ConfigError(f"{out} is a file; a dataset is a directory. Choose another -o.")
    _parquet(rows, out / "data" / "train.parquet", tally)
    told = tally.written()
    models = dict(sorted(tally.models.items()))
    text = card(out.name, counts=told.counts, models=models, dropped=told.dropped, origin=tally.origin)
    (out / "README.md").write_text(text, encoding="utf-8")


_LAYOUTS: dict[str, Callable[[Iterable[Row], Path, _Tally], None]] = {
    "jsonl": _jsonl, "ascii": _ascii, "array": _array, "parquet": _parquet, "dataset": _dataset,
}  # fmt: skip
