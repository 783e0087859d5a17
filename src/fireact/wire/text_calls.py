"""Tool calls in the text forms of model families, read and written; any text can be read.

<tool_call>{"name": ..., "arguments": {...}}</tool_call>           Hermes, Qwen; also Python literals
<tool_call><function=NAME><parameter=KEY>...</tool_call>           Qwen3-Coder
{"name": ..., "parameters": {...}}                                 Llama 3, bare
{"action": ..., "action_input": ...}                               agents' JSON, under several names
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from fireact.types import FINISH, Action
from fireact.wire.fields import parse_json

CALL_TAGS, RESULT_TAGS = "<tool_call>\n{}\n</tool_call>", "<tool_response>\n{}\n</tool_response>"

_TAG = re.compile(r"<tool_call>")
_OBJECT = re.compile(r'\{\s*"(?:name|type|function|parameters|arguments|id)"')
_TAGGED = re.compile(r"<tool_call>(?:(?:(?!<tool_call>).)*?</tool_call>|\s*[{<][^\n]*)", re.DOTALL)
"""A tagged call that is still part of a text: a closed one, or one that was cut off."""
_CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*)\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_NAMES = ("name", "action", "tool", "tool_name", "function")
_ARGUMENTS = ("arguments", "action_input", "args", "parameters", "tool_input", "input")


def write_tagged_call(action: Action) -> str:
    """A call in tags."""
    return CALL_TAGS.format(json.dumps({"name": action.name, "arguments": dict(action.arguments)}, ensure_ascii=False))


def find_tags(text: str) -> list[str]:
    """What stands in the tags of calls in a text."""
    tags = (match[0].removeprefix("<tool_call>") for match in _TAGGED.finditer(text))
    return [tag.removesuffix("</tool_call>").strip() for tag in tags]


def find_calls(text: str) -> list[tuple[int, Action]]:
    """The calls in a text with their positions: those in tags, or else those that are bare JSON."""
    tags = [(tag.start(), tag.end()) for tag in _TAG.finditer(text)]
    objects = [(match.start(), match.start()) for match in _OBJECT.finditer(text)]
    calls: list[tuple[int, Action]] = []
    read_until = 0
    for start, begin in tags or objects:
        if start < read_until:
            continue  # an object inside a call that was read already
        value, length = decode_json(text[begin:])
        action = _parse_action(value)
        if action is not None:
            calls.append((start, action))
            read_until = begin + length
    return calls


def decode_json(text: str) -> tuple[Any, int]:
    bare = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(bare)
    except (ValueError, RecursionError):
        return None, 0
    return value, len(text) - len(bare) + end


def _parse_action(value: Any) -> Action | None:
    inner = value.get("function") if isinstance(value, dict) else None
    value = inner if isinstance(inner, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    argument_values = [value[key] for key in ("arguments", "parameters") if key in value]
    if not argument_values or not value["name"].strip():
        return None
    name = value["name"].strip()
    return Action(FINISH if name.lower() == FINISH else name, _parse_arguments(argument_values[0]))


def _parse_arguments(arguments: Any) -> Mapping[str, Any]:
    """The arguments as a mapping: from an object, from one as JSON text, from None, or else as ``input``."""
    if isinstance(arguments, str):
        value, _ = decode_json(arguments)
        arguments = value if isinstance(value, dict) else arguments
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"input": arguments}


def split_tagged_calls(text: str, types: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """The text of a turn and its calls; a tag without a readable call stays in the text."""
    closed = text[: text.rfind("</tool_call>") + len("</tool_call>")] if "</tool_call>" in text else ""
    calls: list[Mapping[str, Any]] = []
    for match in _CALL.finditer(closed):
        call = (
            _parse_tagged_call(match[1], types)
            if match[1].startswith("<function=")
            else parse_json_or_literal(match[1])
        )
        if isinstance(call, Mapping) and "name" in call:
            text = text.replace(match[0], "", 1)
            calls.append(call)
    return (text.strip() if calls else text), calls


def _parse_tagged_call(text: str, types: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A call in Qwen3-Coder's tags; as in its own parser, a value is a string unless the schema says otherwise."""
    function = _FUNCTION.match(text)
    if function is None:
        return None
    properties = types.get(function[1], {})
    arguments = {}
    for name, value in (match.groups() for match in _PARAMETER.finditer(function[2])):
        schema = properties.get(name) if isinstance(properties, Mapping) else None
        kind = schema.get("type", "string") if isinstance(schema, Mapping) else "string"
        read = None if kind == "string" else parse_json_or_literal(value)
        arguments[name] = value if read is None else read
    return {"name": function[1], "arguments": arguments}


def parse_json_or_literal(text: str) -> Any:
    """The value of JSON or of a Python literal, which Hermes' data also has; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return json.loads(json.dumps(read(text)))  # a Python literal may have no JSON form
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def read_named_action(value: Any) -> Action | None:
    """The action that a JSON object names, or None where it has no name and arguments."""
    if not isinstance(value, dict):
        return None
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    if name is None or arguments is None:
        return None
    if isinstance(arguments, str) and isinstance(inner := parse_json(arguments), dict):
        arguments = inner
    return Action(name, arguments if isinstance(arguments, dict) else {"input": format_answer(arguments)})


def format_answer(value: Any) -> str:
    """A value as text: a string as it is, other values as JSON where possible."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def extract_answer(arguments: Mapping[str, Any]) -> str:
    """The answer of a finish call: its argument ``answer``, else its only argument, else all of them as JSON."""
    if "answer" in arguments:
        return format_answer(arguments["answer"])
    return format_answer(next(iter(arguments.values())) if len(arguments) == 1 else dict(arguments))
