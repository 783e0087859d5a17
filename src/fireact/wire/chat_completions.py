"""The dialect of OpenAI's chat completions: requests, replies and streams, read and written.

Invariant: reading is total (see ``dialect``), for older forms too: ``function_call``, ``functions``, the roles
``developer`` and ``function``. Writing what was read gives an equal body, but for the older forms and for damage.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fireact.types import Action, Usage
from fireact.wire.dialect import (
    ResponseFormat,
    StreamDelta,
    ToolCall,
    ToolChoice,
    WireMessage,
    WireReply,
    WireRequest,
    make_call_id,
    read_parts,
    write_parts,
)
from fireact.wire.fields import Fields, WireDamage, find_unwritten, merge_extra, parse_json, to_json
from fireact.wire.roles import ENDPOINT_ROLES
from fireact.wire.sse import END, write_event

_OLD_CALL = "function_call"
T = TypeVar("T")


class ChatCompletions:
    """Reads and writes chat completions."""

    name = "chat completions"
    path = "/chat/completions"

    def read_request(self, body: Any) -> WireRequest:
        """The request in a body."""
        damage: list[WireDamage] = []
        fields = Fields(body, "", damage)
        messages = fields.items("messages")
        limits = {key: fields.integer(key) for key in ("max_completion_tokens", "max_tokens")}
        streaming = fields.fields("stream_options")
        stream_usage = streaming is not None and streaming.flag("include_usage")
        if streaming is not None:
            fields.keep_unread("stream_options", streaming)
        limit = limits["max_tokens"] if limits["max_completion_tokens"] is None else limits["max_completion_tokens"]
        if limits["max_tokens"] not in (None, limit):
            fields.unread["max_tokens"] = limits["max_tokens"]
        return WireRequest(
            model=fields.text("model"),
            messages=_read_messages(messages, damage),
            tools=tuple(fields.items("tools") or fields.items("functions")),
            stop=_read_stop(fields),
            max_tokens=limit,
            temperature=fields.number("temperature"),
            seed=fields.integer("seed"),
            stream=fields.flag("stream"),
            stream_usage=stream_usage,
            top_p=fields.number("top_p"),
            tool_choice=_read_setting(fields, "tool_choice", _read_tool_choice, _write_tool_choice),
            parallel_tool_calls=fields.choice("parallel_tool_calls"),
            response_format=_read_setting(fields, "response_format", _read_format, _write_format),
            extra=fields.unread,
            damage=tuple(damage),
        )

    def write_request(self, request: WireRequest) -> dict[str, Any]:
        """The body of a request; settings that are None are left out."""
        settings = {
            "temperature": request.temperature, "seed": request.seed, "stop": list(request.stop) or None,
            "max_tokens": request.max_tokens, "tools": list(request.tools) or None, "stream": request.stream or None,
            "top_p": request.top_p, "parallel_tool_calls": request.parallel_tool_calls,
            "tool_choice": _write_tool_choice(request.tool_choice) if request.tool_choice else None,
            "response_format": _write_format(request.response_format) if request.response_format else None,
        }  # fmt: skip
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [write_message(message) for message in request.messages],
            **{name: value for name, value in settings.items() if value is not None},
        }
        if request.stream_usage:
            body["stream_options"] = {"include_usage": True}
        return merge_extra(body, request.extra)

    def read_reply(self, body: Any) -> WireReply:
        """The first choice of a body that was not streamed; further choices ride along."""
        damage: list[WireDamage] = []
        fields = Fields(body, "", damage)
        error, counts = _read_error(fields), fields.fields("usage")
        usage, total_tokens = _read_usage(fields, counts)
        choice, other_choices = _read_choices(fields, damage)
        message, finish, answered = WireMessage("assistant"), "", False
        if choice is not None:
            finish, error = choice.text("finish_reason"), error or _read_error(choice)
            inner = choice.unread.pop("message", None)
            answered = isinstance(inner, dict)
            message = _read_message(
                {"role": "assistant", **inner} if answered else inner, choice.path("message"), damage
            )
        _keep_choices(fields, choice, _extra_of_reply(message), other_choices)
        if not answered:
            fields.report("missing", "choices", None, "a list with a choice that has a message")
        return WireReply(
            parts=message.parts, calls=message.calls, reasoning=message.reasoning, finish=finish, usage=usage,
            total_tokens=total_tokens, answered=answered, error=error, extra=fields.unread, damage=tuple(damage),
        )  # fmt: skip

    def write_reply(self, reply: WireReply, *, model: str) -> dict[str, Any]:
        """The body of a whole reply."""
        message = write_message(WireMessage("assistant", reply.parts, reply.calls, reasoning=reply.reasoning))
        choice = {"index": 0, "message": message, "finish_reason": reply.finish or None, "logprobs": None}
        extra = dict(reply.extra)
        choice_extra, *other_choices = extra.pop("choices", None) or [{}]
        body = {
            **_write_head(model), "object": "chat.completion",
            "choices": [merge_extra(choice, choice_extra), *other_choices],
        }  # fmt: skip
        return merge_extra(body if reply.usage is None else {**body, "usage": write_usage(reply.usage)}, extra)

    def stream_reader(self) -> ChatStreamReader:
        """A reader of one stream."""
        return ChatStreamReader()

    def stream_writer(self, model: str, *, id: str = "") -> ChatStreamWriter:
        """A writer of one stream; without an id it makes one."""
        return ChatStreamWriter(model, id)

    def write_error(self, message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
        """The body of an error."""
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}


CHAT_COMPLETIONS = ChatCompletions()


def read_message(value: Any) -> tuple[WireMessage, tuple[WireDamage, ...]]:
    """One message, and its damage."""
    damage: list[WireDamage] = []
    message = _read_message(value, "message", damage)
    return message, tuple(damage)


def write_message(message: WireMessage) -> dict[str, Any]:
    """One message as JSON holds it."""
    old_calls = [call for call in message.calls if call.extra.get("type") == _OLD_CALL]
    calls = [write_call(call) for call in message.calls if call not in old_calls]
    fields = {
        "role": message.role,
        "tool_call_id": message.call_id,
        "name": message.name,
        "content": _write_content(message.parts),
        "reasoning_content": message.reasoning,
        **message.extra,
        "tool_calls": calls,
        _OLD_CALL: write_call(old_calls[0])["function"] if old_calls else None,
    }
    return {name: value for name, value in fields.items() if value or name in ("role", "content", *message.extra)}


def write_call(call: ToolCall) -> dict[str, Any]:
    """One tool call."""
    kind = "custom" if call.extra.get("type") == "custom" else "function"
    inner = {"name": call.name, "input" if kind == "custom" else "arguments": call.arguments}
    return merge_extra({"id": call.id, "type": kind, kind: inner}, call.extra)


def write_template_calls(actions: Sequence[Action]) -> dict[str, Any]:
    """The calls of a message as chat templates take them: numbered from 1, arguments as objects."""
    calls = [
        {
            "type": "function",
            "id": make_call_id(number),
            "function": {"name": action.name, "arguments": dict(action.arguments)},
        }
        for number, action in enumerate(actions, 1)
    ]
    return {"tool_calls": calls}


def read_template_calls(message: Mapping[str, Any]) -> list[Action]:
    """The calls that ``write_template_calls`` wrote."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [Action(function["name"], function["arguments"]) for function in functions]


