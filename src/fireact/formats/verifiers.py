"""verifiers' ``traces.jsonl`` (one episode a line, its traces as graphs of messages) and its older ``results.jsonl``.

Invariant: the last branch of a graph is read, root to leaf: the agent ended on it. Rewards keep their names; ``reward``
is their weighted sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import find_id
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Stop, Trajectory, Usage
from fireact.wire.schemas import normalise_schemas

_LIMITS: dict[str, Stop] = dict.fromkeys(
    (
        "max_turns",
        "max_turns_reached",
        "max_input_tokens",
        "max_output_tokens",
        "max_total_tokens",
        "max_total_completion_tokens_reached",
        "compaction_failed",
        "prompt_too_long",
    ),
    "max_steps",
)
"""Stop conditions that are limits, whatever the last message is."""


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are episodes of traces, traces of nodes, or results (prompt, completion, reward)."""
    return bool(rows) and all(isinstance(row, dict) and _kind(row) for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The rollouts of a file: every trace of every episode."""
    return source.build_each(lambda number, row: _read_rollouts(source, number, row))


def _kind(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("traces"), list):
        return "episode"
    if isinstance(row.get("nodes"), list) and "task" in row:
        return "trace"
    return "result" if {"prompt", "completion", "reward"} <= row.keys() else ""


def _read_rollouts(source: SourceFile, number: int, row: Mapping[str, Any]) -> list[Trajectory]:
    kind = _kind(row)
    if kind == "result":
        return [_read_result(source, number, row)]
    return [_read_trace(source, number, row, trace) for trace in (row["traces"] if kind == "episode" else [row])]


def _read_trace(source: SourceFile, number: int, episode: Mapping[str, Any], trace: Mapping[str, Any]) -> Trajectory:
    task = trace.get("task") or episode.get("task") or {}
    data, agent = task.get("data") or {}, trace.get("agent") or {}
    calls = trace.get("calls") or []
    question, system, steps = steps_from_messages(_last_branch(trace["nodes"]), report=source.reporter(number))
    errors = trace.get("errors") or []
    span = (trace.get("timing") or {}).get("agent") or {}
    return import_trajectory(
        question,
        steps,
        task=str((episode.get("env") or {}).get("id") or task.get("type") or source.name),
        id=_example_id(task, data),
        answer=str(data.get("answer") or ""),
        model=str(next((call["model"] for call in calls if call.get("model")), "")),
        stop="error" if errors and not trace.get("ok", True) else _LIMITS.get(str(trace.get("stop_condition"))),
        scores=_scores(trace),
        usage=_usage(calls),
        seconds=max(0.0, float(span.get("end") or 0) - float(span.get("start") or 0)),
        error=str(errors[-1].get("message")) if errors else None,
        meta={"system": system, "tools": normalise_schemas(_tools(trace)), "agent": agent.get("name")},
    )


def _tools(trace: Mapping[str, Any]) -> Any:
    """The tools of a trace; where it has none, those of its nodes."""
    return trace.get("tools") or next((node["tools"] for node in trace["nodes"] if node.get("tools")), ())


def _example_id(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The example's own id; else its name, which may not be unique, with its number in the task set."""
    example_id = find_id({"key": task.get("key"), **data}, "id", "key")
    return example_id or "-".join(str(data[key]) for key in ("name", "idx") if data.get(key) not in (None, ""))


def _last_branch(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages from the root to the last node; a node that names a later one as its parent ends the walk."""
    path: list[Mapping[str, Any]] = []
    index: int | None = len(nodes) - 1 if nodes else None
    while index is not None:
        path.append(nodes[index]["message"])
        parent = nodes[index].get("parent")
        index = parent if isinstance(parent, int) and 0 <= parent < index else None
    return path[::-1]


def _scores(trace: Mapping[str, Any]) -> dict[str, float]:
    rewards = {name: value for name, value in (trace.get("rewards") or {}).items() if value is not None}
    weighted_rewards = {
        name: value if isinstance(value, Mapping) else {"score": value} for name, value in rewards.items()
    }
    total = sum(float(value["score"]) * float(value.get("weight", 1.0)) for value in weighted_rewards.values())
    metrics = {name: float(value) for name, value in (trace.get("metrics") or {}).items() if value is not None}
    return {**metrics, **{name: float(value["score"]) for name, value in weighted_rewards.items()}, "reward": total}


def _usage(calls: Sequence[Mapping[str, Any]]) -> Usage:
    usages = [call.get("usage") or {} for call in calls]
    costs = [usage.get("cost") for usage in usages]
    return Usage(
        calls=len(calls),
        prompt_tokens=sum(map(_prompt_tokens, usages)),
        cached_tokens=sum(int(usage.get("cached_input_tokens") or 0) for usage in usages),
        completion_tokens=sum(int(usage.get("completion_tokens") or 0) for usage in usages),
        cost=sum(float(cost or 0) for cost in costs) if costs and None not in costs else None,
    )


def _prompt_tokens(usage: Mapping[str, Any]) -> int:
    """All prompt tokens: ``input_tokens`` if given, else ``prompt_tokens`` (not cached) plus the cached ones."""
    input_tokens = usage.get("input_tokens")
    return int(input_tokens or int(usage.get("prompt_tokens") or 0) + int(usage.get("cached_input_tokens") or 0))


def _read_result(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": str(row["prompt"])}]
    completion = row["completion"]
    completion = completion if isinstance(completion, list) else [{"role": "assistant", "content": str(completion)}]
    question, system, steps = steps_from_messages([*prompt, *completion], report=source.reporter(number))
    info = row["info"] if isinstance(row.get("info"), Mapping) else {}
    return import_trajectory(
        question, steps, task=str(row.get("task") or source.name), id=find_id(row, "example_id", "id"),
        answer=str(row.get("answer") or ""), scores={"reward": float(row["reward"])},
        meta={"system": system, "tools": normalise_schemas(row.get("tools") or info.get("oai_tools"))},
    )  # fmt: skip
