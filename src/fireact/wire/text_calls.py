"""Tool calls in the text forms of model families, read and written; any text can be read.

<tool_call>{"name": ..., "arguments": {...}}</tool_call>           Hermes, Qwen; also Python literals
<tool_call><function=NAME><parameter=KEY>...</tool_call>           Qwen3-Coder
<tool_call>NAME<arg_key>KEY</arg_key><arg_value>...</tool_call>    GLM
<function_calls><invoke name="NAME"><parameter name="KEY">...      Claude 2, MiniMax, DeepSeek 3.2
[TOOL_CALLS][{"name": ..., "arguments": {...}}]                    Mistral; later NAME[ARGS]{...}
<functioncall> {"name": ..., "arguments": '{...}'}                 Glaive
<|python_tag|>{"name": ..., "parameters": {...}}                   Llama 3, which also writes the object bare
<|tool_call_begin|>functions.NAME:0<|...|>{...}                    Kimi; DeepSeek and gpt-oss with marks of their own
[NAME(key=value), NAME(key=value)]                                 ToolACE, Llama, LFM2
{"action": ..., "action_input": ...}                               agents' JSON, under several names

Invariant: in linear time, and total: a mark whose call cannot be read is returned as unread.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.types import FINISH, Action
from fireact.wire.fields import parse_json

CALL_TAGS, RESULT_TAGS = "<tool_call>\n{}\n</tool_call>", "<tool_response>\n{}\n</tool_response>"
ArgumentTypes = Mapping[str, Mapping[str, Any]]
"""The schemas of the arguments of each tool, by the names of both."""

_CLOSING_BY_OPENING = {
    **{f"<{tag}>": f"</{tag}>" for tag in (
        "tool_call", "tool_calls", "function_call", "function_calls", "TOOLCALL", "minimax:tool_call", "seed:tool_call",
        "｜DSML｜function_calls", "｜DSML｜tool_calls",
    )},
    "<|tool_call|>": "<|/tool_call|>",
    "[TOOL_CALLS]": "",
    "<functioncall>": "<|endoftext|>",
    "<|python_tag|>": "<|eom_id|>",
    "<|tool_call_begin|>": "<|tool_call_end|>",
    "<｜tool▁call▁begin｜>": "<｜tool▁call▁end｜>",
    "<|START_ACTION|>": "<|END_ACTION|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<|action_start|><|plugin|>": "<|action_end|>",
    "<|channel|>commentary to=functions.": "<|call|>",
    "<function=": "</function>",
}  # fmt: skip
"""For each mark that opens a call, the mark that closes it; a body without one reaches to the next opening mark."""
_OPENING = re.compile("|".join(map(re.escape, _CLOSING_BY_OPENING)))
_LITTER = re.compile(
    r"<｜tool▁calls▁(?:begin|end)｜>|<\|tool_calls_section_(?:begin|end)\|>|<\|start\|>assistant|<\|eom_id\|>"
)
"""Marks around calls, which are no text."""
_OBJECT = re.compile(r'\{\s*"(?:name|type|function|parameters|arguments|id)"')
_SPACES = re.compile(r"\s*")
_MARKS_OF_NAME = re.compile(r"<[|｜][^<>]*[|｜]>|\[[A-Z_]+\]|```(?:json)?|\s")
_NAME = re.compile(r"[A-Za-z_][\w./:-]*")
_FUNCTION, _PARAMETER = re.compile(r"<function=([^<>\n]+)>"), re.compile(r"<parameter=([^<>\n]+)>")
_INVOKE = re.compile(r'<(?:｜DSML｜)?invoke name="([^"\n]+)"[^>\n]*>')
_INVOKE_PARAMETER = re.compile(r'<(?:｜DSML｜)?parameter name="([^"\n]+)"[^>\n]*>')
_ARGUMENT_KEY = "<arg_key>"
_SINGLE_QUOTED = re.compile(r"""\{\s*"name":\s*"([^"]+)",\s*"arguments":\s*'""")
_FENCE = re.compile(r"\A```\w*\n|\n?```\Z")
_NAMES = ("name", "action", "tool", "tool_name", "function")
_ARGUMENTS = ("arguments", "action_input", "args", "parameters", "tool_input", "input")
_LONGEST_LITERAL = 100_000


@dataclass(frozen=True, slots=True)
class TextCalls:
    """A turn's text without its calls, the calls, and the marked calls that cannot be read, which stay in the text."""

    text: str
    actions: tuple[Action, ...]
    unread: tuple[str, ...] = ()


