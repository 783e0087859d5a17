"""The neutral nouns of the wire, and the Protocol of a dialect, which reads and writes them.

Invariant: reading is total. Whatever JSON comes, a reader returns a noun, and what it could not read is named in
``damage``. What a noun has no field for rides along in ``extra``, and is written back. No module here knows HTTP.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fireact.types import Action, Message, Usage
from fireact.wire.fields import Fields, Restore, WireDamage, parse_json, restore_extra, to_json


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call; ``arguments`` is the text that the model wrote, a JSON object or not.

    ``output`` is what a tool of the provider's own answered, as the wire shows it; None for a call to the client. Such
    a call stands within its message: ``parts_before`` counts the parts that the model wrote before it.
    """

    id: str
    name: str
    arguments: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    parts_before: int = field(default=0, compare=False)

    @property
    def action(self) -> Action:
        """The call as an action; arguments that are not a JSON object become the argument ``input``."""
        values = parse_json(self.arguments or "{}")
        return Action(self.name, values if isinstance(values, dict) else {"input": self.arguments})

    @classmethod
    def from_action(cls, action: Action, number: int) -> ToolCall:
        """An action as the call of this number in its conversation."""
        return cls(make_call_id(number), action.name, json.dumps(dict(action.arguments), ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class WireMessage:
    """One message. Of its ``parts`` a string is text, and any other value is a block as the wire has it.

    ``call_id`` is the id of the call that a tool's message answers. No parts are content that is absent.
    """

    role: str
    parts: tuple[Any, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    reasoning: str = ""
    name: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The parts as lines of text; a part that is not text becomes a placeholder with its hash."""
        return join_parts(self.parts)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools a reply may or must call; ``name`` is set only in the mode ``tool``."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form of a reply's text; the fields after ``kind`` are set only for ``json_schema``."""

    kind: Literal["text", "json_object", "json_schema"]
    schema: Mapping[str, Any] | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None

    @classmethod
    def from_schema(cls, values: Any) -> ResponseFormat | None:
        """The format of an object with a schema, and perhaps a name, a description and ``strict``; None for others."""
        if not isinstance(values, Mapping) or not isinstance(values.get("schema"), Mapping):
            return None
        texts = {name: values.get(name) for name in ("name", "description")}
        strict = values.get("strict")
        return cls(
            "json_schema", values["schema"],
            strict=strict if isinstance(strict, bool) else None,
            **{name: text for name, text in texts.items() if isinstance(text, str)},
        )  # fmt: skip

    def write_schema(self) -> dict[str, Any]:
        """The object that ``from_schema`` reads."""
        fields = {"name": self.name, "description": self.description, "schema": self.schema, "strict": self.strict}
        return {name: value for name, value in fields.items() if value is not None and value != ""}


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request. ``tools`` are the schemas as they came; a setting that was not sent is None.

    A ``tool_choice`` or ``response_format`` of an unknown form is None too, and rides along in ``extra``.
    """

    model: str
    messages: tuple[WireMessage, ...]
    tools: tuple[Any, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stream: bool = False
    stream_usage: bool = False
    top_p: float | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    damage: tuple[WireDamage, ...] = ()


@dataclass(frozen=True, slots=True)
class WireReply:
    """A reply, whole or so far. ``usage`` has no cost, and is None where the server sent no counts.

    ``answered`` is false where a body holds no message. ``complete`` is false where a stream has not ended. ``error``
    is an error that came in place of the reply, or within it, as text. ``total_tokens`` is the server's own sum.
    ``finish`` is in the words of chat completions: stop, tool_calls, length, content_filter; others as they came.
    """

    parts: tuple[Any, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    finish: str = ""
    usage: Usage | None = None
    total_tokens: int = 0
    answered: bool = True
    complete: bool = True
    error: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    damage: tuple[WireDamage, ...] = ()

    @property
    def text(self) -> str:
        """The parts as lines of text; a part that is not text becomes a placeholder with its hash."""
        return join_parts(self.parts)

    @property
    def plain_text(self) -> str:
        """The text parts alone, joined as they came."""
        return "".join(text for part in self.parts if (text := part_text(part)) is not None)


@dataclass(frozen=True, slots=True)
class StreamDelta:
    """What one event of a stream adds to a reply; ``calls`` are whole calls."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


class StreamReader(Protocol):
    """Reads the events of one stream."""

    def add(self, data: str) -> StreamDelta:
        """Read the data of an event, and return the text that it adds."""

    def reply(self) -> WireReply:
        """The reply that the events so far add up to."""


class StreamWriter(Protocol):
    """Writes the events of one stream, each as bytes."""

    def start(self) -> bytes:
        """The events before the first text."""

    def add(self, delta: StreamDelta) -> bytes:
        """The events that add to the reply."""

    def end(self, *, finish: str, usage: Usage | None) -> bytes:
        """The events after the last text; ``usage`` is None where the client did not ask for it."""

    def fail(self, message: str, kind: str = "server_error") -> bytes:
        """The events of an error that ends the stream."""


class Dialect(Protocol):
    """A wire format for requests and replies, in both directions; bodies are parsed JSON."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str:
        """The path of its requests below the base URL."""

    def read_request(self, body: Any) -> WireRequest: ...

    def write_request(self, request: WireRequest) -> dict[str, Any]: ...

    def read_reply(self, body: Any) -> WireReply: ...

    def write_reply(self, reply: WireReply, *, model: str) -> dict[str, Any]: ...

    def stream_reader(self) -> StreamReader: ...

    def stream_writer(self, model: str, *, id: str = "") -> StreamWriter:
        """A writer of one stream; without an id it makes one."""

    def write_error(self, message: str, kind: str) -> dict[str, Any]: ...


def make_call_id(number: int) -> str:
    """The id of a call by its number in a conversation: nine letters and digits, which every provider takes."""
    return f"call{number:05d}"[-9:]


def number_calls(messages: Sequence[Message], *, named: bool = False) -> Iterator[WireMessage]:
    """Messages with numbered calls; the results after a turn have the ids of its calls, in their order.

    With ``named``, results also hold the name of their tool.
    """
    call_count, answered_count = 0, 0
    for message in messages:
        calls = tuple(ToolCall.from_action(action, call_count + n) for n, action in enumerate(message.calls, 1))
        if calls:
            answered_count = call_count
            call_count += len(calls)
        answered_count += message.role == "tool"
        yield WireMessage(
            message.role,
            (message.content,),
            calls,
            call_id=make_call_id(answered_count) if message.role == "tool" else "",
            name=message.name if named and message.role == "tool" else "",
        )


def join_parts(parts: Sequence[Any]) -> str:
    """The parts of a message as lines of text; a part that is not text becomes a placeholder with its hash."""
    return "\n".join(_placeholder(part) if (text := part_text(part)) is None else text for part in parts)


def read_parts(fields: Fields, key: str = "content", *, text_type: str = "text") -> tuple[Any, ...]:
    """The parts of a content that is text or a list; a block of ``text_type`` with nothing but text is its text."""
    content = fields.unread.pop(key, None)
    if content is None or isinstance(content, str):
        return () if content is None else (content,)
    if isinstance(content, list):
        return tuple(read_part(part, text_type) for part in content)
    fields.report("wrong-type", key, content, "text or a list of parts")
    return (to_json(content),)


def read_part(part: Any, text_type: str = "text") -> Any:
    """A part with nothing but text as its text, any other part as it is."""
    is_plain = isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == text_type
    return part["text"] if is_plain and isinstance(part["text"], str) else part


def write_parts(parts: Sequence[Any], text_type: str = "text") -> list[Any]:
    """Parts as a list of blocks."""
    return [{"type": text_type, "text": part} if isinstance(part, str) else part for part in parts]


def write_content(parts: Sequence[Any], text_type: str = "text") -> Any:
    """Parts as the text that they are, or as a list of blocks."""
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else write_parts(parts, text_type)


def restore_request(
    body: Mapping[str, Any],
    request: WireRequest,
    restore: Restore,
    read_conversation: Callable[[Fields], Sequence[WireMessage]],
) -> dict[str, Any]:
    """A written request with what rides along, as long as it still reads as the same messages and tools."""

    def is_same(merged: Mapping[str, Any]) -> bool:
        fields = Fields(merged, "", [])
        return (read_conversation(fields), tuple(fields.items("tools"))) == (request.messages, request.tools)

    return restore(body, request.extra, is_same)


def restore_reply(
    body: Mapping[str, Any], reply: WireReply, read_message: Callable[[Fields], WireMessage]
) -> dict[str, Any]:
    """A written reply with what rides along, as long as it still reads as the same message."""

    def is_same(merged: Mapping[str, Any]) -> bool:
        message = read_message(Fields(merged, "", []))
        return (message.parts, message.calls, message.reasoning) == (reply.parts, reply.calls, reply.reasoning)

    return restore_extra(body, reply.extra, is_same)


def part_text(part: Any) -> str | None:
    """The text of a part, or None where it is not text."""
    if isinstance(part, Mapping):
        part = part.get("text")
    return part if isinstance(part, str) else None


def _placeholder(part: Any) -> str:
    kind = part.get("type", "part") if isinstance(part, Mapping) else "part"
    return f"[{kind} {hashlib.sha256(to_json(part, ascii=True).encode()).hexdigest()[:8]}]"
