"""Conversations with Hermes' and Qwen's tags in their text: ``<tool_call>{...}</tool_call>``, ``<tool_response>``, ``<tools>``.

Invariant: total; a tag that holds no JSON stays text. Rows are those of ShareGPT or of chat messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import conversation
from fireact.formats.source import Source
from fireact.render.messages import role_of, text_of
from fireact.types import Trajectory

_CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are conversations, some with a tagged call."""
    turns = [_turns(row) for row in rows if isinstance(row, dict)]
    found = [turn for group in turns if group is not None for turn in group if role_of(_role(turn)) == "assistant"]
    return None not in turns and len(turns) == len(rows) and any("<tool_call>" in _text(turn) for turn in found)


def read(source: Source) -> Iterator[Trajectory]:
    """The conversations of a file, their tags taken out of the text."""
    return source.each(lambda number, row: [_read(source, row)])


def native(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns with tags as messages with tool calls."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role, text = role_of(_role(turn)), _text(turn)
        if role == "assistant":
            closed = text[: text.rfind("</tool_call>") + len("</tool_call>")] if "</tool_call>" in text else ""
            calls = [(match, _json(match[1])) for match in _CALL.finditer(closed)]
            found = [(match[0], call) for match, call in calls if isinstance(call, Mapping) and "name" in call]
            for tagged, _ in found:
                text = text.replace(tagged, "", 1)
            message = {**turn, "role": role, "content": text}
            messages.append({**message, "tool_calls": [{"function": call} for _, call in found]} if found else message)
        elif role in ("tool", "user") and _RESPONSE.search(text):
            messages += [{"role": "tool", "content": match[1]} for match in _RESPONSE.finditer(text)]
        else:
            messages.append({**turn, "role": role, "content": text})
    return messages


def _read(source: Source, row: Mapping[str, Any]) -> Trajectory:
    turns = _turns(row) or []
    system = next((_text(turn) for turn in turns if role_of(_role(turn)) == "system"), "")
    tools = row.get("tools") or _tools(system)
    return conversation(source, {**row, "tools": tools}, native(turns))


def _tools(system: str) -> list[Any]:
    found = []
    for match in _TOOLS.finditer(system):
        whole = _json(match[1])
        lines = whole if isinstance(whole, list) else [whole] if whole else map(_json, match[1].splitlines())
        found += [tool for tool in lines if isinstance(tool, Mapping)]
    return found


def _turns(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    return turns


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("from", turn.get("role"))


def _text(turn: Mapping[str, Any]) -> str:
    return text_of(turn.get("value", turn.get("content")))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
