"""What chat completions say on the wire, read totally: whatever a client or a server sends, nothing here raises.

Requests become tuples of ``Said``, replies (whole or streamed) become a ``Reply``. This module knows no episodes.
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
    """A native call; ``arguments`` is the text that the model wrote."""

    id: str
    name: str
    arguments: str

    @property
    def action(self) -> Action:
        """The call as an action; arguments that are no JSON object become the input."""
        values = parsed(self.arguments or "{}")
        return Action(self.name, values if isinstance(values, dict) else {"input": self.arguments})


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a request; ``call_id`` names the call that a tool's message answers."""

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote. ``usage`` has no cost; None where the server did not count."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    finish: str = ""
    usage: Usage | None = None


def parsed(text: str | bytes) -> Any:
    """The JSON value of a text, or None where it is none."""
    try:
        value = json.loads(text)
        return sound(value) if (b"\\u" if isinstance(text, bytes) else "\\u") in text else value  # type: ignore[operator]
    except (ValueError, RecursionError):
        return None


def sound(value: Any) -> Any:
    """A JSON value without halves of surrogate pairs, which no file could hold."""
    written = json.dumps(value, ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError:
        return json.loads(written.encode("utf-8", "replace"))
    return value


def messages_of(request: Mapping[str, Any]) -> tuple[Said, ...]:
    """The messages of a request; parts that are no text stand as a mark with their hash."""
    found = request.get("messages")
    return tuple(_said(one) for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def _said(message: Mapping[str, Any]) -> Said:
    role = str(message.get("role"))
    return Said(
        role=_ROLES.get(role, role),
        text=_text(message.get("content")),
        calls=_calls(message),
        call_id=str(message.get("tool_call_id") or ""),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part) for part in content)
    return "" if content is None else json.dumps(content)


def _part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(part, str):
        return part
    kind = part.get("type", "part") if isinstance(part, dict) else "part"
    return f"[{kind} {hashlib.sha256(json.dumps(part).encode()).hexdigest()[:8]}]"


def _calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    found = message.get("tool_calls")
    calls = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    if isinstance(message.get("function_call"), dict):  # the form before tool_calls
        calls.append({"function": message["function_call"]})
    return tuple(_call(one) for one in calls)


def _call(call: Mapping[str, Any]) -> ToolCall:
    kinds = (call.get("function"), call.get("custom"))
    function = next((one for one in kinds if isinstance(one, dict)), {})
    arguments = function.get("arguments", function.get("input"))
    written = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
    return ToolCall(str(call.get("id") or ""), str(function.get("name") or ""), written)


def reply_of(body: Any) -> Reply | None:
    """The first choice of a reply that came whole, or None where it holds none."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        return None
    return Reply(
        text=_text(message.get("content")),
        calls=_calls(message),
        reasoning=_reasoning(message),
        finish=str(choice.get("finish_reason") or ""),
        usage=_usage(body.get("usage")),
    )


def _reasoning(message: Mapping[str, Any]) -> str:
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _usage(counted: Any) -> Usage | None:
    if not isinstance(counted, dict):
        return None
    details = counted.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(1, _count(counted.get("prompt_tokens")), cached, _count(counted.get("completion_tokens")))


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


@dataclass(slots=True)
class _Pieces:
    """What the events of a stream have said so far."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[Any, dict[str, Any]] = field(default_factory=dict)
    finish: str = ""
    usage: Any = None
    begun: bool = False
    failed: str | None = None


def streamed(text: str) -> tuple[Reply | None, bool, str | None]:
    """The reply that a stream's events make up, whether it came to its end, and the error that it brought."""
    pieces, ended = _Pieces(), False
    for data in events(text):
        if data.strip() == "[DONE]":
            ended = True
        elif isinstance(chunk := parsed(data), dict):
            _take(pieces, chunk)
    if not pieces.begun:
        return None, ended, pieces.failed
    calls = tuple(_call({"id": one["id"], "function": one}) for one in pieces.calls.values())
    reply = Reply("".join(pieces.text), calls, "".join(pieces.reasoning), pieces.finish, _usage(pieces.usage))
    return reply, ended or bool(pieces.finish), pieces.failed


def events(text: str) -> Iterator[str]:
    """The data of the server-sent events in a text."""
    data: list[str] = []
    for line in [*text.replace("\r\n", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def _take(pieces: _Pieces, chunk: Mapping[str, Any]) -> None:
    if chunk.get("error"):
        pieces.failed = json.dumps(chunk["error"], ensure_ascii=False)
    if isinstance(chunk.get("usage"), dict):
        pieces.usage = chunk["usage"]
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            continue
        pieces.begun = True
        pieces.finish = str(choice.get("finish_reason") or pieces.finish)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            _take_delta(pieces, delta)


def _take_delta(pieces: _Pieces, delta: Mapping[str, Any]) -> None:
    pieces.text.append(_text(delta.get("content")))
    pieces.reasoning.append(_reasoning(delta))
    found = delta.get("tool_calls")
    parts = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    if isinstance(delta.get("function_call"), dict):
        parts.append({"index": 0, "function": delta["function_call"]})
    for part in parts:
        piece = _call(part)
        own = pieces.calls.setdefault(_place(pieces, part), {"id": "", "name": "", "arguments": ""})
        own["id"] = piece.id or own["id"]
        own["name"] = own["name"] if own["name"] == piece.name else own["name"] + piece.name
        own["arguments"] += piece.arguments


def _place(pieces: _Pieces, part: Mapping[str, Any]) -> str:
    """Which call a piece belongs to: by its index, else by its id, else the one before."""
    if type(part.get("index")) is int:
        return str(part["index"])
    return str(part.get("id") or next(reversed(pieces.calls), "0"))


def prefixes(messages: Sequence[Said]) -> list[str]:
    """A hash for each prefix of a conversation: the k-th is that of its first k messages, the first that of none."""
    state = hashlib.blake2b(digest_size=16)
    found = [state.hexdigest()]
    for message in messages:
        calls = [[call.id, call.name, call.arguments] for call in message.calls]
        line = [message.role, message.text.strip(), message.call_id, calls]
        state.update(json.dumps(line).encode() + b"\n")
        found.append(state.hexdigest())
    return found
