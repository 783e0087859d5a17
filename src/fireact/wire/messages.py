"""The dialect of Anthropic's Messages: requests, replies and streams, read and written.

    system                                        the first message, of the role ``system``
    tool_result blocks of a user's message        a message of the role ``tool`` each, before the rest of their message
    server_tool_use with its *_tool_result        one call with its ``output``

Invariant: reading is total (see ``dialect``), and writing what was read gives an equal body. The dialect has no seed: a
request is written without. A thinking block needs its provider's signature: a request holds only blocks that were read.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.types import Usage
from fireact.wire.dialect import (
    ResponseFormat,
    StreamDelta,
    ToolCall,
    ToolChoice,
    WireMessage,
    WireReply,
    WireRequest,
    read_part,
    read_parts,
    restore_reply,
    restore_request,
    write_content,
    write_parts,
)
from fireact.wire.fields import (
    Fields,
    Restore,
    WireDamage,
    as_mapping,
    find_unwritten,
    parse_json,
    restore_extra,
    restore_unchanged,
    to_json,
)
from fireact.wire.sse import write_event

DEFAULT_MAX_TOKENS = 4096
"""The limit of a request that names none, because the dialect demands one."""
_ROLES = ("user", "assistant", "system")
_FINISH_BY_REASON = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "content_filter",
}  # fmt: skip
_REASON_BY_FINISH = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_CHOICE_BY_MODE = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}
_MODE_BY_CHOICE: Mapping[Any, Any] = {choice: mode for mode, choice in _CHOICE_BY_MODE.items()}


class Messages:
    """Reads and writes Messages."""

    name = "messages"
    path = "/messages"

    def read_request(self, body: Any) -> WireRequest:
        """The request in a body."""
        damage: list[WireDamage] = []
        fields = Fields(body, "", damage)
        messages = _read_conversation(fields)
        choice, stream = fields.unread.get("tool_choice"), fields.flag("stream")
        output_config = fields.unread.get("output_config")
        request = WireRequest(
            model=fields.text("model"),
            messages=messages,
            tools=tuple(fields.items("tools")),
            stop=_read_stop(fields),
            max_tokens=fields.integer("max_tokens"),
            temperature=fields.number("temperature"),
            stream=stream,
            stream_usage=stream,
            top_p=fields.number("top_p"),
            tool_choice=_read_tool_choice(choice),
            parallel_tool_calls=_read_parallel(choice),
            response_format=_read_format(output_config),
            damage=tuple(damage),
        )
        written = self._write_request(request, restore_unchanged)
        return replace(request, extra=find_unwritten(as_mapping(body), written))

    def write_request(self, request: WireRequest) -> dict[str, Any]:
        """The body of a request; settings that are None are left out."""
        return self._write_request(request, restore_extra)

    def _write_request(self, request: WireRequest, restore: Restore) -> dict[str, Any]:
        settings = {
            "temperature": request.temperature, "top_p": request.top_p, "stop_sequences": list(request.stop) or None,
            "tools": [_write_tool(tool) for tool in request.tools] or None, "stream": request.stream or None,
            "tool_choice": _write_tool_choice(request), "output_config": _write_format(request.response_format),
        }  # fmt: skip
        limit = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": limit,
            **_write_conversation(request.messages, restore),
            **{name: value for name, value in settings.items() if value is not None},
        }
        return restore_request(body, request, restore, _read_conversation)

    def read_reply(self, body: Any) -> WireReply:
        """The message in a body that was not streamed."""
        damage: list[WireDamage] = []
        fields = Fields(body, "", damage)
        error = to_json(fields.unread["error"]) if "error" in fields.unread else ""
        answered = isinstance(fields.unread.get("content"), list)
        if not answered:
            fields.report("missing", "content", fields.unread.get("content"), "a list of blocks")
        message = _read_assistant(fields)
        reason = fields.text("stop_reason")
        usage = _read_usage(fields.fields("usage"))
        reply = WireReply(
            parts=message.parts, calls=message.calls, reasoning=message.reasoning,
            finish=_FINISH_BY_REASON.get(reason, reason), usage=usage,
            total_tokens=usage.prompt_tokens + usage.completion_tokens if usage is not None else 0,
            answered=answered, error=error, damage=tuple(damage),
        )  # fmt: skip
        return replace(reply, extra=find_unwritten(as_mapping(body), self.write_reply(reply, model="")))

    def write_reply(self, reply: WireReply, *, model: str) -> dict[str, Any]:
        """The body of a whole reply; without counts it holds zeros, because the dialect demands counts."""
        body = {
            **_write_head(model),
            "content": _write_reply_blocks(reply),
            "stop_reason": _REASON_BY_FINISH.get(reply.finish, reply.finish) or None,
            "stop_sequence": None,
            "usage": write_message_usage(reply.usage or Usage()),
        }
        return restore_reply(body, reply, _read_assistant)

    def stream_reader(self) -> MessagesStreamReader:
        """A reader of one stream."""
        return MessagesStreamReader()

    def stream_writer(self, model: str, *, id: str = "") -> MessagesStreamWriter:
        """A writer of one stream; without an id it makes one."""
        return MessagesStreamWriter(model, id)

    def write_error(self, message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
        """The body of an error."""
        return {"type": "error", "error": {"type": "api_error" if kind == "server_error" else kind, "message": message}}


MESSAGES = Messages()


def write_message_usage(usage: Usage) -> dict[str, Any]:
    """The counts of tokens; the tokens of the prompt that were cached are counted apart."""
    return {
        "input_tokens": max(0, usage.prompt_tokens - usage.cached_tokens),
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


class MessagesStreamReader:
    """Adds up the events of one stream to the body of a whole reply."""

    def __init__(self) -> None:
        self._body: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self._error, self._started, self._ended = "", False, False
        self._unread_events: list[Any] = []
        self._damage: list[WireDamage] = []

    def add(self, data: str) -> StreamDelta:
        """Read the data of an event, and return the text that it adds."""
        fields = Fields.parse(data, "event", self._damage)
        if fields is None:
            return StreamDelta()
        kind = fields.unread.pop("type", None)
        delta = StreamDelta()
        if kind == "message_start":
            self._start(fields)
        elif kind == "content_block_start":
            self._blocks[self._read_index(fields)] = dict(fields.mapping("content_block"))
        elif kind == "content_block_delta":
            delta = self._add_delta(fields)
        elif kind == "message_delta":
            self._merge_end(fields)
        elif kind == "error":
            self._error = to_json(fields.unread.pop("error", None))
        elif kind == "content_block_stop":
            self._read_index(fields)
        elif kind not in ("message_stop", "ping"):
            fields.unread["type"] = kind
        self._ended = self._ended or kind == "message_stop"
        if fields.unread and fields.unread != {"type": None}:
            self._unread_events.append({"type": kind, **fields.unread})
        return delta

    def reply(self) -> WireReply:
        """The reply so far; events that add nothing to a reply ride along under ``events``."""
        blocks = [self._build_block(index) for index in sorted(self._blocks)]
        body = {**self._body, "content": blocks}
        reply = MESSAGES.read_reply(body)
        events = {"events": self._unread_events} if self._unread_events else {}
        return replace(
            reply, answered=self._started, complete=self._ended or bool(reply.finish),
            error=self._error or reply.error, extra={**reply.extra, **events}, damage=(*self._damage, *reply.damage),
        )  # fmt: skip

    def _start(self, fields: Fields) -> None:
        message = fields.mapping("message")
        self._started = True
        for index, block in enumerate(content if isinstance(content := message.get("content"), list) else []):
            self._blocks[index] = dict(as_mapping(block))
        self._body = {name: value for name, value in message.items() if name != "content"}

    def _read_index(self, fields: Fields) -> int:
        """The index of a block; without one, that of the last block."""
        index = fields.integer("index")
        return max(self._blocks, default=0) if index is None else index

    def _add_delta(self, fields: Fields) -> StreamDelta:
        index = self._read_index(fields)
        inner = fields.fields("delta")
        if inner is None:
            return StreamDelta()
        kind = inner.unread.pop("type", None)
        delta = StreamDelta()
        if kind == "text_delta":
            delta = StreamDelta(text=self._extend_block(index, "text", inner.text("text")))
        elif kind == "thinking_delta":
            delta = StreamDelta(reasoning=self._extend_block(index, "thinking", inner.text("thinking")))
        elif kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + inner.text("partial_json")
            self._blocks.setdefault(index, {"type": "tool_use"})
        elif kind == "signature_delta":
            self._extend_block(index, "signature", inner.text("signature"), type="thinking")
        elif kind == "citations_delta" and "citation" in inner.unread:
            block = self._blocks.setdefault(index, {"type": "text"})
            earlier = block.get("citations")
            block["citations"] = [*(earlier if isinstance(earlier, list) else []), inner.unread.pop("citation")]
        else:
            inner.unread["type"] = kind
        fields.keep_unread("delta", inner)
        return delta

    def _extend_block(self, index: int, key: str, text: str, type: str = "") -> str:
        block = self._blocks.setdefault(index, {"type": type or key})
        earlier = block.get(key)
        if earlier is not None and not isinstance(earlier, str):
            self._damage.append(WireDamage("wrong-type", f"content[{index}].{key}", earlier, "a string"))
        block[key] = f"{earlier}{text}" if isinstance(earlier, str) else text
        return text

    def _merge_end(self, fields: Fields) -> None:
        """Merge the end of a message into the body: later counts replace earlier ones."""
        self._body |= fields.mapping("delta")
        counts = fields.mapping("usage")
        if counts:
            self._body["usage"] = {**as_mapping(self._body.get("usage")), **counts}

    def _build_block(self, index: int) -> dict[str, Any]:
        block = self._blocks[index]
        if not self._inputs.get(index):
            return block
        text = self._inputs[index]
        values = parse_json(text)
        return {**block, "input": values if isinstance(values, dict) else text}


class MessagesStreamWriter:
    """Writes the events of one stream, block by block."""

    def __init__(self, model: str, id: str = "") -> None:
        self._head = _write_head(model, id)
        self._index, self._open_type = -1, ""

    def start(self) -> bytes:
        """The event that opens the message."""
        message = {
            **self._head, "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": write_message_usage(Usage()),
        }  # fmt: skip
        return _write_typed({"type": "message_start", "message": message})

    def add(self, delta: StreamDelta) -> bytes:
        """The events of a delta."""
        events = b""
        if delta.reasoning:
            events += self._open({"type": "thinking", "thinking": "", "signature": ""})
            events += self._write_delta({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.text:
            events += self._open({"type": "text", "text": ""})
            events += self._write_delta({"type": "text_delta", "text": delta.text})
        for call in delta.calls:
            events += self._close() + self._open({**_write_call(call), "input": {}})
            events += self._write_delta({"type": "input_json_delta", "partial_json": call.arguments or "{}"})
            events += self._close()
        return events

    def end(self, *, finish: str, usage: Usage | None) -> bytes:
        """The end of the last block and of the message."""
        reason = _REASON_BY_FINISH.get(finish, finish) or None
        end = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": write_message_usage(usage or Usage()),
        }
        return self._close() + _write_typed(end) + _write_typed({"type": "message_stop"})

    def fail(self, message: str, kind: str = "server_error") -> bytes:
        """The event of an error."""
        return _write_typed(MESSAGES.write_error(message, kind))

    def _open(self, block: Mapping[str, Any]) -> bytes:
        """Begin a block, unless one of this type is open; tool calls are closed by their own delta."""
        if self._open_type == block["type"]:
            return b""
        closed = self._close()
        self._index += 1
        self._open_type = str(block["type"])
        return closed + _write_typed({"type": "content_block_start", "index": self._index, "content_block": block})

    def _write_delta(self, delta: Mapping[str, Any]) -> bytes:
        return _write_typed({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if not self._open_type:
            return b""
        self._open_type = ""
        return _write_typed({"type": "content_block_stop", "index": self._index})


def _write_typed(event: Mapping[str, Any]) -> bytes:
    return write_event(event, with_type=True)


def _read_stop(fields: Fields) -> tuple[str, ...]:
    stops = fields.items("stop_sequences")
    if all(isinstance(stop, str) and stop for stop in stops):
        return tuple(stops)
    fields.report("wrong-type", "stop_sequences", stops, "a list of strings")
    return ()


def _read_conversation(fields: Fields) -> tuple[WireMessage, ...]:
    """The system prompt and the messages."""
    system = [WireMessage("system", read_parts(fields, "system"))] if "system" in fields.unread else []
    messages = [
        message
        for index, value in enumerate(fields.items("messages"))
        for message in _read_row(fields.inner(f"messages[{index}]", value))
    ]
    return (*system, *messages)


def _write_conversation(messages: Sequence[WireMessage], restore: Restore) -> dict[str, Any]:
    """The system prompt and the messages; tool results go into one message with the user's text after them."""
    is_system = [message.role == "system" for message in messages]
    count = is_system.index(False) if False in is_system else len(messages)
    system_parts = [part for message in messages[:count] for part in message.parts]
    rows: list[dict[str, Any]] = []
    for position, message in enumerate(messages[count:], count):
        row = write_message_row(message, restore)
        if message.role in ("tool", "user") and position > count and messages[position - 1].role == "tool":
            rows[-1] = {**rows[-1], "content": [*rows[-1]["content"], *_as_blocks(row.get("content"))]}
        else:
            rows.append(row)
    system = {"system": write_content(system_parts)} if count else {}
    return {**system, "messages": rows}


