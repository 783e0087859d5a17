"""Writes episodes for trainers: one complete file in one format or none, and counts of what the format dropped.

Invariant: each row is read back as it is written and compared, so the counts of dropped parts are measured, not
declared. Rows stream; a failure leaves no file behind.
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

from fireact.base import names
from fireact.errors import ConfigError, DataError, missing_extra_error, unknown_name_error
from fireact.formats import alpaca, atif, chats, completions, gpt, inspect_log, native, otlp, sharegpt, spans, sts
from fireact.formats.card import Origin, build_card
from fireact.formats.dropped import find_losses
from fireact.formats.repeats import RepeatSeeds
from fireact.formats.source import SESSIONS, SourceFile
from fireact.formats.trainers import learns_all
from fireact.types import Tool, Trajectory

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Writer:
    """A format that can be written: the rows of a trajectory, the reader of a row, and the layout of the file."""

    name: str
    rows: Callable[[Trajectory], list[Row]]
    read_back: Callable[[SourceFile], Iterator[Trajectory]]
    layout: Literal["jsonl", "ascii", "array", "parquet", "dataset", "sessions", "inspect"]
    full_row: Callable[[Trajectory], Row | list[Row]]
    """What is read back to measure losses: the whole episode, even if the format spreads it over rows."""
    flaw: Callable[[Row], str] = lambda row: ""
    """Why trainers of this format would leave a row out, or nothing."""
    silent: bool = False
    """Whether an episode without any text or action of the student is written too."""


def _one_row_writer(name: str, row: Callable[[Trajectory], Row], back: Any, layout: Any, **more: Any) -> Writer:
    return Writer(name, lambda trajectory: [row(trajectory)], back, layout, row, **more)


WRITERS = (
    _one_row_writer("fireact", native.native_row, native.read, "jsonl", silent=True),
    _one_row_writer("alpaca", alpaca.alpaca_row, alpaca.read, "array"),
    _one_row_writer("gpt", gpt.gpt_row, gpt.read, "ascii"),
    _one_row_writer("sharegpt", sharegpt.sharegpt_row, sharegpt.read, "jsonl", flaw=sharegpt.find_sharegpt_flaw),
    _one_row_writer("messages", chats.messages_row, chats.read, "jsonl", silent=True),
    _one_row_writer("openai", chats.api_row, chats.read, "jsonl"),
    Writer("prompt-completion", completions.completion_rows, gpt.read, "jsonl", completions.completion_conversation),
    Writer(
        "parquet",
        lambda trajectory: [chats.arrow_row(trajectory)],
        chats.read,
        "parquet",
        chats.messages_row,
        silent=True,
    ),
    Writer(
        "dataset",
        lambda trajectory: [chats.arrow_row(trajectory)],
        chats.read,
        "dataset",
        chats.messages_row,
        silent=True,
    ),
    _one_row_writer("atif", atif.atif_document, atif.read, "jsonl"),
    Writer("sts", sts.session_rows, sts.read, "sessions", sts.session_rows),
    _one_row_writer("otlp", spans.export_spans, otlp.read, "jsonl"),
    Writer(
        "inspect",
        lambda trajectory: [inspect_log.write_sample(trajectory)],
        inspect_log.read,
        "inspect",
        lambda trajectory: inspect_log.wrap_samples([inspect_log.write_sample(trajectory)]),
    ),
)
"""The formats that can be written: files, or a directory for the ``datasets`` library or the Hub's trace viewer."""
_FOR_TRAINER = {
    ("gpt", "llama-factory"): _one_row_writer("gpt", gpt.gpt_open_row, gpt.read, "ascii", flaw=gpt.find_gpt_flaw)
}
"""Formats that are written differently for a trainer."""


@dataclass(frozen=True, slots=True)
class WriteSummary:
    """Counts of read trajectories and written rows, losses by kind (``dropped.KINDS``), and counts by group."""

    trajectories: int
    rows: int
    dropped: dict[str, int]
    counts: dict[str, int]


def find_writer(format: str) -> Writer:
    """The writer with a name: a built-in one, or a plug-in with ``write``.

    Raises ConfigError that lists the known names.
    """
    for writer in WRITERS:
        if writer.name == format:
            return writer
    if ":" in format or format in names.known_names("format"):
        plugin = names.resolve_plugin("format", format)
        names.require_attributes("format", format, plugin, "sniff", "read", "write")
        return _one_row_writer(format, plugin.write, plugin.read, "jsonl")
    raise unknown_name_error("format", format, [*names.known_names("format"), *(writer.name for writer in WRITERS)])


