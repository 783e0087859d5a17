"""xLAM's function calls (``xlam-function-calling-60k``, APIGen): ``query``, ``tools``, and the calls as ``answers``.

Invariant: the calls of a row are one turn, its last; the data hold no results and no answer in words. APIGen-MT, whose
rows are conversations, is read as ``sharegpt``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import find_id, read_conversation
from fireact.formats.model_calls import parse_if_json
from fireact.formats.source import SourceFile
from fireact.types import Trajectory


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows have a query, tools, and calls as answers."""
    return bool(rows) and all(isinstance(row, Mapping) and {"query", "answers", "tools"} <= row.keys() for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The queries of a file, each with the calls that answer it."""
    return source.build_each(lambda number, row: [_read_row(source, number, row)])


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    calls = parse_if_json(row["answers"])
    if not isinstance(calls, list) or not calls:
        raise ValueError(f"its answers are no list of calls: {calls!r:.80}")
    messages = [{"role": "user", "content": row["query"]}, {"role": "assistant", "content": "", "tool_calls": calls}]
    about = {"tools": row["tools"], "id": find_id(row, "id"), "system": row.get("system")}
    return read_conversation(source, number, about, messages)