def has_calls(message: Mapping[str, Any]) -> bool:
    """Whether a message in a file makes tool calls."""
    return bool(message.get("tool_calls"))


def functions_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The name and the arguments of each call of a written message, with the arguments as an object."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [{**function, "arguments": json.loads(function["arguments"])} for function in functions]


def with_argument_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    """A written message with the arguments of its calls as objects, as chat templates take them."""
    functions = functions_of(message)
    calls = [{**call, "function": inner} for call, inner in zip(message.get("tool_calls", ()), functions, strict=True)]
    return {**message, **({"tool_calls": calls} if calls else {})}


def write_usage(usage: Usage) -> dict[str, Any]:
    """The counts of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class ChatStreamReader:
    """Adds up the chunks of one stream."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._reasoning: list[str] = []
        self._calls: list[_CallSoFar] = []
        self._finish, self._error, self._ended, self._answered = "", "", False, False
        self._usage: Usage | None = None
        self._total_tokens = 0
        self._extra: dict[str, Any] = {}
        self._changed_extra: list[dict[str, Any]] = []
        self._damage: list[WireDamage] = []

    def add(self, data: str) -> StreamDelta:
        """Read the data of an event, and return the text that it adds."""
        if data.strip() == END:
            self._ended = True
            return StreamDelta()
        fields = Fields.parse(data, "chunk", self._damage)
        return StreamDelta() if fields is None else self._add_chunk(fields)

    def _add_chunk(self, fields: Fields) -> StreamDelta:
        self._error = _read_error(fields) or self._error
        usage, total_tokens = _read_usage(fields, fields.fields("usage"))
        if usage is not None:
            self._usage, self._total_tokens = usage, total_tokens
        choice, other_choices = _read_choices(fields, self._damage, first_only=True)
        delta, delta_extra = StreamDelta(), dict[str, Any]()
        if choice is not None:
            delta, delta_extra = self._add_choice(choice)
        _keep_choices(fields, choice, delta_extra, other_choices)
        self._keep_extra(fields.unread)
        return delta

    def reply(self) -> WireReply:
        """The reply so far; what rides along with later chunks, and differs from the first, is under ``chunks``."""
        extra = {**self._extra, "chunks": self._changed_extra} if self._changed_extra else self._extra
        return WireReply(
            parts=tuple(self._parts), calls=tuple(call.build() for call in self._calls),
            reasoning="".join(self._reasoning), finish=self._finish, usage=self._usage,
            total_tokens=self._total_tokens, answered=self._answered, complete=self._ended or bool(self._finish),
            error=self._error, extra=extra, damage=tuple(self._damage),
        )  # fmt: skip

    def _add_choice(self, choice: Fields) -> tuple[StreamDelta, dict[str, Any]]:
        self._answered = True
        self._finish = choice.text("finish_reason") or self._finish
        self._error = _read_error(choice) or self._error
        delta = choice.fields("delta")
        if delta is None:
            return StreamDelta(), {}
        parts, reasoning = read_parts(delta), _read_reasoning(delta)
        self._reasoning.append(reasoning)
        for part in parts:
            if isinstance(part, str) and self._parts and isinstance(self._parts[-1], str):
                self._parts[-1] += part
            elif part != "":
                self._parts.append(part)
        for call, index in _read_call_entries(delta):
            self._add_call(call, index)
        if delta.unread.get("role") == "assistant":
            del delta.unread["role"]
        text = "".join(part for part in parts if isinstance(part, str))
        return StreamDelta(text, reasoning), delta.unread

    def _add_call(self, delta: ToolCall, index: int | None) -> None:
        call = self._find_call(delta, index)
        if call is None:
            call = _CallSoFar(index)
            self._calls.append(call)
        call.add(delta)

    def _find_call(self, delta: ToolCall, index: int | None) -> _CallSoFar | None:
        """The call that a delta continues, by its index, else by its id, else the latest; None where it begins one.

        Some servers send every call with the index 0: another id, or a name after whole arguments, begins a new call.
        """
        if index is not None:
            candidates = [call for call in self._calls if call.index == index]
        else:
            candidates = [call for call in self._calls if delta.id in ("", call.id)]
        latest = candidates[-1] if candidates else None
        if latest is None or (delta.id and latest.id and delta.id != latest.id):
            return None
        begins = bool(latest.name and delta.name and delta.arguments.strip())
        return None if begins and type(parse_json(latest.arguments)) is dict else latest

    def _keep_extra(self, unread: Mapping[str, Any]) -> None:
        """Keep what is unread of a chunk; only what differs from the first chunk is kept again."""
        changed = {
            name: value
            for name, value in unread.items()
            if name == "chunks" or self._extra.setdefault(name, value) != value
        }
        self._changed_extra += [changed] if changed else []


