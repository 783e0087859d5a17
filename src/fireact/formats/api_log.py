"""Requests to a model's API with their replies: OpenAI's stored completions and responses, Anthropic's messages.

A row holds ``request`` and ``response`` (or ``body``, ``reply``, ...), or one object has the fields of both. Each is
read by its dialect (``wire.dialects``), streams too; ``calls.jsonl`` of ``fireact record`` is such a log. Invariant: a
call that repeats an earlier conversation goes on with it, so a file gives whole episodes and none twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import find_id
from fireact.formats.model_calls import ModelCall, as_messages, parse_if_json, parse_time, read_conversations
from fireact.formats.source import SourceFile, require_field
from fireact.types import Trajectory, Usage
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect, WireMessage, WireReply
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES
from fireact.wire.sse import read_stream

_REQUESTS = ("request", "request_body", "req", "body", "input_body")
_REPLIES = ("response", "response_body", "reply", "resp", "completion_response", "output_body")
_TRACES = ("episode", "trace_id", "traceId", "session_id", "sessionId", "conversation_id", "thread_id")
_TIMES = ("at", "start_time", "startTime", "created_at", "timestamp", "created")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether each of the first rows holds a request and its reply."""
    return bool(rows) and all(isinstance(row, Mapping) and _find_pair(row) is not None for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The episodes of a log, one for each conversation; calls that failed are reported, and lead to none."""
    return read_conversations(source, source.build_each(lambda number, row: [_read_call(number, row)]))


def _read_call(number: int, row: Mapping[str, Any]) -> ModelCall:
    request, body = require_field(_find_pair(row), "request with messages or input, and a reply")
    dialect = _find_dialect(request, body)
    asked, reply = dialect.read_request(request), _read_reply(dialect, body)
    if not reply.answered or reply.error:
        raise ValueError(f"the reply holds no message: {reply.error or 'no choice or output'}")
    facts = {**_inner(row, "metadata"), **row}
    return ModelCall(
        prompt=asked.messages or as_messages(request.get("input"), "user"),
        reply=[WireMessage("assistant", reply.parts, reply.calls, reasoning=reply.reasoning)],
        row=number,
        trace=find_id(facts, *_TRACES),
        tools=list(asked.tools),
        model=asked.model or str(_inner(body).get("model") or ""),
        start=parse_time(next((facts[key] for key in _TIMES if facts.get(key)), _inner(body).get("created"))),
        usage=reply.usage or Usage(1, cost=None),
        scores=read_scores(row),
    )


def read_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a row: ``scores`` by name, and the numbers ``score`` and ``reward``, also below ``metadata``."""
    facts = {**_inner(row, "metadata"), **row}
    scores = {**_inner(facts, "scores"), **{name: facts.get(name) for name in ("score", "reward")}}
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}


def _find_pair(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any] | None:
    """The bodies of a request and of its reply."""
    request = next((parse_if_json(row[key]) for key in _REQUESTS if key in row), row)
    request = request.get("body", request) if isinstance(request, Mapping) else request
    reply = next((parse_if_json(row[key]) for key in _REPLIES if key in row), row)
    reply = parse_if_json(reply.get("body", reply)) if isinstance(reply, Mapping) else reply
    if not isinstance(request, Mapping) or not isinstance(request.get("messages", request.get("input")), list | str):
        return None
    is_reply = isinstance(reply, str) and reply.lstrip().startswith(("data:", "event:"))
    is_reply |= isinstance(reply, Mapping) and any(isinstance(reply.get(key), list) for key in _REPLY_KEYS)
    is_own = reply is row and isinstance(reply, Mapping) and not {"choices", "output"} & reply.keys()
    return (request, reply) if is_reply and not is_own else None


_REPLY_KEYS = ("choices", "output", "content")


def _find_dialect(request: Mapping[str, Any], reply: Any) -> Dialect:
    """The dialect of a call, by what only one of them has."""
    if "input" in request and "messages" not in request and not _inner(reply).get("choices"):
        return RESPONSES
    if _inner(reply).get("type") == "message" or (isinstance(reply, str) and "message_start" in reply):
        return MESSAGES
    return CHAT_COMPLETIONS


def _read_reply(dialect: Dialect, body: Any) -> WireReply:
    return read_stream(dialect, body) if isinstance(body, str) else dialect.read_reply(body)


def _inner(value: Any, key: str | None = None) -> Mapping[str, Any]:
    inner = value.get(key) if key is not None and isinstance(value, Mapping) else value
    return inner if isinstance(inner, Mapping) else {}
