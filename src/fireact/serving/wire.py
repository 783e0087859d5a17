"""OpenAI's chat completions format: parses requests and writes replies.

Invariant: a request that cannot be served exactly is refused with the field and the allowed values, never half served.
This module knows nothing of models or of HTTP.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fireact.errors import FormatError
from fireact.types import Completion, Message, Usage

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "user"}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The request of a client."""

    model: str
    messages: tuple[Message, ...]
    stop: tuple[str, ...]
    max_tokens: int | None
    temperature: float
    seed: int
    stream: bool
    stream_usage: bool


COLDEST = 1e-3
"""Below this temperature sampling gives the most likely token anyway, and its arithmetic overflows."""
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "functions": (None, []), "function_call": (None, "none"), "tool_choice": (None, "none", "auto"),
    "logprobs": (None, False), "top_logprobs": (None, 0), "top_p": (None, 1, 1.0),
    "presence_penalty": (None, 0, 0.0), "frequency_penalty": (None, 0, 0.0),
    "top_k": (None, 0, -1), "min_p": (None, 0, 0.0), "repetition_penalty": (None, 1, 1.0),
    "logit_bias": (None, {}), "response_format": (None, {"type": "text"}), "audio": (None,),
    "modalities": (None, ["text"]),
}  # fmt: skip
"""Unsupported fields that would change the answer, with the values that have no effect."""


def read_request(body: bytes) -> ChatRequest:
    """Parse the body of a request. Raises FormatError naming the field that is wrong."""
    try:
        data = json.loads(body)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError("the body holds half a surrogate pair, which is no Unicode") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise FormatError("the body must be a JSON object")
    if data.get("tools"):
        raise FormatError("tools: the student writes its actions as text; ask NAME-agent to have its tools run here")
    if data.get("n") not in (None, 1):
        raise FormatError("n must be 1")
    for name, harmless in _UNSUPPORTED.items():
        if data.get(name) not in harmless:
            raise FormatError(f"{name} is {data[name]!r}, which this endpoint cannot do. Leave it out.")
    streaming = data.get("stream_options") or {}
    if not isinstance(streaming, dict):
        raise FormatError("stream_options must be an object")
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FormatError("messages must be a list with at least one message")
    stop = data.get("stop") or []
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else (None,)
    if not all(isinstance(stop_string, str) and stop_string for stop_string in stops):
        raise FormatError("stop must be a string or a list of strings")
    limit = data.get("max_tokens") if data.get("max_completion_tokens") is None else data["max_completion_tokens"]
    temperature = _require_number(
        0 if data.get("temperature") is None else data["temperature"], "temperature", low=0, high=2
    )
    return ChatRequest(
        model=str(data.get("model", "")),
        messages=tuple(_parse_message(index, data_message) for index, data_message in enumerate(messages)),
        stop=stops,
        max_tokens=None if limit is None else _require_integer(limit, "max_tokens", low=1, high=1_000_000),
        temperature=temperature if temperature >= COLDEST else 0.0,
        seed=0 if data.get("seed") is None else _require_integer(data["seed"], "seed", low=-(2**63), high=2**63),
        stream=_require_flag(data, "stream"),
        stream_usage=_require_flag(streaming, "include_usage"),
    )


def _parse_message(index: int, data: Any) -> Message:
    role = data.get("role") if isinstance(data, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise FormatError(f"messages[{index}].role is {role!r}; it must be one of {', '.join(ROLES)}")
    if data.get("tool_calls") or data.get("function_call"):
        raise FormatError(f"messages[{index}] has native calls; the student reads and writes its actions as text")
    content = data.get("content")
    if content is None and role == "assistant":  # clients send None for a turn without text
        content = ""
    if isinstance(content, list):  # parts; only text can be read
        if not all(
            isinstance(content_part, dict) and isinstance(content_part.get("text"), str) for content_part in content
        ):
            raise FormatError(f"messages[{index}].content has parts that are not text")
        content = "".join(content_part["text"] for content_part in content)
    if not isinstance(content, str):
        raise FormatError(f"messages[{index}].content must be text")
    return Message(ROLES[role], content)  # type: ignore[arg-type]  # the table's values are roles


def _require_number(value: Any, name: str, *, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FormatError(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}")
    return float(value)


def _require_integer(value: Any, name: str, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def _require_flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise FormatError(f"{name} is {value!r}; it must be true or false")
    return bool(value)


class ChatReply:
    """The reply to one request: one body, or the events of a stream."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def body(self, completion: Completion, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The body of a reply that is not streamed; ``extra`` goes into its message."""
        message = {"role": "assistant", "content": completion.text, **(extra or {})}
        choice = {"index": 0, "message": message, "finish_reason": completion.finish, "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage_body(completion.usage)}

    def chunk(self, delta: Mapping[str, Any], *, finish: str | None = None) -> bytes:
        """One event of a stream."""
        choices = [{"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": None}]
        return server_sent_event({**self._head, "object": "chat.completion.chunk", "choices": choices})

    def stream_end(self, used: Usage | None) -> bytes:
        """The end of a stream: the usage where the client asked for it, and the end mark."""
        counted = {**self._head, "object": "chat.completion.chunk", "choices": []}
        return (
            server_sent_event({**counted, "usage": usage_body(used)}) if used is not None else b""
        ) + b"data: [DONE]\n\n"


def usage_body(used: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def error_body(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def server_sent_event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
