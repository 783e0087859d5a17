"""Reads the requests and replies of chat completions; whatever a client or a server sends, nothing here raises.

Requests become tuples of ``ChatMessage``; replies, whole or streamed, become a ``RecordedReply``. This module knows no
episodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fireact.types import Action, Usage

_ROLES = {"developer": "system", "function": "tool"}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call; ``arguments`` is the text that the model wrote."""

    id: str
    name: str
    arguments: str

    @property
    def action(self) -> Action:
        """The call as an action; arguments that are not a JSON object become the argument ``input``."""
        values = parse_json(self.arguments or "{}")
        return Action(self.name, values if isinstance(values, dict) else {"input": self.arguments})


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a request; ``call_id`` is the id of the call that a tool's message answers."""

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class RecordedReply:
    """The model's reply. ``usage`` has no cost, and is None where the server sent no counts."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    finish: str = ""
    usage: Usage | None = None


def parse_json(text: str | bytes) -> Any:
    """The JSON value of a text, or None where the text is not JSON."""
    try:
        value = json.loads(text)
        has_escapes = (b"\\u" if isinstance(text, bytes) else "\\u") in text  # type: ignore[operator]
        return replace_surrogates(value) if has_escapes else value
    except (ValueError, RecursionError):
        return None


def replace_surrogates(value: Any) -> Any:
    """A JSON value without lone surrogates, which cannot be written as UTF-8."""
    json_text = json.dumps(value, ensure_ascii=False)
    try:
        json_text.encode()
    except UnicodeEncodeError:
        return json.loads(json_text.encode("utf-8", "replace"))
    return value


def read_messages(request: Mapping[str, Any]) -> tuple[ChatMessage, ...]:
    """The messages of a request; a content part that is not text becomes a placeholder with its hash."""
    messages = request.get("messages")
    return (
        tuple(_read_message(message) for message in messages if isinstance(message, dict))
        if isinstance(messages, list)
        else ()
    )


def _read_message(message: Mapping[str, Any]) -> ChatMessage:
    role = str(message.get("role"))
    return ChatMessage(
        role=_ROLES.get(role, role),
        text=_content_text(message.get("content")),
        calls=_read_calls(message),
        call_id=str(message.get("tool_call_id") or ""),
    )


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part_text(content_part) for content_part in content)
    return "" if content is None else json.dumps(content)


def _part_text(content_part: Any) -> str:
    if isinstance(content_part, dict) and isinstance(content_part.get("text"), str):
        return str(content_part["text"])
    if isinstance(content_part, str):
        return content_part
    kind = content_part.get("type", "part") if isinstance(content_part, dict) else "part"
    return f"[{kind} {hashlib.sha256(json.dumps(content_part).encode()).hexdigest()[:8]}]"


def _read_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    tool_calls = message.get("tool_calls")
    calls = [call for call in tool_calls if isinstance(call, dict)] if isinstance(tool_calls, list) else []
    if isinstance(message.get("function_call"), dict):  # the form before tool_calls
        calls.append({"function": message["function_call"]})
    return tuple(_read_call(call) for call in calls)


def _read_call(call: Mapping[str, Any]) -> ToolCall:
    definitions = (call.get("function"), call.get("custom"))
    function = next((definition for definition in definitions if isinstance(definition, dict)), {})
    arguments = function.get("arguments", function.get("input"))
    argument_text = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
    return ToolCall(str(call.get("id") or ""), str(function.get("name") or ""), argument_text)


def read_completion(body: Any) -> RecordedReply | None:
    """The first choice of a reply that was not streamed, or None where the body holds no choice."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        return None
    return RecordedReply(
        text=_content_text(message.get("content")),
        calls=_read_calls(message),
        reasoning=_reasoning_text(message),
        finish=str(choice.get("finish_reason") or ""),
        usage=_read_usage(body.get("usage")),
    )


def _reasoning_text(message: Mapping[str, Any]) -> str:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return reasoning if isinstance(reasoning, str) else ""


def _read_usage(counts: Any) -> Usage | None:
    if not isinstance(counts, dict):
        return None
    details = counts.get("prompt_tokens_details")
    cached = _read_count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(1, _read_count(counts.get("prompt_tokens")), cached, _read_count(counts.get("completion_tokens")))


def _read_count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


@dataclass(slots=True)
class _StreamState:
    """The reply so far, as the events of a stream have built it."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[Any, dict[str, Any]] = field(default_factory=dict)
    finish: str = ""
    usage: Any = None
    started: bool = False
    error: str | None = None


def read_stream(text: str) -> tuple[RecordedReply | None, bool, str | None]:
    """The reply that a stream's events add up to, whether the stream is complete, and the error that it sent."""
    state, ended = _StreamState(), False
    for data in split_events(text):
        if data.strip() == "[DONE]":
            ended = True
        elif isinstance(chunk := parse_json(data), dict):
            _add_chunk(state, chunk)
    if not state.started:
        return None, ended, state.error
    calls = tuple(_read_call({"id": call["id"], "function": call}) for call in state.calls.values())
    reply = RecordedReply("".join(state.text), calls, "".join(state.reasoning), state.finish, _read_usage(state.usage))
    return reply, ended or bool(state.finish), state.error


def split_events(text: str) -> Iterator[str]:
    """The data of each server-sent event in a text."""
    data: list[str] = []
    for line in [*text.replace("\r\n", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def _add_chunk(state: _StreamState, chunk: Mapping[str, Any]) -> None:
    if chunk.get("error"):
        state.error = json.dumps(chunk["error"], ensure_ascii=False)
    if isinstance(chunk.get("usage"), dict):
        state.usage = chunk["usage"]
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            continue
        state.started = True
        state.finish = str(choice.get("finish_reason") or state.finish)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            _add_delta(state, delta)


def _add_delta(state: _StreamState, delta: Mapping[str, Any]) -> None:
    state.text.append(_content_text(delta.get("content")))
    state.reasoning.append(_reasoning_text(delta))
    tool_calls = delta.get("tool_calls")
    call_deltas = (
        [call_delta for call_delta in tool_calls if isinstance(call_delta, dict)]
        if isinstance(tool_calls, list)
        else []
    )
    if isinstance(delta.get("function_call"), dict):
        call_deltas.append({"index": 0, "function": delta["function_call"]})
    for call_delta in call_deltas:
        delta_call = _read_call(call_delta)
        call_so_far = state.calls.setdefault(_call_key(state, call_delta), {"id": "", "name": "", "arguments": ""})
        call_so_far["id"] = delta_call.id or call_so_far["id"]
        call_so_far["name"] = (
            call_so_far["name"] if call_so_far["name"] == delta_call.name else call_so_far["name"] + delta_call.name
        )
        call_so_far["arguments"] += delta_call.arguments


def _call_key(state: _StreamState, call_delta: Mapping[str, Any]) -> str:
    """The call that a delta belongs to: by its index, else by its id, else the latest one."""
    if type(call_delta.get("index")) is int:
        return str(call_delta["index"])
    return str(call_delta.get("id") or next(reversed(state.calls), "0"))


def hash_prefixes(messages: Sequence[ChatMessage]) -> list[str]:
    """A hash for each prefix of a conversation; item k covers the first k messages, and item 0 covers none."""
    state = hashlib.blake2b(digest_size=16)
    hashes = [state.hexdigest()]
    for message in messages:
        calls = [[call.id, call.name, call.arguments] for call in message.calls]
        line = [message.role, message.text.strip(), message.call_id, calls]
        state.update(json.dumps(line).encode() + b"\n")
        hashes.append(state.hexdigest())
    return hashes
