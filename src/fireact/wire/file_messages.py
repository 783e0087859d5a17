"""Messages as files hold them, in any dialect and of mixed ones, read into neutral messages.

A role may have any name of ``roles``; content may be text or blocks of Anthropic, OpenAI, Gemini, Bedrock, LangChain or
OpenTelemetry; calls may be fields, blocks, messages of their own or marks in the text. Invariant: reading is total
(see ``dialect``). What an assistant's message holds besides its parts and calls has weight: ``extra["weight"]`` is 0
where its flags say so, or where something in it could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fireact.types import Action
from fireact.wire.dialect import ToolCall, WireMessage
from fireact.wire.fields import DamageKind, WireDamage, parse_json, to_json
from fireact.wire.reasoning import REASONING_BLOCKS, split_reasoning
from fireact.wire.roles import find_role, is_call_role, normalise_role
from fireact.wire.schemas import argument_types, schema_names
from fireact.wire.text_calls import parse_calls, split_calls

BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
"""What stands between the results of several calls in one message, as LLaMA-Factory and Qwen's template write it."""
_FLAGS = ("weight", "loss_weight", "loss", "loss_scale", "loss_mask", "train", "training", "trainable")
_LARGEST_WEIGHT = 1e6
_CALL_BLOCKS = ("tool_use", "tool_call", "function_call", "server_tool_use", "mcp_tool_use", "custom_tool_call")
_CALL_KEYS = ("toolUse", "functionCall", "function_call")
_RESULT_BLOCKS = ("tool_call_response", "tool_response", "function_call_output", "custom_tool_call_output")
_RESULT_KEYS = ("toolResult", "functionResponse", "function_response")
_IDS = ("tool_call_id", "tool_use_id", "call_id", "toolUseId", "toolCallId", "id")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_TEXTS = (
    "text",
    "value",
    "content",
    "reasoning",
    "thinking",
    "summary",
    "refusal",
    "reasoning_content",
    "reasoningText",
)
_TEXT_BLOCKS = ("", "text", "output_text", "input_text", "refusal", "summary_text", "text_delta", "content", "string")
"""The types of content blocks that hold text; a block of another type may hold anything under the same keys."""
_RESULT_TAGS = (("<tool_response>", "</tool_response>"), ("[TOOL_RESULTS]", "[/TOOL_RESULTS]"))


def read_file_messages(
    values: Sequence[Any], *, tools: Any = (), system: str = ""
) -> tuple[tuple[WireMessage, ...], tuple[WireDamage, ...]]:
    """The messages, and what could not be read of them; a message that a dialect has read already is taken too.

    The schemas of ``tools``, and a ``system`` prompt that names them, tell calls in text from plain words.
    """
    reading = _MessagesReader(argument_types(tools), {*schema_names(tools)}, system)
    for index, value in enumerate(values):
        following = values[index + 1] if index + 1 < len(values) else None
        reading.add(f"messages[{index}]", value, is_answered=find_role(role_name(following)) == "tool")
    return tuple(reading.messages), tuple(reading.damage)


def role_name(value: Any) -> Any:
    """The name of a message's role, as its dialect has it; None where it has none."""
    message = _unwrap_message(value)
    return next((message[key] for key in ("role", "from", "type") if message.get(key) is not None), None)


def read_weight(message: Mapping[str, Any]) -> float:
    """The loss weight that a message's flags give it: their product; 1 without flags, 0 for a flag that is none."""
    weights = [_read_flag(message[key]) for key in _FLAGS if message.get(key) is not None]
    return math.prod((weight or 0.0 for weight in weights), start=1.0)


def _read_flag(value: Any) -> float | None:
    """The weight of a flag; None where it is neither true or false nor a number of at least 0."""
    value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    usable = isinstance(value, int | float) and 0 <= value < _LARGEST_WEIGHT
    return float(value) if usable else None


def content_text(content: Any) -> str:
    """The text of a message's content: a string, None, or blocks (one without text gives its kind in brackets)."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(map(_block_text, content))
    return to_json(content)


def _unwrap_message(value: Any) -> Mapping[str, Any]:
    """The fields of a message; those of LangChain's serialised messages are brought to the top."""
    if isinstance(value, WireMessage):
        return _fields_of_wire_message(value)
    if not isinstance(value, Mapping):
        return {}
    if isinstance(value.get("kwargs"), Mapping) and isinstance(value.get("id"), list) and value["id"]:
        return {**value["kwargs"], "role": value["id"][-1]}
    if isinstance(value.get("data"), Mapping) and "type" in value and "role" not in value:
        return {**value["data"], "role": value["type"]}
    return value