def _as_blocks(content: Any) -> list[Any]:
    return list(content) if isinstance(content, list) else [] if content is None else write_parts([content])


def _read_row(fields: Fields) -> Iterator[WireMessage]:
    """The messages in one message of the dialect."""
    row = dict(fields.unread)
    role = fields.text("role")
    if role not in _ROLES:
        fields.report("unknown-role", "role", role, f"one of {', '.join(_ROLES)}")
    content = row.get("content")
    blocks = content if isinstance(content, list) else []
    if role == "assistant":
        yield _with_extra(_read_assistant(fields), row)
    elif role == "user" and any(_block_type(block) == "tool_result" for block in blocks):
        yield from _read_results(fields, blocks)
    else:
        yield _with_extra(WireMessage(role, read_parts(fields)), row)


def _read_results(fields: Fields, blocks: Sequence[Any]) -> Iterator[WireMessage]:
    """A message for each tool result, and one for each run of other blocks."""
    other_parts: list[Any] = []
    for index, block in enumerate(blocks):
        if _block_type(block) != "tool_result":
            other_parts.append(read_part(block))
            continue
        if other_parts:
            yield WireMessage("user", tuple(other_parts))
            other_parts = []
        yield _read_result(fields.inner(f"content[{index}]", block))
    if other_parts:
        yield WireMessage("user", tuple(other_parts))


