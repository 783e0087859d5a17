"""Conversations with the tags of Hermes and Qwen: ``<tool_call>{...}</tool_call>``, ``<tool_response>``, ``<tools>``.

Calls are JSON, Python literals (Hermes' data has both), or Qwen3-Coder's ``<function=NAME><parameter=KEY>``.
Invariant: total; a tag without a readable call stays in the text and is reported. Rows have the fields of ShareGPT or
of chat messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import read_conversation
from fireact.formats.source import SourceFile, require_field
from fireact.types import Trajectory
from fireact.wire.file_messages import content_text
from fireact.wire.roles import normalise_role
from fireact.wire.text_calls import parse_json_or_literal

_QWEN = re.compile(r"# Tools\n\nYou (?:may call one or more|have access to the following) functions.*\Z", re.DOTALL)
_TOOLS = re.compile(r"<tools>((?:[^<]++|<(?!/?tools>))*+)</tools>")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are conversations, some with a tagged call."""
    turns = [_find_turns(row) for row in rows if isinstance(row, dict)]
    assistant_turns = [
        turn for group in turns if group is not None for turn in group if normalise_role(_role(turn)) == "assistant"
    ]
    return (
        None not in turns and len(turns) == len(rows) and any("<tool_call>" in _text(turn) for turn in assistant_turns)
    )


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The conversations of a file, with their tags parsed."""
    return source.build_each(lambda number, row: [_read_row(source, number, row)])


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    turns = require_field(_find_turns(row), "conversation")
    system = next((_text(turn) for turn in turns if normalise_role(_role(turn)) == "system"), "")
    tools = row.get("tools") or _find_schemas(system)
    if not row.get("tools") and tools:
        turns = [_without_schemas(turn) if normalise_role(_role(turn)) == "system" else turn for turn in turns]
    return read_conversation(source, number, {**row, "tools": tools}, turns)


def _without_schemas(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A system prompt without its tool schemas, because a chat template adds them again."""
    text = _TOOLS.sub(lambda match: "" if match[1].strip() else match[0], _QWEN.sub("", _text(turn))).strip()
    return {"role": "system", "content": text}


def _find_schemas(system: str) -> list[Any]:
    """The tool schemas in a system prompt: one document or one a line (Hermes' prompt also mentions the tag itself)."""
    tools = []
    for text in (match[1].strip() for match in _TOOLS.finditer(system)):
        document = parse_json_or_literal(text)
        lines = (
            document
            if isinstance(document, list)
            else [document]
            if document
            else map(parse_json_or_literal, text.splitlines())
        )
        tools += [tool for tool in lines if isinstance(tool, Mapping)]
    return tools


def _find_turns(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    return turns


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("from", turn.get("role"))


def _text(turn: Mapping[str, Any]) -> str:
    return content_text(turn.get("value", turn.get("content")))
