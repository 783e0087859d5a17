"""Hugging Face's agent traces in the Session Trace Simple Format: a line that heads a session, then its messages.

The Hub shows a data set of such files in its trace viewer, one file a session. Invariant: a file may hold several
sessions, each from its head on; lines of another type are no messages. What FireAct writes keeps its facts in the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fireact.formats.chats import chat_messages, episode_facts, read_facts, tools_of
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory
from fireact.wire.schemas import normalise_schemas

SESSION, MESSAGE = "session", "message"
HARNESS = "fireact"
"""Our name as the program that ran the sessions, and the key of our facts in the head."""
_NAMES = {"reasoningContent": "reasoning_content", "toolCalls": "tool_calls", "toolCallId": "tool_call_id"}


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are lines of sessions, and the first of them heads one."""
    lines = [row for row in rows if isinstance(row, Mapping) and "type" in row]
    return bool(lines) and len(lines) == len(rows) and _is_head(lines[0])


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The sessions of a file, or of the files of a directory."""
    head: Mapping[str, Any] = {}
    start, messages = 0, list[Mapping[str, Any]]()
    for number, row in source.rows():
        if not isinstance(row, Mapping):
            source.report_unreadable(number, f"a line is an object, not {type(row).__name__}")
        elif _is_head(row):
            yield from _read_if_any(source, start, head, messages)
            head, start, messages = row, number, []
        elif row.get("type") == MESSAGE and isinstance(row.get("message"), Mapping):
            messages.append(row["message"])
    yield from _read_if_any(source, start, head, messages)


def _is_head(row: Mapping[str, Any]) -> bool:
    return row.get("type") == SESSION and "harness" in row


def _read_if_any(
    source: SourceFile, number: int, head: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Iterator[Trajectory]:
    if messages:
        trajectory = source.attempt(number, partial(_read_session, source, number, head, messages))
        yield from () if trajectory is None else (trajectory,)


def _read_session(
    source: SourceFile, number: int, head: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Trajectory:
    facts = head.get(HARNESS) or {}
    renamed = [{_NAMES.get(name, name): value for name, value in message.items()} for message in messages]
    question, system, steps = steps_from_messages(
        renamed, tools=facts.get("tools") or (), report=source.reporter(number)
    )
    meta = {"system": system, "tools": normalise_schemas(facts.get("tools"))}
    if facts:
        return read_facts(facts, question, steps, meta)
    times = [message["timestamp"] for message in messages if isinstance(message.get("timestamp"), int | float)]
    return import_trajectory(
        question,
        steps,
        task=source.name,
        id=str(head.get("id") or ""),
        model=next((str(message["model"]) for message in messages if message.get("model")), ""),
        seconds=(max(times) - min(times)) / 1000 if times else 0.0,
        meta={**meta, "harness": head.get("harness"), "name": head.get("name")},
    )


def session_rows(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The lines of a session: its head with the facts of the episode, and its messages."""
    head = {
        "type": SESSION,
        "harness": HARNESS,
        "id": f"{trajectory.key}/{trajectory.model}",
        "name": trajectory.example.question.partition("\n")[0][:120],
        HARNESS: {**episode_facts(trajectory), "tools": tools_of(trajectory)},
    }
    return [head, *({"type": MESSAGE, "message": _session_message(item)} for item in chat_messages(trajectory))]


def _session_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in the names of the format; ``weight`` is ours, where a turn is not learned in full."""
    fields = {
        "role": message["role"],
        "content": str(message.get("content") or ""),
        "reasoningContent": message.get("reasoning_content"),
        "toolCalls": [{"id": call["id"], "function": call["function"]} for call in message.get("tool_calls") or ()],
        "toolCallId": message.get("tool_call_id"),
    }
    required = ("role", "content")
    weight = {"weight": message["weight"]} if "weight" in message else {}
    return {name: value for name, value in fields.items() if value or name in required} | weight