def _read_result(fields: Fields) -> WireMessage:
    block = dict(fields.unread)
    message = WireMessage("tool", read_parts(fields), call_id=fields.text("tool_use_id"))
    return replace(message, extra=find_unwritten(block, _write_result(message)))


def _with_extra(message: WireMessage, row: Mapping[str, Any]) -> WireMessage:
    return replace(message, extra=find_unwritten(row, write_message_row(message, restore_unchanged)))


def write_message_row(message: WireMessage, restore: Restore = restore_extra) -> dict[str, Any]:
    """One message as JSON holds it; a tool's message is a user's message with its result."""
    if message.role == "tool":
        return {"role": "user", "content": [_write_result(message, restore)]}
    blocks = [*write_parts(message.parts), *(_write_call(call, restore) for call in message.calls)]
    row = {"role": message.role, "content": blocks if message.calls else write_content(message.parts)}
    return restore(row, message.extra, lambda merged: [message] == list(_read_row(Fields(merged, "", []))))


def _write_result(message: WireMessage, restore: Restore = restore_extra) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": message.call_id, "content": write_content(message.parts)}
    return restore(block, message.extra, lambda merged: message == _read_result(Fields(merged, "", [])))


def _block_type(block: Any) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    return kind if isinstance(kind, str) else ""


