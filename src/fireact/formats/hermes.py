"""Conversations with Hermes' and Qwen's tags in their text: ``<tool_call>{...}</tool_call>``, ``<tool_response>``, ``<tools>``.

Calls are JSON, Python's literals (Hermes' data has both), or Qwen3-Coder's ``<function=NAME><parameter=KEY>``. Invariant:
total; a tag that holds no call stays text and is reported. Rows are those of ShareGPT or of chat messages.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import conversation
from fireact.formats.source import Source, needed
from fireact.render.messages import role_of, schemas, text_of
from fireact.types import Trajectory

_CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*)\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_QWEN = re.compile(r"\s*# Tools\n\nYou (?:may call one or more|have access to the following) functions.*\Z", re.DOTALL)
_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are conversations, some with a tagged call."""
    turns = [_turns(row) for row in rows if isinstance(row, dict)]
    found = [turn for group in turns if group is not None for turn in group if role_of(_role(turn)) == "assistant"]
    return None not in turns and len(turns) == len(rows) and any("<tool_call>" in _text(turn) for turn in found)


def read(source: Source) -> Iterator[Trajectory]:
    """The conversations of a file, their tags taken out of the text."""
    return source.each(lambda number, row: [_read(source, number, row)])


def native(turns: Sequence[Mapping[str, Any]], *, tools: Any = ()) -> list[dict[str, Any]]:
    """Turns with tags as messages with tool calls; a tag that holds no call stays among the words.

    The schemas of ``tools`` tell which of Qwen3-Coder's parameters are no strings.
    """
    types = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in schemas(tools)}
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role, text = role_of(_role(turn)), _text(turn)
        if role == "assistant":
            words, calls = _calls(text, types)
            message = {**turn, "role": role, "content": words}
            messages.append({**message, "tool_calls": [{"function": call} for call in calls]} if calls else message)
        elif role in ("tool", "user") and _RESPONSE.search(text):
            messages += [{"role": "tool", "content": match[1]} for match in _RESPONSE.finditer(text)]
        else:
            messages.append({**turn, "role": role, "content": text})
    return messages


def _read(source: Source, number: int, row: Mapping[str, Any]) -> Trajectory:
    turns = needed(_turns(row), "conversation")
    system = next((_text(turn) for turn in turns if role_of(_role(turn)) == "system"), "")
    tools = row.get("tools") or _tools(system)
    messages = native(turns, tools=tools)
    if not row.get("tools") and tools:
        messages = [{**it, "content": _untold(it["content"])} if it["role"] == "system" else it for it in messages]
    return conversation(source, number, {**row, "tools": tools}, messages)


def _untold(system: str) -> str:
    """A system prompt without the schemas that were read out of it: a chat template tells them again."""
    return _TOOLS.sub(lambda match: "" if match[1] else match[0], _QWEN.sub("", system)).strip()


def _calls(text: str, types: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """The words of a turn and its calls; a tag that holds no call stays among the words."""
    closed = text[: text.rfind("</tool_call>") + len("</tool_call>")] if "</tool_call>" in text else ""
    found: list[Mapping[str, Any]] = []
    for match in _CALL.finditer(closed):
        call = _tagged(match[1], types) if match[1].startswith("<function=") else _json(match[1])
        if isinstance(call, Mapping) and "name" in call:
            text = text.replace(match[0], "", 1)
            found.append(call)
    return (text.strip() if found else text), found


def _tagged(text: str, types: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A call in Qwen3-Coder's tags; a value is a string unless the schema says otherwise, as its own parser has it."""
    function = _FUNCTION.match(text)
    if function is None:
        return None
    properties = types.get(function[1], {})
    arguments = {}
    for name, value in (match.groups() for match in _PARAMETER.finditer(function[2])):
        schema = properties.get(name) if isinstance(properties, Mapping) else None
        kind = schema.get("type", "string") if isinstance(schema, Mapping) else "string"
        read = None if kind == "string" else _json(value)
        arguments[name] = value if read is None else read
    return {"name": function[1], "arguments": arguments}


def _tools(system: str) -> list[Any]:
    """The schemas that the system prompt holds, one document or one a line (Hermes names the tag in its words, too)."""
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
    """What JSON says, or Python's literals, as Hermes' own data writes them; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return json.loads(json.dumps(read(text)))  # a literal may be what JSON has not
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None