def write_tagged_call(action: Action) -> str:
    """A call in tags."""
    return CALL_TAGS.format(json.dumps({"name": action.name, "arguments": dict(action.arguments)}, ensure_ascii=False))


def split_calls(
    text: str, types: ArgumentTypes | None = None, *, is_tool: Callable[[str], bool] | None = None
) -> TextCalls:
    """The text of a turn and its calls; with the ``types`` of arguments, values in tags are read as what they are.

    A turn that is nothing but unmarked calls (JSON, or ``[NAME(key=value)]``) is read where ``is_tool`` knows all
    their names.
    """
    actions: list[Action] = []
    unread, pieces, position = [], [], 0
    for start, end, body, span_actions in _find_spans(text, types or {}):
        if span_actions:
            pieces.append(text[position:start])
            position = end
            actions += span_actions
        else:
            unread.append(body.strip())
    pieces.append(text[position:])
    if not actions and not unread and is_tool is not None:
        bare_actions = _parse_bare_calls(_LITTER.sub("", text).strip())
        if bare_actions and all(is_tool(action.name) for action in bare_actions):
            return TextCalls("", tuple(bare_actions))
    words = _LITTER.sub("", "".join(piece.rstrip() for piece in pieces)).strip() if actions else text
    return TextCalls(words, tuple(actions), tuple(unread))


def find_calls(text: str) -> list[tuple[int, Action]]:
    """The calls in a text with their positions: those with marks, or else those that are bare JSON."""
    return [(start, action) for start, _, actions in find_call_spans(text) for action in actions]


def find_call_spans(text: str) -> list[tuple[int, int, list[Action]]]:
    """The start and the end of each text of calls, and its calls; as in ``find_calls``."""
    spans = list(_find_spans(text, {}))
    if spans:
        return [(start, end, actions) for start, end, _, actions in spans if actions]
    bare_spans: list[tuple[int, int, list[Action]]] = []
    read_until = 0
    for start in (match.start() for match in _OBJECT.finditer(text)):
        if start < read_until:
            continue  # an object inside a call that was read already
        value, length = decode_json(text[start:])
        action = _parse_action(value)
        if action is not None:
            bare_spans.append((start, start + length, [action]))
            read_until = start + length
    return bare_spans


def is_inside_call(text: str, position: int) -> bool:
    """Whether a position in a text is inside a call that can be read, say in one of its arguments."""
    if any(start < position < end for start, end, _, actions in _find_spans(text, {}) if actions):
        return True
    for match in _OBJECT.finditer(text, 0, position):
        value, length = decode_json(text[match.start() :])
        if _parse_action(value) is not None and position < match.start() + length:
            return True
    return False


def parse_calls(body: str, types: ArgumentTypes | None = None) -> list[Action]:
    """The calls of a text that is nothing but calls, in any form without its marks; empty where it cannot be read."""
    body = _FENCE.sub("", body.strip()).strip()
    for read in (_read_json_calls, _read_tag_calls, _read_named_call, _read_python_calls):
        actions = read(body, types or {})
        if actions:
            return actions
    return []


def _find_spans(text: str, types: ArgumentTypes) -> Iterator[tuple[int, int, str, list[Action]]]:
    """Start, end, body and calls of each marked call; a mark in plain words, closed by nothing, is none."""
    openings = list(_OPENING.finditer(text))
    read_until = 0
    for opening, following, limit in zip(openings, [*openings, None][1:], _find_limits(openings, text), strict=True):
        if opening.start() < read_until:
            continue
        closing = _CLOSING_BY_OPENING[opening[0]]
        end, actions = _read_json_at(text, opening.end(), closing)
        if actions:  # a mark inside a string of it is text
            read_until = end
            yield opening.start(), end, text[opening.end() : end], actions
            continue
        stop = text.find(closing, opening.end(), limit) if closing else -1
        is_closed = stop >= 0
        if not is_closed:
            stop = following.start() if following else len(text)
        body = text[opening.end() : stop]
        actions = parse_calls(f"{opening[0]}{body}" if opening[0] == "<function=" else body, types)
        if actions or is_closed or body.lstrip()[:1] in ("{", "[", "<"):
            read_until = stop + len(closing) * is_closed
            yield opening.start(), read_until, body, actions


def _find_limits(openings: Sequence[re.Match[str]], text: str) -> list[int]:
    """Where the search for the closing mark of each opening ends: at the next mark of its kind, or all is quadratic."""
    limits, next_starts = [], dict[str, int]()
    for opening in reversed(openings):
        limits.append(next_starts.get(opening[0], len(text)))
        next_starts[opening[0]] = opening.start()
    return limits[::-1]


