"""Reads episodes from any known format, which is recognised by the content of the file and not by its name.

A format of one's own is an object (a module, say) with ``sniff(rows)`` and ``read(source)``, and ``write(trajectory)``
where it can be written. It is named as ``module:attribute``, or is an entry point in the group ``fireact.formats``;
those are tried before the built-in formats.

Invariant: JSONL and Parquet stream. Two rows that would be the same episode (the same question twice in one file) get
different seeds, so that later code never confuses them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base import names
from fireact.base.redact import excerpt
from fireact.errors import DataError, unknown_name_error
from fireact.formats import (
    adp,
    alpaca,
    api_log,
    atif,
    chats,
    claude_code,
    codex,
    gpt,
    hermes,
    inspect_log,
    langfuse,
    langsmith,
    mlflow,
    native,
    openhands,
    otlp,
    released_runs,
    sharegpt,
    smolagents,
    sts,
    swe_agent,
    tagged,
    tensorzero,
    text_log,
    toolbench,
    verifiers,
    xlam,
)
from fireact.formats.repeats import RepeatSeeds
from fireact.formats.source import Notice, SourceFile, ignore_damage, open_source_file
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Reader:
    """A format that can be read: its name, the test that recognises it, and its reader."""

    name: str
    sniff: Callable[[Sequence[Any]], bool]
    read: Callable[[SourceFile], Iterator[Trajectory]]


READERS = (
    Reader("fireact", native.sniff, native.read),
    Reader("released-run", released_runs.sniff, released_runs.read),
    Reader("inspect", inspect_log.sniff, inspect_log.read),
    Reader("smolagents", smolagents.sniff, smolagents.read),
    Reader("atif", atif.sniff, atif.read),
    Reader("verifiers", verifiers.sniff, verifiers.read),
    Reader("toolbench", toolbench.sniff, toolbench.read),
    Reader("mlflow", mlflow.sniff, mlflow.read),
    Reader("langsmith", langsmith.sniff, langsmith.read),
    Reader("langfuse", langfuse.sniff, langfuse.read),
    Reader("otlp", otlp.sniff, otlp.read),
    Reader("sts", sts.sniff, sts.read),
    Reader("claude-code", claude_code.sniff, claude_code.read),
    Reader("codex", codex.sniff, codex.read),
    Reader("openhands", openhands.sniff, openhands.read),
    Reader("swe-agent", swe_agent.sniff, swe_agent.read),
    Reader("tensorzero", tensorzero.sniff, tensorzero.read),
    Reader("adp", adp.sniff, adp.read),
    Reader("xlam", xlam.sniff, xlam.read),
    Reader("api-log", api_log.sniff, api_log.read),
    Reader("hermes", hermes.sniff, hermes.read),
    Reader("gpt", gpt.sniff, gpt.read),
    Reader("sharegpt", sharegpt.sniff, sharegpt.read),
    Reader("messages", chats.sniff, chats.read),
    Reader("alpaca", alpaca.sniff, alpaca.read),
    Reader("tagged", tagged.sniff, tagged.read),
    Reader("react-log", text_log.sniff, text_log.read),
)
"""In the order in which they are tried: the more specific formats first."""


def plugin_reader(name: str) -> Reader:
    """The reader of a format of the user's own, or of another package. Raises ConfigError where it is none."""
    plugin = names.resolve_plugin("format", name)
    names.require_attributes("format", name, plugin, "sniff", "read")
    return Reader(name, plugin.sniff, plugin.read)


_READ_AS = {"openai": "messages", "parquet": "messages", "dataset": "messages"}
"""Formats that are written under a name of their own and read under another."""


def read_any(
    path: str | os.PathLike[str], format: str | None = None, *, notice: Notice = ignore_damage, skip: bool = False
) -> Iterator[Trajectory]:
    """The episodes of a file or directory in any known format, which is recognised where it is not named.

    ``notice`` is called with each Damage. Raises DataError for an unrecognised format or, with its number, for a row
    that cannot be read (``skip`` leaves such rows out). Raises ConfigError for an unknown format name.
    """
    source = open_source_file(Path(path), notice=notice, skip=skip)
    reader = find_reader(source, format)
    episodes = reader.read(source)
    return (
        episodes if reader.name == "fireact" else map(RepeatSeeds(), episodes)
    )  # our own episodes already have distinct keys


def find_reader(source: SourceFile, format: str | None = None) -> Reader:
    """The reader of a source: the named one, or the first that recognises it."""
    plugin_names = names.known_names("format")
    if format is not None:
        format = _READ_AS.get(format, format)
        if format in plugin_names or ":" in format:
            return plugin_reader(format)
        for reader in READERS:
            if reader.name == format:
                return reader
        raise unknown_name_error("format", format, [*plugin_names, *(reader.name for reader in READERS)])
    readers = (*map(plugin_reader, plugin_names), *READERS)
    for rows in (source.head, _rows_of_majority(readers, source.head)):
        for reader in readers:
            if rows and reader.sniff(rows):
                return reader
    first_row = source.head[0] if source.head else "nothing"
    beginning = (
        f"keys {excerpt(', '.join(map(str, first_row)), 100)}"
        if isinstance(first_row, dict)
        else excerpt(repr(first_row), 100)
    )
    raise DataError(
        f"{source.path}: the format is not recognised (it begins with {beginning}). Name it with --from: "
        f"{', '.join(reader.name for reader in READERS)}."
    )


def _rows_of_majority(readers: Sequence[Reader], rows: Sequence[Any]) -> list[Any]:
    """The first rows that the reader takes which takes most of them one by one; none unless they are more than half.

    The other rows are bad ones, which the reader names.
    """
    groups = [[row for row in rows if reader.sniff([row])] for reader in readers]
    largest = max(groups, key=len, default=[])
    return largest if 2 * len(largest) > len(rows) else []