class _CallSoFar:
    """A tool call, as the deltas of a stream have built it."""

    def __init__(self, index: int | None) -> None:
        self.index, self.id, self.name, self.arguments = index, "", "", ""
        self.extra: dict[str, Any] = {}

    def add(self, delta: ToolCall) -> None:
        """Add a delta; a name that comes again is the same name."""
        self.id = self.id or delta.id
        self.name += "" if delta.name == self.name else delta.name
        self.arguments += delta.arguments
        for name, value in delta.extra.items():
            self.extra[name] = value if name not in self.extra else _merge_extra(self.extra[name], value)

    def build(self) -> ToolCall:
        """The call so far."""
        return ToolCall(self.id, self.name, self.arguments, self.extra)


def _merge_extra(earlier: Any, value: Any) -> Any:
    if earlier == value:
        return value
    return [*(earlier if isinstance(earlier, list) else [earlier]), value]


class ChatStreamWriter:
    """Writes the chunks of one stream."""

    def __init__(self, model: str, id: str = "") -> None:
        self._head = {**_write_head(model, id), "object": "chat.completion.chunk"}
        self._call_count = 0

    def start(self) -> bytes:
        """The chunk that opens the message."""
        return self._write_chunk({"role": "assistant", "content": ""})

    def add(self, delta: StreamDelta) -> bytes:
        """The chunk of a delta."""
        fields: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.reasoning:
            fields["reasoning_content"] = delta.reasoning
        if delta.calls:
            fields["tool_calls"] = [
                {**write_call(call), "index": self._call_count + position} for position, call in enumerate(delta.calls)
            ]
            self._call_count += len(delta.calls)
        return self._write_chunk(fields)

    def end(self, *, finish: str, usage: Usage | None) -> bytes:
        """The last chunks and the end mark."""
        counted = {**self._head, "choices": [], "usage": write_usage(usage)} if usage is not None else None
        return self._write_chunk({}, finish) + (b"" if counted is None else write_event(counted)) + write_event(END)

    def fail(self, message: str, kind: str = "server_error") -> bytes:
        """The event of an error."""
        return write_event(CHAT_COMPLETIONS.write_error(message, kind))

    def _write_chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": None}
        return write_event({**self._head, "choices": [choice]})