def _read_assistant(fields: Fields) -> WireMessage:
    """The message of a model from its content: text or blocks."""
    content = fields.unread.get("content")
    if not isinstance(content, list):
        return WireMessage("assistant", read_parts(fields))
    del fields.unread["content"]
    results = _pair_results(content)
    parts: list[Any] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for index, block in enumerate(content):
        kind = _block_type(block)
        if kind.endswith("tool_use"):
            call = _read_call(fields.inner(f"content[{index}]", block), results.get(index))
            calls.append(replace(call, parts_before=len(parts)))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            thoughts.append(block["thinking"])
        elif kind != "redacted_thinking" and not any(block is result for result in results.values()):
            parts.append(read_part(block))
    return WireMessage("assistant", tuple(parts), tuple(calls), reasoning="\n\n".join(filter(None, thoughts)))


def _pair_results(blocks: Sequence[Any]) -> dict[int, Mapping[str, Any]]:
    """The result of each call that the provider ran itself, by the position of the call."""
    results = {
        block["tool_use_id"]: block
        for block in blocks
        if _block_type(block).endswith("_tool_result") and isinstance(block.get("tool_use_id"), str)
    }
    pairs = {}
    for position, block in enumerate(blocks):
        id = block.get("id") if _block_type(block).endswith("_tool_use") else None
        if isinstance(id, str) and id in results:
            pairs[position] = results.pop(id)
    return pairs


