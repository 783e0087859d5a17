"""Reads episodes from any known format, recognised from what is in the file and not from its name.

Invariant: JSONL and Parquet stream; two rows that would be the same episode are told apart by their seed (the same
question twice in one file), so that nothing downstream takes one for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import DataError, unknown
from fireact.formats import (
    alpaca,
    atif,
    chats,
    gpt,
    hermes,
    inspect_log,
    native,
    released_runs,
    sharegpt,
    smolagents,
    tagged,
    text_log,
    toolbench,
    verifiers,
)
from fireact.formats.repeats import Repeats
from fireact.formats.source import Notice, Source, open_source, unheard
from fireact.sensitive import excerpt
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Reader:
    """A format that can be read: its name, how it is recognised, and what reads it."""

    name: str
    sniff: Callable[[Sequence[Any]], bool]
    read: Callable[[Source], Iterator[Trajectory]]


READERS = (
    Reader("fireact", native.sniff, native.read),
    Reader("released-run", released_runs.sniff, released_runs.read),
    Reader("inspect", inspect_log.sniff, inspect_log.read),
    Reader("smolagents", smolagents.sniff, smolagents.read),
    Reader("atif", atif.sniff, atif.read),
    Reader("verifiers", verifiers.sniff, verifiers.read),
    Reader("toolbench", toolbench.sniff, toolbench.read),
    Reader("hermes", hermes.sniff, hermes.read),
    Reader("gpt", gpt.sniff, gpt.read),
    Reader("sharegpt", sharegpt.sniff, sharegpt.read),
    Reader("messages", chats.sniff, chats.read),
    Reader("alpaca", alpaca.sniff, alpaca.read),
    Reader("tagged", tagged.sniff, tagged.read),
    Reader("react-log", text_log.sniff, text_log.read),
)
"""In the order in which they are tried: the more telling come first."""


_WRITTEN_AS = {"openai": "messages", "parquet": "messages", "dataset": "messages"}
"""Formats that are written under a name of their own and read as another."""


def read_any(
    path: Path | str, format: str | None = None, *, notice: Notice = unheard, skip: bool = False
) -> Iterator[Trajectory]:
    """The episodes of a file or directory in any known format, which is recognised where it is not named.

    ``notice`` hears of each Damage. Raises DataError where the format is not recognised, or with the number of the row
    that cannot be read (``skip`` leaves such rows out), ConfigError for an unknown name.
    """
    source = open_source(Path(path), notice=notice, skip=skip)
    reader = reader_of(source, format)
    found = reader.read(source)
    return found if reader.name == "fireact" else map(Repeats(), found)  # our own episodes have names of their own


def reader_of(source: Source, format: str | None = None) -> Reader:
    """The reader of a source: the named one, or the first that recognises it."""
    if format is not None:
        format = _WRITTEN_AS.get(format, format)
        for reader in READERS:
            if reader.name == format:
                return reader
        raise unknown("format", format, [reader.name for reader in READERS])
    for reader in READERS:
        if reader.sniff(source.head):
            return reader
    seen = source.head[0] if source.head else "nothing"
    shown = f"keys {excerpt(', '.join(map(str, seen)), 100)}" if isinstance(seen, dict) else excerpt(repr(seen), 100)
    raise DataError(
        f"{source.path}: the format is not recognised (it begins with {shown}). Name it with --from: "
        f"{', '.join(reader.name for reader in READERS)}."
    )