def write_episodes(
    trajectories: Iterable[Trajectory],
    out: Path,
    format: str,
    *,
    tools: Sequence[Tool] = (),
    trainer: str | None = None,
    origin: Origin | None = None,
    force: bool = False,
) -> WriteSummary:
    """Write trajectories to ``out`` in a format. ``tools`` give schemas to episodes that come without.

    Episodes without any text or action of the student are left out and counted. For a ``trainer`` that learns turns of
    weight 0 in this format, so are episodes with such turns. A data card names the ``origin``. Raises DataError where
    ``out`` exists (unless ``force``) or where there is nothing to write.
    """
    writer = _FOR_TRAINER.get((format, trainer or "")) or find_writer(format)
    if (out.exists() and not force) or (out.is_dir() and not (out / "README.md").is_file()):
        raise DataError(
            f"{out} exists. Choose another -o, or --force to write it anew (a directory only if it is ours)."
        )
    tally = _Tally(writer, trainer, origin)
    rows = chain.from_iterable(map(tally.rows, (_with_tools(trajectory, tools) for trajectory in trajectories)))
    first_row = list(islice(rows, 1))
    if not first_row:
        why = "; ".join(f"{kind}: {count}" for kind, count in tally.dropped.items()) if tally.episode_count else ""
        raise DataError(f"no episodes to write to {out}: {why or 'the source holds none'}.")
    _LAYOUTS[writer.layout](chain(first_row, rows), out, tally)
    return tally.summarise()


class _Tally:
    """Counts what is written and what is lost while rows stream."""

    def __init__(self, writer: Writer, trainer: str | None, origin: Origin | None) -> None:
        self.writer = writer
        self.trainer = trainer
        self.origin = origin
        self.episode_count = 0
        self.counts: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.row_count = 0
        self._number_written, self._number_read = (
            (lambda trajectory: trajectory) if writer.name == "fireact" else RepeatSeeds() for _ in range(2)
        )

    def rows(self, trajectory: Trajectory) -> list[Row]:
        self.episode_count += 1
        reason = self._reason_to_leave_out(trajectory)
        if reason:
            self.dropped[reason] += 1
            return []
        self.counts[f"{trajectory.task}/{trajectory.method}"] += 1
        self.models[trajectory.model] += 1
        numbered = self._number_written(trajectory)  # the ids of spans and samples are made of the seed
        losses = find_losses(trajectory, self._reread(numbered))
        self.dropped.update(losses)
        if self.trainer and "weights" not in losses and any(0 < step.weight < 1 for step in trajectory.steps):
            self.dropped[f"weights between 0 and 1 (turns that {self.trainer} learns in full)"] += 1
        rows = self.writer.rows(numbered)
        self.dropped.update(flaw for row in rows if (flaw := self.writer.flaw(row)))
        self.row_count += len(rows)
        return rows

    def _reason_to_leave_out(self, trajectory: Trajectory) -> str:
        """Why an episode is not written, or nothing."""
        steps = trajectory.steps
        if not self.writer.silent and not any(step.action or (step.text + step.thought).strip() for step in steps):
            return "episode without a turn of the student (left out)"
        if self.trainer and learns_all(self.trainer, self.writer.name) and any(step.weight <= 0 for step in steps):
            return f"episode with a turn of weight 0, which {self.trainer} would learn (left out)"
        return ""

    def _reread(self, trajectory: Trajectory) -> Trajectory | None:
        row = json.loads(json.dumps(self.writer.full_row(trajectory)))
        document = row if isinstance(row, list) else [row]
        try:
            back = next(self.writer.read_back(SourceFile(Path("written"), "json", tuple(document), document)), None)
        except DataError:
            return None
        return None if back is None else self._number_read(back)

    def summarise(self) -> WriteSummary:
        return WriteSummary(
            self.episode_count, self.row_count, dict(self.dropped.most_common()), dict(sorted(self.counts.items()))
        )


def _with_tools(trajectory: Trajectory, tools: Sequence[Tool]) -> Trajectory:
    if not tools or trajectory.meta.get("tools"):
        return trajectory
    schemas = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)} for tool in tools
    ]
    return replace(trajectory, meta={**trajectory.meta, "tools": schemas})


