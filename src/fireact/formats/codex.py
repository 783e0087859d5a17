"""Sessions of Codex: ``rollout-*.jsonl`` below ``~/.codex/sessions``, one file a session.

Items of the Responses API stand in lines of the type ``response_item`` (in old files bare); the other lines say which
model, directory and instructions they belong to. Invariant: items are read by the dialect of Responses. Reasoning that
is encrypted is not in the file; nor are the tools' schemas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.model_calls import parse_time, read_count
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory, Usage
from fireact.wire.responses import RESPONSES

_LINES = ("session_meta", "response_item", "turn_context", "event_msg", "compacted")
_ITEMS = ("message", "reasoning", "function_call", "function_call_output", "local_shell_call")
_CONTEXT = ("<environment_context>", "<user_instructions>", "# AGENTS.md instructions", "<permissions instructions>")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are lines of a session, some of them items of the model."""
    lines = [row for row in rows if isinstance(row, Mapping) and _is_line(row)]
    return len(lines) == len(rows) and any(row.get("type") in (*_LINES, *_ITEMS) for row in lines)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The session of a file as one episode."""
    items: list[Any] = []
    facts: dict[str, Any] = {}
    usage: Mapping[str, Any] = {}
    times: list[float] = []
    for number, row in source.rows():
        payload = row.get("payload", row) if isinstance(row, Mapping) else None
        if not isinstance(payload, Mapping):
            source.report_unreadable(number, "a line is an object with a payload")
            continue
        times += [time for time in [parse_time(row.get("timestamp"))] if time]
        kind = row.get("type")
        if kind in ("session_meta", "turn_context"):
            facts |= payload
        elif kind == "event_msg" and payload.get("type") == "token_count":
            info = payload.get("info")
            usage = (info.get("total_token_usage") if isinstance(info, Mapping) else None) or usage
        elif kind == "compacted" and isinstance(payload.get("replacement_history"), list):
            items = list(payload["replacement_history"])  # the agent went on with a shorter history
        elif kind == "response_item" or ("payload" not in row and "record_type" not in row and "type" in row):
            items.append(payload)
    if not items:
        source.report_unreadable(1, "the session has no item of the model")
        return
    seconds = max(times, default=0.0) - min(times, default=0.0)
    trajectory = source.attempt(1, lambda: _read_session(source, items, facts, usage, seconds))
    if trajectory is not None:
        yield trajectory


def _is_line(row: Mapping[str, Any]) -> bool:
    if "payload" in row:
        return "timestamp" in row and isinstance(row["payload"], Mapping)
    return row.get("type") in _ITEMS or "record_type" in row or {"id", "timestamp", "instructions"} <= row.keys()


def _read_session(
    source: SourceFile, items: Sequence[Any], facts: Mapping[str, Any], usage: Mapping[str, Any], seconds: float
) -> Trajectory:
    request = RESPONSES.read_request({"input": list(items)})
    messages = [message for message in request.messages if not message.text.lstrip().startswith(_CONTEXT)]
    context = [message.text for message in request.messages if message.text.lstrip().startswith(_CONTEXT)]
    instructions = facts.get("base_instructions") or facts.get("instructions")
    instructions = instructions.get("text") if isinstance(instructions, Mapping) else instructions
    question, inner_system, steps = steps_from_messages(messages, report=source.reporter(1))
    return import_trajectory(
        question,
        steps,
        task=source.name,
        model=str(facts.get("model") or ""),
        usage=Usage(
            calls=sum(message.role == "assistant" for message in request.messages),
            prompt_tokens=read_count(usage, "input_tokens"),
            cached_tokens=read_count(usage, "cached_input_tokens"),
            completion_tokens=read_count(usage, "output_tokens"),
            cost=None,
        ),
        seconds=round(seconds, 3),
        meta={
            "system": "\n\n".join(filter(None, (str(instructions or ""), inner_system, *context))),
            "session": str(facts.get("id") or ""),
        },
    )
