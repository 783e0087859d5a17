"""The responses that a server holds, so that clients of the Responses API may name them instead of sending them again.

Invariant: a request that names a response or a conversation which is not held is refused, never answered without it.
Nothing is written to disk: a server that starts anew holds nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from fireact.errors import FormatError
from fireact.wire.dialect import WireReply
from fireact.wire.response_history import ResponseHistory, find_conversation_id
from fireact.wire.responses import RESPONSES, repeat_settings

MAX_RESPONSES = 10_000
"""Responses that are held; then all are forgotten, and clients that name one are refused."""
_REFERENCES = ("previous_response_id", "conversation")


class ResponseStore:
    """Resolves requests by earlier responses, and holds new ones; not safe from several threads."""

    def __init__(self, limit: int = MAX_RESPONSES) -> None:
        self._history, self._count, self._limit = ResponseHistory(), 0, limit

    def resolve(self, body: Any) -> Any:
        """The body with all earlier items in its input. Raises FormatError for a response that is not held."""
        if not isinstance(body, Mapping):
            return body
        resolved, unknown_ids = self._history.resolve(body)
        if unknown_ids:
            noun = "conversation" if unknown_ids[0] == find_conversation_id(body) else "response"
            raise FormatError(
                f"{unknown_ids[0]!r} is no {noun} that this server holds. Send the whole "
                "input, or name a response of this server that was not sent with store false."
            )
        return {name: value for name, value in resolved.items() if name not in _REFERENCES}

    def write_reply(self, body: Mapping[str, Any], reply: WireReply, *, model: str, id: str) -> dict[str, Any]:
        """The body of a reply with its id; it is held with its request, which is as the client sent it."""
        if self._count >= self._limit:
            self._history, self._count = ResponseHistory(), 0
        self._count += 1
        reply_body = {**RESPONSES.write_reply(reply, model=model), "id": id, **repeat_settings(body)}
        resolved, _ = self._history.resolve(body)
        self._history.add(resolved, RESPONSES.read_reply(reply_body))
        return reply_body


def make_response_id() -> str:
    """A new id of a response."""
    return f"resp_{uuid.uuid4().hex}"