def _read_setting(fields: Fields, key: str, read: Callable[[Any], T | None], write: Callable[[T], Any]) -> T | None:
    """A setting of several forms; what the setting does not hold of the field stays unread."""
    value = fields.unread.get(key)
    setting = read(value)
    if setting is not None:
        del fields.unread[key]
        fields.unread |= find_unwritten({key: value}, {key: write(setting)})
    return setting


def _read_tool_choice(value: Any) -> ToolChoice | None:
    if value in ("auto", "none", "required"):
        return ToolChoice(value)
    inner = value.get("function") if isinstance(value, Mapping) and value.get("type") == "function" else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return ToolChoice("tool", name) if isinstance(name, str) else None


def _write_tool_choice(choice: ToolChoice) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "tool" else choice.mode


def _read_format(value: Any) -> ResponseFormat | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in ("text", "json_object"):
        return ResponseFormat(kind)
    return ResponseFormat.from_schema(value.get("json_schema")) if kind == "json_schema" else None


def _write_format(response_format: ResponseFormat) -> dict[str, Any]:
    schema = {"json_schema": response_format.write_schema()} if response_format.kind == "json_schema" else {}
    return {"type": response_format.kind, **schema}


def _read_stop(fields: Fields) -> tuple[str, ...]:
    stop = fields.unread.pop("stop", None) or []
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, list) and all(isinstance(text, str) and text for text in stops):
        return tuple(stops)
    fields.report("wrong-type", "stop", stop, "a string or a list of strings")
    return ()


def _read_messages(values: Sequence[Any], damage: list[WireDamage]) -> tuple[WireMessage, ...]:
    return tuple(
        _read_message(value, f"messages[{index}]", damage)
        for index, value in enumerate(values)
        if isinstance(value, Mapping) or _is_damaged(value, f"messages[{index}]", damage)
    )


def _is_damaged(value: Any, where: str, damage: list[WireDamage]) -> bool:
    """Record a message that is no object, and leave it out."""
    damage.append(WireDamage("wrong-type", where, value, "an object"))
    return False


def _read_message(value: Any, where: str, damage: list[WireDamage]) -> WireMessage:
    fields = Fields(value, where, damage)
    role = fields.text("role")
    if role not in ENDPOINT_ROLES:
        fields.report("unknown-role", "role", role, f"one of {', '.join(ENDPOINT_ROLES)}")
    elif ENDPOINT_ROLES[role] != role:
        fields.unread["role"] = role
    parts, reasoning = _read_content(fields), _read_reasoning(fields)
    calls = tuple(call for call, _ in _read_call_entries(fields, whole=True))
    call_id, name = fields.text("tool_call_id"), fields.text("name")
    return WireMessage(ENDPOINT_ROLES.get(role, role), parts, calls, call_id, reasoning, name, fields.unread)


def _read_content(fields: Fields) -> tuple[Any, ...]:
    return ("",) if fields.unread.get("content") == [] else read_parts(fields)


def _write_content(parts: Sequence[Any]) -> Any:
    if len(parts) < 2 and all(isinstance(part, str) for part in parts):
        return parts[0] if parts else None
    return write_parts(parts)