def _read_json_at(text: str, start: int, closing: str) -> tuple[int, list[Action]]:
    """The calls of the JSON at a position, and where it ends with its closing mark; none unless it ends there."""
    start = _SPACES.match(text, start).end()  # type: ignore[union-attr]
    try:
        value, end = json.JSONDecoder().raw_decode(text, start) if text[start : start + 1] in ("{", "[") else (None, 0)
    except (ValueError, RecursionError):
        value = None
    if value is None:
        return start, []
    end = _SPACES.match(text, end).end()  # type: ignore[union-attr]
    actions = [_parse_action(item, need_arguments=False) for item in (value if isinstance(value, list) else [value])]
    if (closing and not text.startswith(closing, end) and end < len(text)) or None in actions:
        return start, []
    return end + len(closing) * text.startswith(closing, end), [action for action in actions if action is not None]


def _read_json_calls(body: str, types: ArgumentTypes) -> list[Action]:
    """The calls of a JSON object, of several in a row, or of a list of them; also as a Python literal."""
    values: list[Any] = []
    remaining = body
    while remaining[:1] in ("{", "["):
        value, length = decode_json(remaining)
        if not length:
            break
        values += value if isinstance(value, list) else [value]
        remaining = remaining[length:].lstrip(" \n;,")
    if not values:
        value = parse_json_or_literal(body) if len(body) <= _LONGEST_LITERAL else None
        values = value if isinstance(value, list) else [_parse_single_quoted(body) if value is None else value]
    actions = [_parse_action(value, need_arguments=False) for value in values]
    return [action for action in actions if action is not None] if None not in actions else []


def _parse_single_quoted(body: str) -> Any:
    """Glaive's object whose arguments are JSON in single quotes, with single quotes inside."""
    match = _SINGLE_QUOTED.match(body)
    end = body.rfind("'")
    arguments = parse_json(body[match.end() : end]) if match and end > match.end() else None
    return {"name": match[1], "arguments": arguments} if match and isinstance(arguments, dict) else None


def _read_tag_calls(body: str, types: ArgumentTypes) -> list[Action]:
    if _ARGUMENT_KEY in body:
        name = body[: body.index(_ARGUMENT_KEY)].strip()
        keys = [key for _, key in _read_elements(body, re.compile("<(arg_key)>"), "</arg_key>")]
        values = [value for _, value in _read_elements(body, re.compile("<(arg_value)>"), "</arg_value>")]
        texts = dict(zip(map(str.strip, keys), values, strict=False)) if len(keys) == len(values) else None
        return [] if texts is None or not name else [Action(name, _read_argument_texts(name, texts, types))]
    actions = []
    for opening, closing, parameter in (
        (_FUNCTION, "</function>", _PARAMETER),
        (_INVOKE, "</｜DSML｜invoke>" if "｜DSML｜" in body else "</invoke>", _INVOKE_PARAMETER),
    ):
        closing_parameter = "</｜DSML｜parameter>" if "｜DSML｜" in closing else "</parameter>"
        for name, content in _read_elements(body, opening, closing, is_last_open=True):
            texts = dict(_read_elements(content, parameter, closing_parameter))
            values = parse_json(content)
            if isinstance(values, dict):
                actions.append(Action(name, values))
            elif len(texts) == sum(1 for _ in parameter.finditer(content)) and (texts or not content.strip()):
                actions.append(Action(name, _read_argument_texts(name, texts, types)))
            else:
                return []
    return actions


def _read_elements(
    text: str, opening: re.Pattern[str], closing: str, *, is_last_open: bool = False
) -> Iterator[tuple[str, str]]:
    """The name and the content of each element; with ``is_last_open`` the last one needs no closing mark."""
    last, position = text.rfind(closing), 0
    while match := opening.search(text, position):
        if match.end() > last:
            if is_last_open:
                yield match[1], text[match.end() :]
            return
        end = text.index(closing, match.end())
        yield match[1], text[match.end() : end].removeprefix("\n").removesuffix("\n")
        position = end + len(closing)


def _read_argument_texts(name: str, texts: Mapping[str, str], types: ArgumentTypes) -> dict[str, Any]:
    """The values of arguments in tags; as in the parsers of the models, a string unless the schema says otherwise."""
    properties = types.get(name)
    arguments: dict[str, Any] = {}
    for key, text in texts.items():
        schema = properties.get(key) if isinstance(properties, Mapping) else None
        kind = schema.get("type", "string") if isinstance(schema, Mapping) else "string"
        value = None if kind == "string" else parse_json_or_literal(text)
        arguments[key] = text if value is None else value
    return arguments