def _read_call(fields: Fields, result: Mapping[str, Any] | None) -> ToolCall:
    block = dict(fields.unread)
    values = block.get("input", {})
    arguments = values if isinstance(values, str) else to_json(values)
    if not isinstance(values, dict):
        fields.report("torn-arguments", "input", values, "an object")
    output = None if result is None else _write_output(result.get("content"))
    call = ToolCall(fields.text("id"), fields.text("name"), arguments, output=output)
    return replace(call, extra=find_unwritten(block, _write_call(call)))


def _write_output(content: Any) -> str:
    """What the wire shows of a result; encrypted fields are for the provider alone."""
    if isinstance(content, list):
        return "\n".join(map(_write_output, content))
    if not isinstance(content, Mapping):
        return content if isinstance(content, str) else to_json(content)
    visible = {name: value for name, value in content.items() if value is not None and "encrypted" not in name}
    text = visible.get("text")
    return text if isinstance(text, str) else to_json(visible)


def _write_call(call: ToolCall, restore: Restore = restore_extra) -> dict[str, Any]:
    block = {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.action.arguments)}

    def is_same(merged: Mapping[str, Any]) -> bool:
        read = _read_call(Fields(merged, "", []), None)
        return (read.id, read.name, read.arguments) == (call.id, call.name, call.arguments)

    return restore(block, call.extra, is_same)


def _write_reply_blocks(reply: WireReply) -> list[Any]:
    thinking = [{"type": "thinking", "thinking": reply.reasoning, "signature": ""}] if reply.reasoning else []
    return [*thinking, *write_parts(reply.parts), *map(_write_call, reply.calls)]


def _write_tool(tool: Any) -> Any:
    """A schema in the form of chat completions as this dialect has it; any other schema as it is."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    schema = {"name": function.get("name"), "description": function.get("description")}
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {**{name: value for name, value in schema.items() if value}, "input_schema": parameters}


def _read_tool_choice(choice: Any) -> ToolChoice | None:
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    mode = _MODE_BY_CHOICE.get(kind) if isinstance(kind, str) else None
    if mode != "tool":
        return None if mode is None else ToolChoice(mode)
    return ToolChoice("tool", choice["name"]) if isinstance(choice.get("name"), str) else None


def _read_parallel(choice: Any) -> bool | None:
    disabled = choice.get("disable_parallel_tool_use") if isinstance(choice, Mapping) else None
    return not disabled if isinstance(disabled, bool) else None


def _write_tool_choice(request: WireRequest) -> dict[str, Any] | None:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if choice is None and parallel is not False:
        return None
    mode = choice.mode if choice is not None else "auto"
    name = {"name": choice.name} if choice is not None and mode == "tool" else {}
    disabled = {} if parallel is None or mode == "none" else {"disable_parallel_tool_use": not parallel}
    return {"type": _CHOICE_BY_MODE[mode], **name, **disabled}


def _read_format(output_config: Any) -> ResponseFormat | None:
    form = output_config.get("format") if isinstance(output_config, Mapping) else None
    is_schema = isinstance(form, Mapping) and form.get("type") == "json_schema"
    return ResponseFormat.from_schema(form) if is_schema else None


def _write_format(response_format: ResponseFormat | None) -> dict[str, Any] | None:
    if response_format is None or response_format.kind == "text":
        return None
    schema = {} if response_format.schema is None else {"schema": response_format.schema}
    return {"format": {"type": response_format.kind, **schema}}


def _read_usage(counts: Fields | None) -> Usage | None:
    if counts is None or not counts.unread:
        return None
    written, cached, fresh, output = (
        counts.count(f"{name}_tokens")
        for name in ("cache_creation_input", "cache_read_input", "input", "output")
    )  # fmt: skip
    return Usage(1, written + cached + fresh, cached, output)


def _write_head(model: str, id: str = "") -> dict[str, Any]:
    return {"id": id or f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model}