def _read_reasoning(fields: Fields) -> str:
    """The reasoning beside the content, under either of its two names."""
    for name in ("reasoning_content", "reasoning"):
        if fields.unread.get(name) and isinstance(fields.unread[name], str):
            return str(fields.unread.pop(name))
    return ""


def _read_call_entries(fields: Fields, *, whole: bool = False) -> list[tuple[ToolCall, int | None]]:
    """The calls of a message or of a delta with their indices; with ``whole``, torn arguments are damage."""
    if "tool_calls" not in fields.unread and _OLD_CALL not in fields.unread:
        return []
    entries = [(f"tool_calls[{index}]", entry) for index, entry in enumerate(fields.items("tool_calls"))]
    if _OLD_CALL in fields.unread:
        entries.append(
            (_OLD_CALL, {"type": _OLD_CALL, "function": fields.unread.pop(_OLD_CALL)} | ({} if whole else {"index": 0}))
        )
    calls: list[tuple[ToolCall, int | None]] = []
    for key, entry in entries:
        if not isinstance(entry, dict):
            fields.report("wrong-type", key, entry, "an object")
            continue
        call = fields.inner(key, entry)
        index = None if whole else call.integer("index")
        calls.append((_read_call(call), index))
        arguments, kind = calls[-1][0].arguments, calls[-1][0].extra.get("type")
        if whole and kind != "custom" and not isinstance(parse_json(arguments or "{}"), dict):
            fields.report("torn-arguments", key, arguments, "a call whose arguments are a JSON object")
    return calls


def _read_call(call: Fields) -> ToolCall:
    id, kind = call.text("id"), call.text("type")
    inner_key = "custom" if "custom" in call.unread and "function" not in call.unread else "function"
    if kind != "function" and (kind or inner_key == "custom"):
        call.unread["type"] = kind or inner_key
    inner = call.fields(inner_key)
    if inner is None:
        return ToolCall(id, "", "", call.unread)
    name = inner.text("name")
    arguments = inner.unread.pop("arguments" if "arguments" in inner.unread else "input", None)
    call.keep_unread(inner_key, inner)
    argument_text = arguments if isinstance(arguments, str) else "" if arguments is None else to_json(arguments)
    return ToolCall(id, name, argument_text, call.unread)


def _read_choices(
    fields: Fields, damage: list[WireDamage], *, first_only: bool = False
) -> tuple[Fields | None, list[Any]]:
    """The choice of the index 0, and the other choices; without ``first_only`` any choice will do."""
    choices = fields.items("choices")
    positions = [position for position, choice in enumerate(choices) if isinstance(choice, dict)]
    indexed = [position for position in positions if choices[position].get("index") in (0, None)]
    position = next(iter(indexed or ([] if first_only else positions)), None)
    if position is None:
        return None, choices
    choice = fields.inner(f"choices[{position}]", choices[position])
    if choice.unread.get("index") == 0:
        del choice.unread["index"]
    return choice, choices[:position] + choices[position + 1 :]


def _keep_choices(fields: Fields, choice: Fields | None, message: Mapping[str, Any], others: list[Any]) -> None:
    """Let what is unread of a choice and of its message, and the other choices, ride along under ``choices``."""
    unread = {} if choice is None else choice.unread | ({"message": dict(message)} if message else {})
    if unread or others:
        fields.unread["choices"] = [unread, *others]


def _extra_of_reply(message: WireMessage) -> dict[str, Any]:
    """The fields of a reply's message that a reply has no field for."""
    fields = {"name": message.name, "tool_call_id": message.call_id}
    role = {} if message.role == "assistant" else {"role": message.role}
    return role | {name: value for name, value in fields.items() if value} | dict(message.extra)


def _read_error(fields: Fields) -> str:
    """An error that came within a body, as text."""
    error = fields.unread.pop("error", None)
    return to_json(error) if error else ""


def _read_usage(fields: Fields, counts: Fields | None) -> tuple[Usage | None, int]:
    """The counts of a reply, None where there are none, and their sum."""
    if counts is None or not counts.unread:
        return None, 0
    prompt, completion, total = (counts.count(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    details = counts.fields("prompt_tokens_details")
    cached = details.count("cached_tokens") if details is not None else 0
    if details is not None:
        counts.keep_unread("prompt_tokens_details", details)
    fields.keep_unread("usage", counts)
    return Usage(1, prompt, cached, completion), total or prompt + completion


def _write_head(model: str, id: str = "") -> dict[str, Any]:
    return {"id": id or f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
