"""Calls of a model as traces log them, one by one, and the episodes that they make up.

An agent sends its whole conversation with each call, so a call continues the one whose messages and reply its own
messages begin with. Invariant: each conversation is read once, from its last call, so no turn comes twice. Of the
conversations of a trace the one with the most calls is the agent's own; the others (a planner's, a title's) are counted
in ``meta["calls_aside"]``. This module knows no format.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import FINISH, Action, Step, Trajectory, Usage
from fireact.wire.dialect import WireMessage
from fireact.wire.file_messages import content_text, read_file_messages
from fireact.wire.responses import RESPONSES
from fireact.wire.schemas import FINISH_NAMES, normalise_schemas
from fireact.wire.text_calls import extract_answer


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call: the prompt and the reply as messages of any dialect, and facts about it.

    ``trace`` names the calls of one run of an agent; empty where the log does not say. ``start`` and ``end`` are in
    seconds.
    """

    prompt: Sequence[Any]
    reply: Sequence[Any]
    row: int
    trace: str = ""
    system: str = ""
    tools: Any = ()
    model: str = ""
    start: float = 0.0
    end: float = 0.0
    usage: Usage = field(default_factory=lambda: Usage(1, cost=None))
    error: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_conversations(
    source: SourceFile, calls: Iterable[ModelCall], *, describe: Callable[[str], Mapping[str, Any]] = lambda trace: {}
) -> Iterator[Trajectory]:
    """The trajectories of calls, one a trace; ``describe`` gives further fields of ``import_trajectory``."""
    by_trace: dict[str, list[list[ModelCall]]] = {}
    for conversation in join_calls(sorted(calls, key=lambda call: call.start)):
        trace = conversation[0].trace or f"row {conversation[0].row}"
        by_trace.setdefault(trace, []).append(conversation)
    for trace, conversations in by_trace.items():
        main = max(conversations, key=len)
        calls_aside = sum(map(len, conversations)) - len(main)
        yield _build_trajectory(source, main, calls_aside, dict(describe(trace)))


def join_calls(calls: Sequence[ModelCall]) -> list[list[ModelCall]]:
    """The calls by conversation, each in order: a call continues the one that its prompt repeats with its reply.

    One of its own trace comes first, since episodes with the same question may begin alike.
    """
    conversations: list[list[ModelCall]] = []
    by_messages: dict[tuple[str, tuple[str, ...]], int] = {}
    for call in calls:
        prompt, reply = _message_keys(call.prompt), _message_keys(call.reply)
        prefixes = (
            (trace, tuple(prompt[:length])) for trace in (call.trace, "") for length in range(len(prompt), 0, -1)
        )
        index = next((by_messages[prefix] for prefix in prefixes if prefix in by_messages), len(conversations))
        if index == len(conversations):
            conversations.append([])
        conversations[index].append(call)
        by_messages |= {(trace, (*prompt, *reply)): index for trace in (call.trace, "")}
    return conversations


def _message_keys(messages: Sequence[Any]) -> list[str]:
    """What identifies each message in later prompts, without what clients change: ids, system prompts, reasoning."""
    read, _ = read_file_messages(messages)
    return [
        json.dumps([message.role, message.text.strip(), [[call.name, call.action.arguments] for call in message.calls]])
        for message in read
        if message.role != "system"
    ]


def _build_trajectory(
    source: SourceFile, calls: Sequence[ModelCall], calls_aside: int, facts: dict[str, Any]
) -> Trajectory:
    last = calls[-1]
    tools = next((call.tools for call in reversed(calls) if call.tools), ())
    system = next((call.system for call in reversed(calls) if call.system), "")
    messages = [*last.prompt, *last.reply]
    question, inner_system, steps = steps_from_messages(
        messages, tools=tools, system=system, report=source.reporter(last.row)
    )
    steps, ending = read_ending(steps)
    source.report_bad_schemas(last.row, tools)
    scores = {name: value for call in calls for name, value in call.scores.items()}
    error = last.error or str(facts.pop("error", "") or "")
    meta = {
        "system": system or inner_system,
        "tools": normalise_schemas(tools),
        "trace": last.trace,
        "calls_aside": calls_aside,
        "ending": ending,
        **{name: value for call in calls for name, value in call.facts.items()},
        **facts.pop("meta", {}),
    }
    values: dict[str, Any] = {
        "task": source.name,
        "model": last.model,
        "usage": sum((call.usage for call in calls), Usage(cost=calls[0].usage.cost and 0.0)),
        "seconds": round(max(0.0, last.end - calls[0].start), 3),
        "stop": "error" if error else None,
        "error": error or None,
    } | facts
    return import_trajectory(question, steps, scores={**scores, **values.pop("scores", {})}, meta=meta, **values)