def _fields_of_wire_message(message: WireMessage) -> Mapping[str, Any]:
    """A message that a dialect has read already, as a file holds it; results of the provider's tools are blocks."""
    blocks: list[Any] = []
    outputs = [call for call in message.calls if call.output is not None]
    for index in range(len(message.parts) + 1):
        calls_here = [call for call in outputs if min(call.parts_before, len(message.parts)) == index]
        for call in calls_here:
            blocks += [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments},
                {"type": "tool_result", "tool_use_id": call.id, "content": call.output},
            ]
        blocks += message.parts[index : index + 1]
    return {
        "role": message.role,
        "content": blocks,
        "reasoning_content": message.reasoning,
        "tool_calls": [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.calls
            if call.output is None
        ],
        "tool_call_id": message.call_id,
        "name": message.name,
    }


@dataclass(slots=True)
class _Content:
    """What stands in the content of one message, or in its blocks up to the results of calls among them."""

    parts: list[Any] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    results: list[Mapping[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def extend(self, other: _Content) -> None:
        for entry in fields(self):
            getattr(self, entry.name).extend(getattr(other, entry.name))


@dataclass(slots=True)
class _MessagesReader:
    """The messages read so far; ``types`` and ``tools`` are of the schemas, ``system`` is all that a system says."""

    types: Mapping[str, Mapping[str, Any]]
    tools: set[str]
    system: str
    messages: list[WireMessage] = field(default_factory=list)
    damage: list[WireDamage] = field(default_factory=list)
    is_open_turn: bool = False
    """Whether a message of calls goes on with the last message."""

    def add(self, where: str, value: Any, *, is_answered: bool) -> None:
        """Read one message; ``is_answered`` says that the result of a tool follows it."""
        message = _unwrap_message(value)
        if not message:
            self._report("wrong-type", where, value, "an object with a role and content")
            return
        name = role_name(message)
        role = find_role(name)
        if role is None:
            self._report("unknown-role", f"{where}.role", name, "a role such as system, user, assistant or tool")
        contents = _read_contents(message, splits=role == "assistant")
        for kind in (kind for content in contents for kind in content.unknown):
            self._report("unknown-block", f"{where}.content", kind, "a block of text, reasoning, a call or a result")
        if role == "assistant":
            self._add_assistant(where, message, contents, is_calls=is_call_role(name), is_answered=is_answered)
        else:
            self._add_other(normalise_role(name), message, contents[0])

    def _add_other(self, role: str, message: Mapping[str, Any], content: _Content) -> None:
        """A message of a user, a system or a tool; results in it become messages of their own."""
        self._add_results(content.results)
        text = "".join(content.parts)
        if role == "system":
            self.system += text
        results, text = _split_results(text) if role in ("tool", "user") else ([], text)
        call_id = _find_id(message) if role == "tool" else ""
        self.messages += [WireMessage("tool", (result,), call_id=call_id) for result in results]
        if text or not (results or content.results):
            self.messages.append(WireMessage(role, (text,), call_id=call_id, name=_name(message)))

    def _add_assistant(
        self, where: str, message: Mapping[str, Any], contents: Sequence[_Content], *, is_calls: bool, is_answered: bool
    ) -> None:
        """A message of a model; one in which the provider ran tools is a turn up to each group of results."""
        damage_before = len(self.damage)
        calls_by_content = self._read_calls(where, message, contents)
        turns = [
            self._read_turn(where, content, calls, is_calls=is_calls, is_answered=is_answered)
            for content, calls in zip(contents, calls_by_content, strict=True)
        ]
        for key in _FLAGS:
            if message.get(key) is not None and _read_flag(message[key]) is None:
                self._report("wrong-type", f"{where}.{key}", message[key], "true, false, or a number of at least 0")
        is_whole = len(self.damage) == damage_before and not any(content.unknown for content in contents)
        results = [result for content in contents for result in content.results]
        for turn in turns:
            calls = tuple(_take_output(call, results) for call in turn.calls)
            weight = read_weight(message) if is_whole else 0.0
            self._append_turn(replace(turn, calls=calls, extra={"weight": weight}), is_calls)
        if results:  # of calls in earlier messages
            self._add_results(results)

    def _add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        self.is_open_turn = False
        self.messages += [
            WireMessage("tool", (content_text(_result_content(result)),), call_id=_find_id(result), name=_name(result))
            for result in results
        ]

    def _read_turn(
        self, where: str, content: _Content, calls: Sequence[ToolCall], *, is_calls: bool, is_answered: bool
    ) -> WireMessage:
        reasoning, text = "\n\n".join(filter(None, content.reasoning)), "".join(content.parts)
        split = None if reasoning else split_reasoning(text)
        if split is not None:
            reasoning, text = split[0].strip(), split[1]
        if not calls:
            text, actions = self._split_text(where, text, is_calls=is_calls, is_answered=is_answered)
            calls = [ToolCall("", action.name, to_json(dict(action.arguments))) for action in actions]
        return WireMessage("assistant", (text,), tuple(calls), reasoning=reasoning)

    def _read_calls(self, where: str, message: Mapping[str, Any], contents: Sequence[_Content]) -> list[list[ToolCall]]:
        """The calls of each content. Those in fields of the message often stand in its content a second time."""
        for call in as_list(message.get("invalid_tool_calls")):
            self._report("unread-tool-call", f"{where}.invalid_tool_calls", call, "a call that was written whole")
        entries, old_entries = _list_calls(message)
        field_calls = self._read_entries(where, entries)
        field_calls += [
            call for call in self._read_entries(where, old_entries) if _find_same(call, field_calls) is None
        ]
        calls_by_content: list[list[ToolCall]] = []
        for content in contents:
            calls: list[ToolCall] = []
            for entry in content.calls:
                same = next((call for call in field_calls if call.id and call.id == _find_id(entry)), None)
                call = same or next(iter(self._read_entries(where, [entry])), None)
                same = _find_same(call, field_calls) if call is not None else None
                if same is not None:
                    field_calls.remove(same)
                calls += [call] if call is not None else []
            calls_by_content.append(calls)
        calls_by_content[-1][:0] = field_calls
        return calls_by_content

    def _read_entries(self, where: str, entries: Sequence[Any]) -> list[ToolCall]:
        calls = [self._read_call(f"{where}.tool_calls[{index}]", entry) for index, entry in enumerate(entries)]
        return [call for call in calls if call is not None]

    def _split_text(self, where: str, text: str, *, is_calls: bool, is_answered: bool) -> tuple[str, Sequence[Action]]:
        """The words and the calls of a text; ``is_calls`` says that it is nothing but calls."""
        if is_calls and (actions := parse_calls(text, self.types)):
            return "", actions
        turn = split_calls(
            text, self.types, is_tool=lambda name: is_answered or name in self.tools or f'"{name}"' in self.system
        )
        for body in [text] if is_calls and not turn.actions else turn.unread:
            self._report("unread-tool-call", where, body, "a tool call in a known form")
        return turn.text, turn.actions

    def _append_turn(self, turn: WireMessage, is_calls: bool) -> None:
        """Add a turn; messages of calls alone belong to the words and the calls right before them."""
        last = self.messages[-1] if self.messages else None
        if is_calls and self.is_open_turn and last is not None:
            texts = tuple(part for part in (*last.parts, *turn.parts) if part)
            reasoning = "\n\n".join(filter(None, (last.reasoning, turn.reasoning)))
            weight = min(last.extra["weight"], turn.extra["weight"])
            self.messages[-1] = replace(
                last, parts=("\n\n".join(texts),), calls=last.calls + turn.calls, reasoning=reasoning,
                extra={"weight": weight},
            )  # fmt: skip
        else:
            self.messages.append(turn)
        self.is_open_turn = is_calls or not turn.calls

    def _read_call(self, where: str, value: Any) -> ToolCall | None:
        values = value if isinstance(value, Mapping) else {}
        inner = next((values[key] for key in ("function", *_CALL_KEYS) if isinstance(values.get(key), Mapping)), values)
        name = inner.get("name", inner.get("tool_name", inner.get("function")))
        if not isinstance(name, str) or not name:
            self._report("unread-tool-call", where, value, "a call with the name of a tool")
            return None
        key = next((key for key in _ARGUMENTS if inner.get(key) is not None), "")
        arguments = inner.get(key, "")
        text = arguments if isinstance(arguments, str) else to_json(arguments)
        if not _is_object_or_words(arguments, is_free=key == "input"):
            self._report("unread-tool-call", where, text, "a call whose arguments are a JSON object")
        return ToolCall(_find_id(values) or _find_id(inner), name, text)

    def _report(self, kind: DamageKind, where: str, value: Any, expected: str) -> None:
        self.damage.append(WireDamage(kind, where, value, expected))


def _is_object_or_words(arguments: Any, *, is_free: bool) -> bool:
    """Whether arguments are a JSON object, or plain words, which become ``input``; a free input may be any other value.

    A text that begins as JSON and is none was torn.
    """
    if not isinstance(arguments, str):
        return isinstance(arguments, Mapping)
    value = parse_json(arguments, None)
    is_torn = value is None and arguments.lstrip()[:1] in ("{", "[", '"')
    return isinstance(value, dict) or not (is_torn or isinstance(value, list) or (value is not None and not is_free))


def _find_same(call: ToolCall, calls: Sequence[ToolCall]) -> ToolCall | None:
    """The same call among others: by its id, or by what it calls where one of both has no id."""
    return next(
        (other for other in calls if (call.id == other.id if call.id and other.id else call.action == other.action)),
        None,
    )


def _take_output(call: ToolCall, results: list[Mapping[str, Any]]) -> ToolCall:
    """A call with the result beside it, where the provider ran the tool itself; the result is taken from the list."""
    output = next((result for result in results if call.id and call.id == _find_id(result)), None)
    if output is None:
        return call
    results.remove(output)
    return replace(call, output=content_text(_result_content(output)))


def _read_contents(message: Mapping[str, Any], *, splits: bool) -> list[_Content]:
    """The content of a message; with ``splits`` a new one begins after each group of results."""
    contents = [_Content()]
    value = next((message[key] for key in ("content", "value", "parts") if message.get(key) is not None), None)
    reasoning = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    if reasoning:
        contents[0].reasoning.append(content_text(reasoning))
    for block in value if isinstance(value, list) else [value]:
        piece = _Content()
        _read_block(block, piece)
        if splits and contents[-1].results and not piece.results and block is not None:
            contents.append(_Content())
        contents[-1].extend(piece)
    return contents


def _read_block(block: Any, content: _Content) -> None:
    if block is None:
        return
    if not isinstance(block, Mapping):
        content.parts.append(block if isinstance(block, str) else to_json(block))
        return
    kind = str(block.get("type", ""))
    call = next((block[key] for key in _CALL_KEYS if isinstance(block.get(key), Mapping)), None)
    result = next((block[key] for key in _RESULT_KEYS if isinstance(block.get(key), Mapping)), None)
    if kind in REASONING_BLOCKS or "reasoningContent" in block:
        content.reasoning.append(_find_text(block.get("reasoningContent", block)) or "")
    elif call is not None or kind in _CALL_BLOCKS:
        value = block.get("value")
        value = parse_json(value, {}) if isinstance(value, str) else value
        content.calls.append(call or (value if isinstance(value, Mapping) else block))
    elif result is not None or kind in _RESULT_BLOCKS or kind.endswith("tool_result"):
        content.results.append(result or block)
    elif kind in _TEXT_BLOCKS and (text := _find_text(block)) is not None:
        content.parts.append(text)
    elif kind or not block:
        content.unknown.append(kind or "block")
        content.parts.append(_block_text(block))
    else:
        content.parts.append(to_json(block))  # a plain object as content, say the JSON that a tool returned


def _find_text(block: Any) -> str | None:
    """The text of a block under any of the names that dialects give it."""
    if isinstance(block, str):
        return block
    if isinstance(block, list):
        texts = [_find_text(item) for item in block]
        return "\n\n".join(text for text in texts if text)
    if not isinstance(block, Mapping):
        return None
    value = next((block[key] for key in _TEXTS if isinstance(block.get(key), str | Mapping | list)), None)
    return None if value is None else _find_text(value)


def _block_text(block: Any) -> str:
    if not isinstance(block, Mapping):
        return block if isinstance(block, str) else to_json(block)
    text = next((block[key] for key in _TEXTS if isinstance(block.get(key), str)), None)
    return f"[{block.get('type', 'block')}]" if text is None else str(text)


def _result_content(result: Mapping[str, Any]) -> Any:
    value = next((result[key] for key in ("content", "output", "response", "result") if key in result), None)
    if isinstance(value, list) and all(isinstance(item, Mapping) and len(item) == 1 for item in value):
        return [item if "json" not in item else to_json(item["json"]) for item in value]  # Bedrock
    return value


def _split_results(text: str) -> tuple[list[str], str]:
    """The results in tags at the start of a message, and the text after them."""
    results: list[str] = []
    for opening, closing in _RESULT_TAGS:
        while text.lstrip().startswith(opening) and closing in text:
            result, _, text = text.lstrip().removeprefix(opening).partition(closing)
            results.append(result.removeprefix("\n").removesuffix("\n"))
            text = text.lstrip()
    return results, text


def _list_calls(message: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The calls in the fields of a message, and the one in the old field; LangChain keeps its provider's aside."""
    inner = message.get("additional_kwargs")
    inner = inner if isinstance(inner, Mapping) else {}
    calls = message.get("tool_calls") or inner.get("tool_calls")
    calls = parse_json(calls, calls) if isinstance(calls, str) else calls
    if isinstance(calls, Mapping) and not {"function", "name", "tool_name"} & calls.keys():
        calls = list(calls.values())
    old_call = message.get("function_call") or inner.get("function_call")
    return as_list(calls), [{"function": old_call}] if old_call is not None else []


def as_list(value: Any) -> list[Any]:
    """A list as it is, and anything else as its only item; empty where there is nothing."""
    return value if isinstance(value, list) else [value] if value else []


def _find_id(value: Mapping[str, Any]) -> str:
    return next((str(value[key]) for key in _IDS if value.get(key) not in (None, "")), "")


def _name(value: Mapping[str, Any]) -> str:
    return str(value.get("name") or value.get("tool_name") or "")
