"""What a reply of an endpoint holds besides text and calls: fields that are sent back with its turn, and refusals.

Providers put there what they want back: reasoning (DeepSeek, Kimi), thought signatures (Gemini), ``reasoning_details``
(OpenRouter). Invariant: nothing here knows a provider; notes about a reply, which no request may hold, stay out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fireact.wire.dialect import WireMessage, WireReply

_NOTES = ("role", "refusal", "annotations", "audio", "name", "tool_call_id")
"""Fields of a reply's message that no endpoint wants back."""
_CALL_NOTES = ("index", "type")
_FILTERED = re.compile(r"filter|safety|refus|prohibited|blocklist|recitation|spii|sensitive")
"""Reasons for the end of a reply that are a refusal."""


def read_extra(reply: WireReply) -> dict[str, Any]:
    """What a reply holds besides text and calls: the fields of its message, and of each call under ``tool_calls``.

    Reasoning is among them as ``reasoning_content``. Notes about the reply, which no request may hold, are left out.
    """
    message_fields = _message_fields(reply)
    fields = {name: value for name, value in message_fields.items() if value and name not in _NOTES}
    if reply.reasoning:
        fields["reasoning_content"] = reply.reasoning
    calls = [{name: value for name, value in call.extra.items() if name not in _CALL_NOTES} for call in reply.calls]
    return {**fields, "tool_calls": calls} if any(calls) else fields


def add_extra(message: WireMessage, extra: Mapping[str, Any]) -> WireMessage:
    """A message with what its reply held. A text that is the reasoning itself is not sent twice."""
    fields = {name: value for name, value in extra.items() if name != "tool_calls"}
    call_fields = [*extra.get("tool_calls", ()), *({} for _ in message.calls)]
    calls = tuple(replace(call, extra=more) for call, more in zip(message.calls, call_fields, strict=False))
    is_reasoning = message.text.strip() == str(fields.get("reasoning_content", "")).strip()
    return replace(message, calls=calls, extra=fields, parts=("",) if is_reasoning else message.parts)


def refusal_of_reply(reply: WireReply) -> str:
    """Why the model or its provider refused to answer; empty where it answered."""
    words = _message_fields(reply).get("refusal")
    if isinstance(words, str) and words.strip() and not reply.plain_text.strip() and not reply.calls:
        return words.strip()
    if not _FILTERED.search(reply.finish.lower()):
        return ""
    return f"the reply ended with {reply.finish!r}" + (f": {reply.plain_text}" if reply.plain_text else "")


def _message_fields(reply: WireReply) -> Mapping[str, Any]:
    """The fields of the message that a reply has no field for."""
    choices = reply.extra.get("choices") or [{}]
    message = choices[0].get("message") if isinstance(choices[0], Mapping) else None
    return message if isinstance(message, Mapping) else {}
