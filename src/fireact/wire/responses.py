"""The dialect of OpenAI's Responses API and of Open Responses: requests, replies and streams, read and written.

    instructions                                  the first message, of the role ``system``
    reasoning, message, *_call items in a row     one message of the assistant, with its calls
    *_output items                                a message of the role ``tool`` each
    web_search_call and the like                  a call with its ``output``: the provider ran it

Invariant: reading is total (see ``dialect``), and writing what was read gives an equal body. The dialect has neither
stop strings nor a seed: a request is written without. Items that only the provider holds (``previous_response_id``,
``conversation``, ``item_reference``) are not looked up here; they ride along.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
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
from fireact.wire.sse import END, write_event

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_FINISH_BY_REASON = {"max_output_tokens": "length", "max_messages": "length"}
_REASON_BY_FINISH = {"length": "max_output_tokens", "content_filter": "content_filter"}
_REPEATED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "previous_response_id", "reasoning",
    "store", "temperature", "text", "tool_choice", "tools", "top_p", "truncation",
)  # fmt: skip
"""Settings of a request that its response repeats."""
_UNANSWERED = ("queued", "in_progress", "failed", "cancelled")
_CALL_IDENTITY = ("type", "id", "call_id", "status", "name", "server_label")
_CALL_RESULTS = ("output", "outputs", "results", "result", "error")
_TEXT_DELTAS = {
    "response.output_text.delta": ("message", "content", "output_text", "text"),
    "response.refusal.delta": ("message", "content", "refusal", "refusal"),
    "response.reasoning_text.delta": ("reasoning", "content", "reasoning_text", "text"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary", "summary_text", "text"),
}
"""The item, its list of blocks, the block and its field that a delta of text adds to."""
_INPUT_DELTAS = {
    "response.function_call_arguments.delta": ("function_call", "arguments"),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "input"),
    "response.mcp_call_arguments.delta": ("mcp_call", "arguments"),
}
"""The item and its field that a delta of a call adds to."""
_INDICES = ("output_index", "content_index", "summary_index")


class Responses:
    """Reads and writes Responses."""

    name = "responses"
    path = "/responses"

    def read_request(self, body: Any) -> WireRequest:
        """The request in a body."""
        damage: list[WireDamage] = []
        fields = Fields(body, "", damage)
        messages, stream = _read_conversation(fields), fields.flag("stream")
        text = fields.unread.get("text")
        request = WireRequest(
            model=fields.text("model"),
            messages=messages,
            tools=tuple(fields.items("tools")),
            max_tokens=fields.integer("max_output_tokens"),
            temperature=fields.number("temperature"),
            stream=stream,
            stream_usage=stream,
            top_p=fields.number("top_p"),
            tool_choice=_read_tool_choice(fields.unread.get("tool_choice")),
            parallel_tool_calls=fields.choice("parallel_tool_calls"),
            response_format=_read_format(text.get("format") if isinstance(text, Mapping) else None),
            damage=tuple(damage),
        )
        written = self._write_request(request, restore_unchanged)
        return replace(request, extra=find_unwritten(as_mapping(body), written))

    def write_request(self, request: WireRequest) -> dict[str, Any]:
        """The body of a request; settings that are None are left out."""
        return self._write_request(request, restore_extra)

    def _write_request(self, request: WireRequest, restore: Restore) -> dict[str, Any]:
        choice, form = request.tool_choice, request.response_format
        settings = {
            "max_output_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p,
            "tools": [_write_tool(tool) for tool in request.tools] or None, "stream": request.stream or None,
            "tool_choice": None if choice is None else _write_tool_choice(choice),
            "parallel_tool_calls": request.parallel_tool_calls,
            "text": None if form is None else {"format": {"type": form.kind, **form.write_schema()}},
        }  # fmt: skip
        body: dict[str, Any] = {
            "model": request.model,
            **_write_conversation(request.messages, restore),
            **{name: value for name, value in settings.items() if value is not None},
        }
        return restore_request(body, request, restore, _read_conversation)

    def read_reply(self, body: Any) -> WireReply:
        """The output in a body that was not streamed; a response that still runs is not answered."""
        damage: list[WireDamage] = []
        fields = Fields(body, "", damage)
        error = to_json(fields.unread["error"]) if "error" in fields.unread else ""
        status = fields.text("status")
        answered = isinstance(fields.unread.get("output"), list) and status not in _UNANSWERED
        if not answered:
            fields.report("missing", "output", fields.unread.get("output"), "the output of a response that has ended")
        message = _read_turn(fields.items("output"), "output", damage)
        usage, total_tokens = _read_usage(fields.fields("usage"))
        reason = as_mapping(fields.unread.get("incomplete_details")).get("reason")
        finish = _FINISH_BY_REASON.get(str(reason), str(reason)) if reason else ""
        is_client_called = any(call.output is None for call in message.calls)
        if not finish and answered and status in ("completed", ""):
            finish = "tool_calls" if is_client_called else "stop"
        reply = WireReply(
            parts=message.parts, calls=message.calls, reasoning=message.reasoning, finish=finish or status,
            usage=usage, total_tokens=total_tokens, answered=answered, error=error, damage=tuple(damage),
        )  # fmt: skip
        return replace(reply, extra=find_unwritten(as_mapping(body), self.write_reply(reply, model="")))

    def write_reply(self, reply: WireReply, *, model: str) -> dict[str, Any]:
        """The body of a whole reply."""
        output = [dict(item) for item in _write_output_items(reply)]
        body = {**_write_head(model), **_write_end(reply.finish, reply.usage), "output": output}
        return restore_reply(body, reply, lambda fields: _read_turn(fields.items("output"), "", []))

    def stream_reader(self) -> ResponsesStreamReader:
        """A reader of one stream."""
        return ResponsesStreamReader()

    def stream_writer(
        self, model: str, *, id: str = "", request: Mapping[str, Any] = MappingProxyType({})
    ) -> ResponsesStreamWriter:
        """A writer of one stream, which repeats the settings of a request; without an id it makes one."""
        return ResponsesStreamWriter(model, id, request)

    def write_error(self, message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
        """The body of an error."""
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}


RESPONSES = Responses()


def write_response_usage(usage: Usage) -> dict[str, Any]:
    """The counts of tokens."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class ResponsesStreamReader:
    """Adds up the events of one stream to the body of a reply: the last event has it whole, unless it is cut."""

    def __init__(self) -> None:
        self._body: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._error, self._started, self._ended = "", False, False
        self._unread_events: list[Any] = []
        self._damage: list[WireDamage] = []

    def add(self, data: str) -> StreamDelta:
        """Read the data of an event, and return the text that it adds."""
        if data.strip() == END:
            return StreamDelta()
        fields = Fields.parse(data, "event", self._damage)
        if fields is None:
            return StreamDelta()
        kind = fields.text("type")
        for name in ("sequence_number", "item_id", "obfuscation"):  # they place the event, and say nothing of the reply
            fields.unread.pop(name, None)
        delta = self._read_event(kind, fields)
        unread = {
            name: value for name, value in fields.unread.items() if name not in _INDICES or type(value) is not int
        }
        if unread:
            self._unread_events.append({"type": kind, **fields.unread})
        return delta

    def reply(self) -> WireReply:
        """The reply so far; events that add nothing to a reply ride along under ``events``."""
        output = self._body.get("output")
        items = [self._items[index] for index in sorted(self._items)]
        body = {**self._body, "output": output if self._ended and isinstance(output, list) and output else items}
        reply = RESPONSES.read_reply(body)
        events = {"events": self._unread_events} if self._unread_events else {}
        reply = replace(
            reply, complete=self._ended, error=self._error or reply.error, extra={**reply.extra, **events},
            damage=(*self._damage, *reply.damage),
        )  # fmt: skip
        return reply if self._ended else replace(reply, answered=bool(items), finish="")

    def _read_event(self, kind: str, fields: Fields) -> StreamDelta:
        """Add an event; what stays unread of it rides along."""
        if kind.startswith("response.") and "response" in fields.unread:
            self._started = True
            self._body = fields.mapping("response")
            self._ended = kind in ("response.completed", "response.incomplete", "response.failed")
        elif kind == "error":
            self._error = to_json(dict(fields.unread))
            fields.unread.clear()
        elif kind in ("response.output_item.added", "response.output_item.done"):
            item, index = fields.mapping("item"), self._read_index(fields)
            self._items[index] = {**self._items.get(index, {}), **item}  # an item that says less takes nothing away
        elif kind in ("response.content_part.added", "response.content_part.done"):
            self._put_block(fields, "content", "part")
        elif kind in ("response.reasoning_summary_part.added", "response.reasoning_summary_part.done"):
            self._put_block(fields, "summary", "part")
        elif kind.endswith(".delta"):
            return self._add_delta(kind, fields)
        elif kind.endswith(".done"):
            self._drop_repeated(fields)
        return StreamDelta()

    def _drop_repeated(self, fields: Fields) -> None:
        """Take out of the end of a text, or of arguments, what its item holds already."""
        item = to_json(self._items.get(self._read_index(fields)))
        for key in ("text", "refusal", "arguments", "input", "name", "logprobs"):
            value = fields.unread.get(key)
            if value == [] or (isinstance(value, str) and to_json(value) in item):
                del fields.unread[key]

    def _read_index(self, fields: Fields) -> int:
        """The index of an item; without one, that of the last item."""
        index = fields.integer("output_index")
        return max(self._items, default=0) if index is None else index

    def _put_block(self, fields: Fields, key: str, name: str) -> None:
        blocks = self._find_blocks(fields, key, "message" if key == "content" else "reasoning")
        position = fields.integer(f"{key}_index")
        block = fields.mapping(name)
        if position is None or not 0 <= position < len(blocks):
            blocks.append(block)
        else:
            blocks[position] = block

    def _find_blocks(self, fields: Fields, key: str, type: str) -> list[Any]:
        item = self._items.setdefault(self._read_index(fields), {"type": type})
        blocks = item.get(key)
        item[key] = list(blocks) if isinstance(blocks, list) else []
        result: list[Any] = item[key]
        return result

    def _add_delta(self, kind: str, fields: Fields) -> StreamDelta:
        if kind in _INPUT_DELTAS:
            item_type, key = _INPUT_DELTAS[kind]
            item = self._items.setdefault(self._read_index(fields), {"type": item_type})
            item[key] = self._join(item.get(key), fields.text("delta"), key)
        elif kind in _TEXT_DELTAS:
            return self._add_text(_TEXT_DELTAS[kind], fields)
        return StreamDelta()

    def _add_text(self, names: tuple[str, str, str, str], fields: Fields) -> StreamDelta:
        item_type, key, block_type, name = names
        blocks = self._find_blocks(fields, key, item_type)
        position = fields.integer(f"{key}_index") or 0
        text = fields.text("delta")
        if not 0 <= position < len(blocks) or not isinstance(blocks[position], Mapping):
            blocks.append({"type": block_type})
            position = len(blocks) - 1
        blocks[position] = {**blocks[position], name: self._join(blocks[position].get(name), text, name)}
        if fields.unread.get("logprobs") == []:
            del fields.unread["logprobs"]
        return StreamDelta(text) if item_type == "message" else StreamDelta(reasoning=text)

    def _join(self, earlier: Any, text: str, key: str) -> str:
        if earlier is not None and not isinstance(earlier, str):
            self._damage.append(WireDamage("wrong-type", key, earlier, "a string"))
        return f"{earlier}{text}" if isinstance(earlier, str) else text