def _write_jsonl(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    _write_lines(rows, out, ascii=False)


def _write_ascii(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    _write_lines(rows, out, ascii=True)


def _write_lines(rows: Iterable[Row], out: Path, *, ascii: bool) -> None:
    def fill(file: IO[str]) -> None:
        for row in rows:
            text = json.dumps(row, ensure_ascii=ascii)
            file.write((text if _is_unicode(text) else json.dumps(row)) + "\n")

    _replace_file(out, fill)


def _write_array(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    """One JSON array, indented by four as the released code indents it, without a last newline."""

    def fill(file: IO[str]) -> None:
        for index, row in enumerate(rows):
            text = json.dumps([row], indent=4)
            file.write((",\n" if index else "[\n") + text.removeprefix("[\n").removesuffix("\n]"))
        file.write("\n]")

    _replace_file(out, fill)


def _replace_file(out: Path, fill: Callable[[IO[str]], None]) -> None:
    with _partial_file(out) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        fill(file)


def _is_unicode(text: str) -> bool:
    """Whether a text can be UTF-8: JSON can hold half of a surrogate pair, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _make_storable(rows: Iterable[Row], tally: _Tally) -> Iterator[Row]:
    """Rows as Arrow can hold them: lone surrogates become "?", and rows with them are counted."""
    for row in rows:
        text = json.dumps(row, ensure_ascii=False)
        if not _is_unicode(text):
            tally.dropped["characters that are no Unicode"] += 1
            row = json.loads(text.encode(errors="replace"))
        yield row


@contextmanager
def _partial_file(out: Path) -> Iterator[Path]:
    """A temporary file to fill: it gets its final name when complete, and is deleted after a failure."""
    if out.is_dir():
        raise DataError(f"{out} is a directory; this format is one file. Choose another -o.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")
    try:
        yield partial
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra_error("pyarrow", "train") from error
    texts, schema = _parquet_schema(pyarrow, pyarrow.string()), _parquet_schema(pyarrow, pyarrow.json_())
    storable_rows = _make_storable(rows, tally)
    with _partial_file(out) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as file:
        while batch := list(islice(storable_rows, 1000)):
            file.write_table(pyarrow.Table.from_pylist(batch, schema=texts).cast(schema))


def _parquet_schema(pyarrow: Any, json: Any) -> Any:
    """The fixed columns of a Parquet file; what differs from row to row is JSON."""
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


def _write_dataset(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    if out.is_file():
        raise ConfigError(f"{out} is a file; a dataset is a directory. Choose another -o.")
    _write_parquet(rows, out / "data" / "train.parquet", tally)
    _write_card(out, tally)


def _write_card(out: Path, tally: _Tally) -> None:
    summary, models = tally.summarise(), dict(sorted(tally.models.items()))
    text = build_card(
        out.name, counts=summary.counts, models=models, dropped=summary.dropped, origin=tally.origin,
        has_sessions=tally.writer.layout == "sessions",
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")


def _write_sessions(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    """A directory with one file for each session, as the Hub's trace viewer takes them, and a data card."""
    if out.is_file():
        raise ConfigError(f"{out} is a file; this format is a directory. Choose another -o.")
    folder = out / SESSIONS
    for file in folder.glob("*.jsonl") if folder.is_dir() else ():
        file.unlink()  # of the dataset that is written anew
    sessions: list[list[Row]] = []
    for row in rows:
        if row["type"] == sts.SESSION:
            _flush_session(sessions, folder)
            sessions.append([])
        sessions[-1].append(row)
    _flush_session(sessions, folder)
    _write_card(out, tally)


def _flush_session(sessions: list[list[Row]], folder: Path) -> None:
    """Write the last session, and keep nothing of it but its place in the count."""
    if sessions:
        _write_lines(sessions[-1], folder / f"{len(sessions):06}.jsonl", ascii=False)
        sessions[-1] = []


def _write_inspect(rows: Iterable[Row], out: Path, tally: _Tally) -> None:
    """One document around all samples, whose results are their means."""
    document = inspect_log.wrap_samples(list(rows))
    _replace_file(out, lambda file: json.dump(document, file))


_LAYOUTS: dict[str, Callable[[Iterable[Row], Path, _Tally], None]] = {
    "jsonl": _write_jsonl, "ascii": _write_ascii, "array": _write_array,
    "parquet": _write_parquet, "dataset": _write_dataset, "sessions": _write_sessions, "inspect": _write_inspect,
}  # fmt: skip