def _read_named_call(body: str, types: ArgumentTypes) -> list[Action]:
    """A name, marks of any kind, and a JSON object."""
    start = body.find("{")
    words = [word for word in _MARKS_OF_NAME.split(body[: max(start, 0)][:500]) if word not in ("", "function")]
    name = words[0].removeprefix("functions.") if words else ""
    values, length = decode_json(body[start:]) if start > 0 and _NAME.fullmatch(name) else (None, 0)
    if not isinstance(values, dict) or body[start + length :].strip("` \n"):
        return []
    head, colon, number = name.rpartition(":")
    return [Action(head if colon and number.isdigit() else name, values)]


def _read_python_calls(body: str, types: ArgumentTypes) -> list[Action]:
    """Calls in the form of Python, in a list or one a line; names may have spaces and dots."""
    text = body[1:-1] if body.startswith("[") and body.endswith("]") else body
    actions, position = [], 0
    while position < len(text):
        opened = text.find("(", position)
        closed = _find_closing_parenthesis(text, opened) if opened >= 0 else -1
        name = text[position:opened].strip(" ,;\n")
        if closed < 0 or not re.fullmatch(r"[A-Za-z_][\w .:/&'-]*", name):
            return []
        arguments = _parse_python_arguments(text[opened : closed + 1], list(types.get(name, {})))
        if arguments is None:
            return []
        actions.append(Action(name.removesuffix(".call"), arguments))
        position = closed + 1
        if not text[position:].strip(" ,;\n"):
            break
    return actions


def _find_closing_parenthesis(text: str, start: int) -> int:
    depth, quote, is_escaped = 0, "", False
    for index in range(start, len(text)):
        char = text[index]
        if quote:
            quote = "" if char == quote and not is_escaped else quote
            is_escaped = char == "\\" and not is_escaped
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
            if depth == 0:
                return index
    return -1


def _parse_python_arguments(text: str, names: list[str]) -> dict[str, Any] | None:
    """The arguments of a call; those without a key take the names of the schema in order, or one is ``input``."""
    try:
        call = ast.parse(f"call{text}", mode="eval").body if len(text) <= _LONGEST_LITERAL else None
        assert isinstance(call, ast.Call)
        values = [_read_python_value(node) for node in call.args]
        keyed = {str(keyword.arg): _read_python_value(keyword.value) for keyword in call.keywords}
        arguments: dict[str, Any] = json.loads(
            json.dumps({**dict(zip(names or ["input"], values, strict=False)), **keyed})
        )
    except (AssertionError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return arguments if len(arguments) == len(values) + len(keyed) and "None" not in keyed else None


def _read_python_value(node: ast.expr) -> Any:
    constants = {"true": True, "false": False, "null": None}
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    return ast.literal_eval(node)


def _parse_bare_calls(text: str) -> list[Action]:
    """The calls of a turn that is a JSON object, a list of such, or Python's calls in a list."""
    if text.startswith("["):
        return _read_json_calls(text, {}) or _read_python_calls(text, {}) if text.endswith("]") else []
    value, length = decode_json(text) if text.startswith("{") else (None, 0)
    action = _parse_action(value)
    return [action] if action is not None and length == len(text) else []


def decode_json(text: str) -> tuple[Any, int]:
    """The JSON value at the start of a text and its length; None and 0 where there is none."""
    bare = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(bare)
    except (ValueError, RecursionError):
        return None, 0
    return value, len(text) - len(bare) + end


def _parse_action(value: Any, *, need_arguments: bool = True) -> Action | None:
    inner = value.get("function") if isinstance(value, dict) else None
    values = inner if isinstance(inner, dict) else value if isinstance(value, dict) else {}
    name = next((values[key] for key in ("name", "tool_name", "function") if key in values), None)
    argument_values = [values[key] for key in ("arguments", "parameters", "args") if key in values]
    if not isinstance(name, str) or not name.strip() or (need_arguments and not argument_values):
        return None
    name = name.strip()
    return Action(FINISH if name.lower() == FINISH else name, _parse_arguments(next(iter(argument_values), None)))


def _parse_arguments(arguments: Any) -> Mapping[str, Any]:
    """The arguments as a mapping: from an object, from one as JSON text, from None, or else as ``input``."""
    if isinstance(arguments, str):
        value, _ = decode_json(arguments)
        arguments = value if isinstance(value, dict) else arguments
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"input": arguments}


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
