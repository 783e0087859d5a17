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
from fireact.render.messages import content_text
from fireact.types import Trajectory
from fireact.wire.chat_completions import with_calls
from fireact.wire.roles import normalise_role
from fireact.wire.schemas import normalise_schemas, schema_name, unwrap_schema
from fireact.wire.text_calls import parse_json_or_literal, split_tagged_calls

_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_QWEN = re.compile(r"\s*# Tools\n\nYou (?:may call one or more|have access to the following) functions.*\Z", re.DOTALL)
_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)


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


def messages_from_tags(turns: Sequence[Mapping[str, Any]], *, tools: Any = ()) -> list[dict[str, Any]]:
    """Turns with tags as messages with tool calls; a tag without a readable call stays in the text.

    The schemas of ``tools`` say which of Qwen3-Coder's parameters are not strings.
    """
    types = {schema_name(tool): unwrap_schema(tool)["parameters"]["properties"] for tool in normalise_schemas(tools)}
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role, text = normalise_role(_role(turn)), _text(turn)
        if role == "assistant":
            words, calls = split_tagged_calls(text, types)
            messages.append(with_calls({**turn, "role": role, "content": words}, calls))
        elif role in ("tool", "user") and _RESPONSE.search(text):
            messages += [{"role": "tool", "content": match[1]} for match in _RESPONSE.finditer(text)]
        else:
            messages.append({**turn, "role": role, "content": text})
    return messages


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    turns = require_field(_find_turns(row), "conversation")
    system = next((_text(turn) for turn in turns if normalise_role(_role(turn)) == "system"), "")
    tools = row.get("tools") or _find_schemas(system)
    messages = messages_from_tags(turns, tools=tools)
    if not row.get("tools") and tools:
        messages = [
            {**message, "content": _without_schemas(message["content"])} if message["role"] == "system" else message
            for message in messages
        ]
    return read_conversation(source, number, {**row, "tools": tools}, messages)


def _without_schemas(system: str) -> str:
    """A system prompt without its tool schemas, because a chat template adds them again."""
    return _TOOLS.sub(lambda match: "" if match[1] else match[0], _QWEN.sub("", system)).strip()


def _find_schemas(system: str) -> list[Any]:
    """The tool schemas in a system prompt: one document or one a line (Hermes' prompt also mentions the tag itself)."""
    tools = []
    for match in _TOOLS.finditer(system):
        document = parse_json_or_literal(match[1])
        lines = (
            document
            if isinstance(document, list)
            else [document]
            if document
            else map(parse_json_or_literal, match[1].splitlines())
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