def read_ending(steps: Sequence[Step]) -> tuple[tuple[Step, ...], str]:
    """The steps with a last call that gives the answer as the finish action, and the name of its tool."""
    action = steps[-1].action if steps else None
    if action is None or action.name == FINISH or action.name not in FINISH_NAMES:
        return tuple(steps), ""
    finish = replace(steps[-1], action=Action(FINISH, {"answer": extract_answer(action.arguments)}), observation=None)
    return (*steps[:-1], finish), action.name


def parse_time(value: Any) -> float:
    """Seconds since 1970 of a time: a number of seconds or nanoseconds, or ISO 8601 text; 0 for any other value."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e20:
        return value / 1e9 if value > 1e15 else value / 1e3 if value > 1e11 else float(value)
    text = str(value or "").strip()
    if text.isdigit() and len(text) <= 19:
        return parse_time(int(text))
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def read_count(counts: Any, *names: str) -> int:
    """The first whole number of at least 0 under these names; 0 where there is none."""
    values = [counts.get(name) for name in names] if isinstance(counts, Mapping) else []
    return next((int(value) for value in values if isinstance(value, int | float) and value >= 0), 0)


def parse_if_json(value: Any) -> Any:
    """The value of a text that is a JSON object or list; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def as_messages(value: Any, role: str) -> list[Any]:
    """The messages in a value: a list of such, an object that holds them, one message, or a text of this role."""
    value = parse_if_json(value)
    if isinstance(value, Mapping):
        for key in () if _is_item(value) else _MESSAGE_KEYS:
            if isinstance(value.get(key), list | Mapping):
                return as_messages(value[key], role)
        if any(key in value for key in ("role", "type", "lc", "from")):
            return [value]
        text = next((value[key] for key in ("content", "text", "output", "input", "answer") if key in value), None)
        return (
            [] if text is None else [{"role": role, "content": text if isinstance(text, list) else content_text(text)}]
        )
    if isinstance(value, list):
        if any(isinstance(item, Mapping) and _is_response_item(item) for item in value):
            return list(RESPONSES.read_request({"model": "", "input": value}).messages)
        if value and all(isinstance(item, Mapping) and _is_block(item) for item in value):
            return [{"role": role, "content": value}]
        return [message for item in value for message in as_messages(item, role)]
    return [] if value is None else [{"role": role, "content": str(value)}]


def as_reply(value: Any) -> list[Any]:
    """The one message of a reply: the first of several choices, or all items of a reply of the Responses API."""
    value = parse_if_json(value)
    items = value.get("output") if isinstance(value, Mapping) else value
    if isinstance(items, list) and any(isinstance(item, Mapping) and _is_response_item(item) for item in items):
        reply = RESPONSES.read_reply({"output": items})
        return [WireMessage("assistant", reply.parts, reply.calls, reasoning=reply.reasoning)]
    return as_messages(value, "assistant")[:1]


_MESSAGE_KEYS = ("messages", "input", "prompt", "choices", "output", "generations", "message")
"""Keys under which an object holds messages."""
_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "mcp_tool_use", "tool_result")


def _is_item(value: Mapping[str, Any]) -> bool:
    """Whether an object is a call or a result, whose input and output are no messages."""
    return "type" in value and any(key in value for key in ("id", "call_id", "tool_use_id", "name"))


def _is_response_item(value: Mapping[str, Any]) -> bool:
    kind = str(value.get("type"))
    if kind == "message" and isinstance(value.get("content"), list):
        return any(isinstance(block, Mapping) and block.get("type") == "output_text" for block in value["content"])
    is_call = kind.endswith(("_call", "_call_output")) and "role" not in value
    return is_call or (kind == "reasoning" and "summary" in value)


def _is_block(value: Mapping[str, Any]) -> bool:
    kind = str(value.get("type"))
    return "role" not in value and (kind in _BLOCKS or kind.endswith("_tool_result"))
