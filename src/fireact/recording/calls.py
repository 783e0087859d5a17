"""One call as the log holds it, and how it is read: by the dialect that it was made in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import WireReply
from fireact.wire.dialects import DIALECTS
from fireact.wire.fields import parse_json
from fireact.wire.sse import read_stream

CLIENT_LEFT = 499
"""The status of a call whose client went away before the reply."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One line of the log: a request and its reply.

    ``named`` is true when the URL held the episode's id. ``at`` is Unix time in seconds. ``reply`` is the body: JSON,
    or the text of a stream. ``cut`` is "client" or "upstream" when that side closed the connection before the end,
    and "bound" when the reply is longer than what is kept of one.
    Logs of earlier versions name no ``dialect``: they hold chat completions.
    """

    episode: str
    named: bool
    at: float
    seconds: float
    status: int
    request: Mapping[str, Any]
    reply: Any
    cut: str = ""
    dialect: str = CHAT_COMPLETIONS.name

    def parse_reply(self) -> tuple[WireReply | None, str]:
        """The reply and an empty text, or None and an error message."""
        if self.status == CLIENT_LEFT:
            return None, "the client went away before the reply"
        if self.status != 200:
            return None, f"the endpoint answered {self.status}: {_error_detail(self.reply)}"
        if self.cut == "bound":
            return None, "the reply is longer than what is kept of one (--max-body)"
        dialect = DIALECTS[self.dialect]
        if not isinstance(self.reply, str):
            reply = dialect.read_reply(self.reply)
            if reply.answered:
                return reply, ""
            return None, f"the endpoint sent no reply: {_error_detail(self.reply)}"
        reply = read_stream(dialect, self.reply)
        if reply.error or self.cut == "upstream" or not (reply.complete or self.cut):
            return None, f"the endpoint broke off its stream{': ' + reply.error if reply.error else ''}"
        if not reply.answered or not (reply.complete or reply.text or reply.calls):
            return None, "the client went away before the reply"
        # A client that closes the stream early may already have read enough to act on, so the reply counts.
        return (reply if reply.complete else replace(reply, finish="length")), ""

    @property
    def is_broken_off(self) -> bool:
        """Whether the reply is a stream that the endpoint ended in its middle without an error."""
        if self.status != 200 or self.cut in ("client", "bound") or not isinstance(self.reply, str):
            return False
        reply = read_stream(DIALECTS[self.dialect], self.reply)
        return not reply.complete and not reply.error


def _error_detail(body: Any) -> str:
    detail = (body.get("error") or body) if isinstance(body, dict) else body
    detail = detail.get("message", detail) if isinstance(detail, dict) else detail
    return str(detail)[:300]


def decode_body(raw: bytes) -> Any:
    """A body as the log stores it: the JSON value where it is JSON, else its text."""
    value = parse_json(raw)
    return raw.decode("utf-8", "replace") if value is None else value
