"""Sessions of OpenHands: the events of a run (V0), and those of its software development kit (V1).

A session is a JSON array of events, one event a line, or a row with ``history`` (of an evaluation's ``output.jsonl``).
Invariant: an action of the agent is the call that its model made, with the words beside it; an observation is the
result of the action that caused it. Events that no model saw (states, costs, recalls of nothing) are no message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import find_id
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory, Usage
from fireact.wire.file_messages import content_text
from fireact.wire.schemas import normalise_schemas

_SILENT = ("agent_state_changed", "change_agent_state", "null", "recall", "condensation", "system", "loop_recovery")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are events, or hold them in ``history``."""
    events = _events_of(rows)
    return bool(events) and all(isinstance(event, Mapping) and _is_event(event) for event in events)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The sessions of a file."""
    events: list[Mapping[str, Any]] = []
    yield from source.build_each(lambda number, row: _read_row(source, number, row, events))
    trajectory = source.attempt(1, lambda: _read_session(source, 1, events, {})) if events else None
    if trajectory is not None:
        yield trajectory


def _read_row(
    source: SourceFile, number: int, row: Mapping[str, Any], events: list[Mapping[str, Any]]
) -> list[Trajectory]:
    """The session of a row that holds a history; an event is added to ``events``."""
    if isinstance(row.get("history"), list):
        return [_read_session(source, number, row["history"], row)]
    if not _is_event(row):
        raise ValueError("it is no event of a session")
    events.append(row)
    return []


def _events_of(rows: Sequence[Any]) -> list[Any]:
    histories = [row["history"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("history"), list)]
    if histories:
        return [event for history in histories for event in history] if len(histories) == len(rows) else []
    return list(rows)


def _is_event(event: Mapping[str, Any]) -> bool:
    is_first_kind = "source" in event and ("action" in event or "observation" in event)
    return is_first_kind or (str(event.get("kind", "")).endswith("Event") and "id" in event)


def _read_session(
    source: SourceFile, number: int, events: Sequence[Mapping[str, Any]], row: Mapping[str, Any]
) -> Trajectory:
    messages: list[dict[str, Any]] = []
    tools: Any = ()
    for event in events:
        is_second_kind = "kind" in event
        messages += _read_second_kind(event, messages) if is_second_kind else _read_first_kind(event, messages)
        tools = event.get("tools") or _first_arguments(event).get("tools") or tools
    question, system, steps = steps_from_messages(messages, tools=tools, report=source.reporter(number))
    result = row.get("test_result") or row.get("report") or {}
    resolved = result.get("resolved", row.get("resolved")) if isinstance(result, Mapping) else row.get("resolved")
    metrics = row.get("metrics") if isinstance(row.get("metrics"), Mapping) else {}
    assert isinstance(metrics, Mapping)
    cost = metrics.get("accumulated_cost")
    return import_trajectory(
        question,
        steps,
        task=source.name,
        id=find_id(row, "instance_id", "id"),
        scores={"resolved": float(resolved)} if isinstance(resolved, bool | int | float) else {},
        usage=Usage(
            calls=sum(message["role"] == "assistant" for message in messages),
            cost=float(cost) if isinstance(cost, int | float) else None,
        ),
        error=str(row["error"]) if row.get("error") else None,
        stop="error" if row.get("error") else None,
        meta={"system": system, "tools": normalise_schemas(tools)},
    )


def _first_arguments(event: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = event.get("args")
    return arguments if isinstance(arguments, Mapping) else {}


def _read_first_kind(event: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of an event of the runtime; calls of one reply go into one message."""
    kind = str(event.get("action", event.get("observation")))
    arguments, call_facts = _first_arguments(event), event.get("tool_call_metadata") or {}
    if kind == "system" and arguments.get("content"):
        return [{"role": "system", "content": arguments["content"]}]
    if "observation" in event:
        if not call_facts and kind in _SILENT:
            return []
        role = "tool" if call_facts or (messages and messages[-1].get("tool_calls")) else "user"
        return [{"role": role, "content": event.get("content"), "tool_call_id": call_facts.get("tool_call_id")}]
    if event.get("source") != "agent":
        return [{"role": "user", "content": arguments.get("content")}] if kind == "message" else []
    if kind == "message":
        return [{"role": "assistant", "content": arguments.get("content")}]
    if call_facts:
        return _read_native_call(call_facts, messages)
    if kind in _SILENT:
        return []
    thought = arguments.get("thought") or ""
    values = {name: value for name, value in arguments.items() if name not in _BOOKKEEPING and value is not None}
    if kind == "finish":
        answer = arguments.get("final_thought") or (arguments.get("outputs") or {}).get("content") or ""
        values = {"answer": content_text(answer)}
    return [{"role": "assistant", "content": thought, "tool_calls": [{"name": kind, "arguments": values}]}]


_BOOKKEEPING = ("thought", "blocking", "confirmation_state", "hidden", "is_input", "security_risk", "is_static", "cwd")


def _read_native_call(facts: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reply whose call an action carries out, unless it has been read with an earlier action of the reply."""
    response = facts.get("model_response") or {}
    choice: Any = next(iter(response.get("choices") or []), {})
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        call: dict[str, Any] = {"id": facts.get("tool_call_id"), "name": facts.get("function_name"), "arguments": {}}
        return [{"role": "assistant", "content": "", "tool_calls": [call]}]
    known_ids = {call.get("id") for earlier in messages for call in earlier.get("tool_calls") or []}
    if facts.get("tool_call_id") in known_ids:
        return []
    fields = ("content", "tool_calls", "reasoning_content")
    return [{"role": "assistant", **{name: message[name] for name in fields if message.get(name) is not None}}]


def _read_second_kind(event: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of an event of the development kit."""
    kind = str(event["kind"])
    if kind == "SystemPromptEvent":
        return [{"role": "system", "content": event.get("system_prompt", {})}]
    if kind == "MessageEvent":
        message = event.get("llm_message") or {}
        return [{**message, "role": message.get("role", "user")}]
    if kind == "ActionEvent":
        call = event.get("tool_call") or {"id": event.get("tool_call_id"), "name": event.get("tool_name")}
        reply = str(event.get("llm_response_id") or "")
        last = messages[-1] if messages else {}
        if reply and last.get("reply") == reply:  # of one reply, the first event has the words
            last["tool_calls"].append(call)
            return []
        words = {"content": event.get("thought"), "reasoning_content": event.get("reasoning_content")}
        return [{"role": "assistant", **words, "tool_calls": [call], "reply": reply}]
    if kind in ("ObservationEvent", "AgentErrorEvent", "UserRejectObservation"):
        observation = event.get("observation")
        content = observation.get("content") if isinstance(observation, Mapping) else None
        content = content if content is not None else event.get("error", event.get("rejection_reason", ""))
        return [{"role": "tool", "content": content, "tool_call_id": event.get("tool_call_id")}]
    return []
