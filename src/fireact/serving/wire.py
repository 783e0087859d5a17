"""The requests that the server can answer, in OpenAI's chat completions.

Invariant: a request that cannot be served exactly is refused with the field and the allowed values, never half served.
This module knows nothing of models or of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fireact.errors import FormatError
from fireact.types import Message, Role
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import WireMessage, part_text
from fireact.wire.roles import ROLES


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
    request = CHAT_COMPLETIONS.read_request(data)
    if request.damage:
        raise FormatError(str(request.damage[0]))
    if request.tools:
        raise FormatError("tools: the student writes its actions as text; ask NAME-agent to have its tools run here")
    if request.extra.get("n") not in (None, 1):
        raise FormatError("n must be 1")
    sent = CHAT_COMPLETIONS.write_request(request)
    for name, harmless in _UNSUPPORTED.items():
        if sent.get(name) not in harmless:
            raise FormatError(f"{name} is {sent[name]!r}, which this endpoint cannot do. Leave it out.")
    if not request.messages:
        raise FormatError("messages must be a list with at least one message")
    temperature = request.temperature or 0.0
    _require_range(temperature, "temperature", low=0, high=2)
    _require_range(request.max_tokens, "max_tokens", low=1, high=1_000_000)
    _require_range(request.seed, "seed", low=-(2**63), high=2**63)
    return ChatRequest(
        model=request.model,
        messages=tuple(_build_message(index, message) for index, message in enumerate(request.messages)),
        stop=request.stop,
        max_tokens=request.max_tokens,
        temperature=float(temperature) if temperature >= COLDEST else 0.0,
        seed=request.seed or 0,
        stream=request.stream,
        stream_usage=request.stream_usage,
    )


def _build_message(index: int, message: WireMessage) -> Message:
    if message.calls:
        raise FormatError(f"messages[{index}] has native calls; the student reads and writes its actions as text")
    texts = [part_text(part) for part in message.parts]
    if None in texts:
        raise FormatError(f"messages[{index}].content has parts that are not text")
    if not texts and message.role != "assistant":  # clients send null for a turn of the assistant without text
        raise FormatError(f"messages[{index}].content must be text")
    role: Role = "user" if message.role == "tool" else ROLES[message.role]
    return Message(role, "".join(filter(None, texts)))


def _require_range(value: float | None, name: str, *, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise FormatError(f"{name} is {value!r}; it must be from {low:g} to {high:g}")