class ResponsesStreamWriter:
    """Writes the events of one stream, item by item."""

    def __init__(self, model: str, id: str = "", request: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._head = {**_write_head(model, id), **repeat_settings(request)}
        self._output: list[dict[str, Any]] = []
        self._open_text = ""
        self._sequence_number = -1

    def start(self) -> bytes:
        """The events that open the response."""
        response = {**self._head, "status": "in_progress", "output": [], "usage": None}
        return self._write("created", response=response) + self._write("in_progress", response=response)

    def add(self, delta: StreamDelta) -> bytes:
        """The events of a delta."""
        events = self._add_text("reasoning", delta.reasoning) if delta.reasoning else b""
        events += self._add_text("message", delta.text) if delta.text else b""
        for call in delta.calls:
            events += self._close() + self._add_call(call)
        return events

    def end(self, *, finish: str, usage: Usage | None) -> bytes:
        """The end of the last item, and the whole response."""
        events = self._close()
        response = {**self._head, **_write_end(finish, usage), "output": self._output}
        return events + self._write(str(response["status"]), response=response)

    def fail(self, message: str, kind: str = "server_error") -> bytes:
        """The event of a response that failed."""
        failed = {"status": "failed", "error": {"code": kind, "message": message}, "usage": None}
        return self._close() + self._write("failed", response={**self._head, **failed, "output": self._output})

    def _write(self, kind: str, **fields: Any) -> bytes:
        self._sequence_number += 1
        event = {"type": f"response.{kind}", "sequence_number": self._sequence_number, **fields}
        return write_event(event, with_type=True)

    def _write_text(self, kind: str, stage: str, **text: str) -> bytes:
        if kind == "reasoning":
            return self._write(f"reasoning_text.{stage}", **self._locate_item(), content_index=0, **text)
        return self._write(f"output_text.{stage}", **self._locate_item(), content_index=0, logprobs=[], **text)

    def _locate_item(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _open(self, item: dict[str, Any]) -> bytes:
        self._output.append(item)
        return self._write("output_item.added", output_index=len(self._output) - 1, item=item)

    def _add_text(self, kind: str, text: str) -> bytes:
        """The events of text or reasoning; it goes into the open item, if that is of its kind."""
        events = b""
        if not self._output or self._output[-1]["type"] != kind or not self._open_text:
            events = self._close()
            events += self._open({**_write_item(kind), "status": "in_progress", "content": []})
            part = _write_text_block(kind, "")
            events += self._write("content_part.added", **self._locate_item(), content_index=0, part=part)
        self._open_text += text
        return events + self._write_text(kind, "delta", delta=text)

    def _add_call(self, call: ToolCall) -> bytes:
        item = {"id": f"fc_{uuid.uuid4().hex}", "status": "completed", **_write_call(call)}
        events = self._open({**item, "arguments": "", "status": "in_progress"})
        events += self._write("function_call_arguments.delta", **self._locate_item(), delta=call.arguments)
        events += self._write(
            "function_call_arguments.done", **self._locate_item(), arguments=call.arguments, name=call.name
        )
        return events + self._end_item(item)

    def _close(self) -> bytes:
        """The end of the open text, if there is any."""
        if not self._open_text:
            return b""
        text, self._open_text = self._open_text, ""
        item = self._output[-1]
        part = _write_text_block(str(item["type"]), text)
        events = self._write_text(str(item["type"]), "done", text=text)
        events += self._write("content_part.done", **self._locate_item(), content_index=0, part=part)
        return events + self._end_item({**item, "status": "completed", "content": [part]})

    def _end_item(self, item: dict[str, Any]) -> bytes:
        self._output[-1] = item
        return self._write("output_item.done", output_index=len(self._output) - 1, item=item)


def _read_conversation(fields: Fields) -> tuple[WireMessage, ...]:
    """The instructions and the messages in the input."""
    instructions = (
        [WireMessage("system", read_parts(fields, "instructions"))] if "instructions" in fields.unread else []
    )
    if isinstance(fields.unread.get("input"), str):
        return (*instructions, WireMessage("user", (fields.unread.pop("input"),)))
    return (*instructions, *_read_items(fields, fields.items("input")))


def _write_conversation(messages: Sequence[WireMessage], restore: Restore) -> dict[str, Any]:
    """The instructions, if the first message is a system prompt of plain text, and the items of the input."""
    first = messages[0] if messages else None
    is_plain = first is not None and first.role == "system" and not first.extra and len(first.parts) == 1
    if first is None or not is_plain or not isinstance(first.parts[0], str):
        return {"input": [item for message in messages for item in write_items(message, restore)]}
    items = [item for message in messages[1:] for item in write_items(message, restore)]
    return {"instructions": first.parts[0], "input": items}


def _read_items(fields: Fields, items: Sequence[Any]) -> Iterator[WireMessage]:
    """The messages of items; items that a model wrote in a row are one message."""
    turn: list[Any] = []
    for index, item in enumerate(items):
        if isinstance(item, Mapping) and _is_model_item(item):
            turn.append(item)
            continue
        if turn:
            yield _read_assistant_turn(turn, fields.damage, start=index - len(turn))
            turn = []
        if isinstance(item, Mapping):
            yield _read_client_item(fields.inner(f"input[{index}]", item))
        else:
            fields.report("wrong-type", f"input[{index}]", item, "an object")
    if turn:
        yield _read_assistant_turn(turn, fields.damage, start=len(items) - len(turn))


def _is_model_item(item: Mapping[str, Any]) -> bool:
    """Whether the model, or its provider, wrote an item; a client writes messages, outputs and approvals."""
    kind = item.get("type", "message")
    if kind == "message" or not isinstance(kind, str):
        return item.get("role") == "assistant"
    return not kind.endswith(("_output", "_response", "configuration_update", "additional_tools"))


def _read_client_item(fields: Fields) -> WireMessage:
    item = dict(fields.unread)
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind.endswith("_output"):
        output = item.get("output")
        parts = (output,) if isinstance(output, Mapping) else read_parts(fields, "output", text_type="input_text")
        message = WireMessage("tool", parts, call_id=fields.text("call_id"))
    elif kind != "message":
        message = WireMessage("user", (item,))
    else:
        role = fields.text("role")
        if role not in _ROLES:
            fields.report("unknown-role", "role", role, f"one of {', '.join(_ROLES)}")
        message = WireMessage(_ROLES.get(role, role), read_parts(fields, text_type="input_text"))
    return replace(message, extra=find_unwritten(item, _write_client_item(message)))


def _write_client_item(message: WireMessage, restore: Restore = restore_extra) -> dict[str, Any]:
    content = write_content(message.parts, "input_text")
    if message.role == "tool":
        item = {"type": "function_call_output", "call_id": message.call_id, "output": content}
    else:
        item = {"role": message.role, "content": content}
    return restore(item, message.extra, lambda merged: message == _read_client_item(Fields(merged, "", [])))


def write_items(message: WireMessage, restore: Restore = restore_extra) -> list[dict[str, Any]]:
    """The items of one message."""
    if message.role != "assistant":
        return [_write_client_item(message, restore)]
    content = _write_assistant_content(message.parts)
    text_items = [{"role": "assistant", "content": content}] if message.parts else []
    written = {"items": [*text_items, *(_write_call(call, restore) for call in message.calls)]}

    def is_same(merged: Mapping[str, Any]) -> bool:
        items = merged.get("items")
        return isinstance(items, list) and message == _read_assistant_turn(items, [])

    items: list[dict[str, Any]] = restore(written, message.extra, is_same)["items"]
    return items


def _write_assistant_content(parts: Sequence[Any]) -> Any:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [_write_text_block("message", part) if isinstance(part, str) else part for part in parts]


def _read_assistant_turn(items: Sequence[Any], damage: list[WireDamage], start: int = 0) -> WireMessage:
    message = _read_turn(items, "input", damage, start=start)
    return replace(
        message, extra=find_unwritten({"items": list(items)}, {"items": write_items(message, restore_unchanged)})
    )


def _read_turn(items: Sequence[Any], where: str, damage: list[WireDamage], *, start: int = 0) -> WireMessage:
    """The message of a model from its items, the first of which has the index ``start``."""
    parts: list[Any] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for index, item in enumerate(items, start):
        fields = Fields(item, f"{where}[{index}]", damage)
        kind = fields.unread.get("type", "message")
        if kind == "reasoning":
            thoughts.append(_read_thought(item))
        elif kind == "message" and isinstance(item, Mapping):
            parts += [_read_output_part(part) for part in read_parts(fields)]
        elif isinstance(kind, str) and kind.endswith("_call"):
            calls.append(replace(_read_call(fields, kind), parts_before=len(parts)))
        elif isinstance(item, Mapping):
            parts.append(item)
    return WireMessage("assistant", tuple(parts), tuple(calls), reasoning="\n\n".join(filter(None, thoughts)))


def _read_thought(item: Mapping[str, Any]) -> str:
    """The reasoning of an item: its text where it is open, else its summary."""
    for key in ("content", "summary"):
        blocks = item.get(key)
        texts = (
            [block.get("text") for block in blocks if isinstance(block, Mapping)] if isinstance(blocks, list) else []
        )
        if any(texts):
            return "\n\n".join(text for text in texts if isinstance(text, str))
    return ""


def _read_output_part(part: Any) -> Any:
    """A block of text as its text, unless it has annotations or the like."""
    if isinstance(part, Mapping):
        part = {name: value for name, value in part.items() if name not in ("annotations", "logprobs") or value}
    return read_part(part, "output_text")


def _read_call(fields: Fields, kind: str) -> ToolCall:
    """The call of an item; a call without ``call_id`` is one that the provider ran itself."""
    item = dict(fields.unread)
    if kind in ("function_call", "custom_tool_call"):
        key = "arguments" if kind == "function_call" else "input"
        call = ToolCall(fields.text("call_id"), fields.text("name"), fields.text(key))
        if kind == "function_call" and not isinstance(parse_json(call.arguments or "{}"), dict):
            fields.report("torn-arguments", key, call.arguments, "a JSON object")
    else:
        id, name = (item.get(key) if isinstance(item.get(key), str) else "" for key in ("call_id", "name"))
        call = ToolCall(
            id or (item["id"] if isinstance(item.get("id"), str) else ""),
            name or kind.removesuffix("_call"),
            _read_builtin_arguments(item),
            output=None if id else _read_builtin_output(item),
        )
    return replace(call, extra=find_unwritten(item, _write_call(call)))


def _read_builtin_arguments(item: Mapping[str, Any]) -> str:
    arguments = item.get("arguments")
    if isinstance(arguments, str):
        return arguments
    inner = next((item[key] for key in ("action", "operation") if isinstance(item.get(key), Mapping)), None)
    values = inner if inner is not None else item
    hidden = (*_CALL_RESULTS, "sources", *(_CALL_IDENTITY if inner is None else ()))
    return to_json({name: value for name, value in values.items() if name not in hidden})


def _read_builtin_output(item: Mapping[str, Any]) -> str:
    """What the wire shows of a result: the results and the sources, else the status."""
    sources = as_mapping(item.get("action")).get("sources")
    results = [item[key] for key in _CALL_RESULTS if item.get(key)] + ([sources] if sources else [])
    texts = [result if isinstance(result, str) else to_json(result) for result in results]
    return "\n".join(texts) or str(item.get("status") or "completed")


def _write_call(call: ToolCall, restore: Restore = restore_extra) -> dict[str, Any]:
    item = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}

    def is_same(merged: Mapping[str, Any]) -> bool:
        return call == _read_call(Fields(merged, "", []), str(merged.get("type")))

    return restore(item, call.extra, is_same)


def _write_item(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"id": f"rs_{uuid.uuid4().hex}", "type": kind, "summary": []}
    return {"id": f"msg_{uuid.uuid4().hex}", "type": kind, "role": "assistant"}


def _write_text_block(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": []}


def _write_output_items(reply: WireReply) -> Iterator[dict[str, Any]]:
    if reply.reasoning:
        content = [_write_text_block("reasoning", reply.reasoning)]
        yield {**_write_item("reasoning"), "status": "completed", "content": content}
    if reply.parts or not reply.calls:
        blocks = [_write_text_block("message", part) if isinstance(part, str) else part for part in reply.parts]
        yield {**_write_item("message"), "status": "completed", "content": blocks}
    for call in reply.calls:
        yield {"id": f"fc_{uuid.uuid4().hex}", "status": "completed", **_write_call(call)}


def _write_tool(tool: Any) -> Any:
    """A schema in the form of chat completions as this dialect has it; any other schema as it is."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        return tool
    return {"type": "function", "strict": False, **function}


def _read_tool_choice(value: Any) -> ToolChoice | None:
    if value in ("auto", "none", "required"):
        return ToolChoice(value)
    is_function = isinstance(value, Mapping) and value.get("type") == "function"
    return ToolChoice("tool", value["name"]) if is_function and isinstance(value.get("name"), str) else None


def _write_tool_choice(choice: ToolChoice) -> Any:
    return {"type": "function", "name": choice.name} if choice.mode == "tool" else choice.mode


def _read_format(form: Any) -> ResponseFormat | None:
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind in ("text", "json_object"):
        return ResponseFormat(kind)
    return ResponseFormat.from_schema(form) if kind == "json_schema" else None


def _read_usage(counts: Fields | None) -> tuple[Usage | None, int]:
    """The counts of a reply, None where there are none, and their sum."""
    if counts is None or not counts.unread:
        return None, 0
    prompt, completion, total = (counts.count(f"{name}_tokens") for name in ("input", "output", "total"))
    details = counts.fields("input_tokens_details")
    cached = details.count("cached_tokens") if details is not None else 0
    return Usage(1, prompt, cached, completion), total or prompt + completion


def _write_head(model: str, id: str = "") -> dict[str, Any]:
    return {
        "id": id or f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()), "model": model,
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "temperature": None, "top_p": None,
    }  # fmt: skip


def repeat_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a request that its response repeats."""
    return {name: request[name] for name in _REPEATED if request.get(name) is not None}


def _write_end(finish: str, usage: Usage | None) -> dict[str, Any]:
    """The status of a response that has ended, and its counts."""
    reason = _REASON_BY_FINISH.get(finish)
    details = {"incomplete_details": {"reason": reason}} if reason else {}
    counts = None if usage is None else write_response_usage(usage)
    return {"status": "incomplete" if reason else "completed", **details, "usage": counts}
