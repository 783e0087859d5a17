"""verifiers' ``traces.jsonl`` (one episode a line, its traces as graphs of messages) and its older ``results.jsonl``.

Invariant: of a graph the last branch is read, root to leaf: it is what the agent ended with. Rewards keep their names;
``reward`` is their weighted sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import id_of
from fireact.formats.source import Source, imported
from fireact.render.messages import schemas, steps_from_messages
from fireact.types import Stop, Trajectory, Usage

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
"""The stop conditions that are limits, whatever was said last."""


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are episodes with traces, traces with nodes, or results with prompt, completion and reward."""
    return bool(rows) and all(isinstance(row, dict) and _kind(row) for row in rows)


def read(source: Source) -> Iterator[Trajectory]:
    """The rollouts of a file: every trace of every episode."""
    return source.each(lambda number, row: _read(source, row))


def _kind(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("traces"), list):
        return "episode"
    if isinstance(row.get("nodes"), list) and "task" in row:
        return "trace"
    return "result" if {"prompt", "completion", "reward"} <= row.keys() else ""


def _read(source: Source, row: Mapping[str, Any]) -> list[Trajectory]:
    kind = _kind(row)
    if kind == "result":
        return [_result(source, row)]
    return [_trace(source, row, trace) for trace in (row["traces"] if kind == "episode" else [row])]


def _trace(source: Source, episode: Mapping[str, Any], trace: Mapping[str, Any]) -> Trajectory:
    task = trace.get("task") or episode.get("task") or {}
    data, agent = task.get("data") or {}, trace.get("agent") or {}
    calls = trace.get("calls") or []
    question, system, steps = steps_from_messages(_last_branch(trace["nodes"]))
    errors = trace.get("errors") or []
    span = (trace.get("timing") or {}).get("agent") or {}
    return imported(
        question,
        steps,
        task=str((episode.get("env") or {}).get("id") or task.get("type") or source.name),
        id=_id(task, data),
        answer=str(data.get("answer") or ""),
        model=str(next((call["model"] for call in calls if call.get("model")), "")),
        stop="error" if errors and not trace.get("ok", True) else _LIMITS.get(str(trace.get("stop_condition"))),
        scores=_scores(trace),
        usage=_usage(calls),
        seconds=max(0.0, float(span.get("end") or 0) - float(span.get("start") or 0)),
        error=str(errors[-1].get("message")) if errors else None,
        meta={"system": system, "tools": schemas(_tools(trace)), "agent": agent.get("name")},
    )


def _tools(trace: Mapping[str, Any]) -> Any:
    """The tools of a trace, which its nodes tell where it does not."""
    return trace.get("tools") or next((node["tools"] for node in trace["nodes"] if node.get("tools")), ())


def _id(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The example's own id; else its name, which several may share, with its number in the task set."""
    told = id_of({"key": task.get("key"), **data}, "id", "key")
    return told or "-".join(str(data[key]) for key in ("name", "idx") if data.get(key) not in (None, ""))


def _last_branch(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages from the root to the last node; a node that names a later one as its parent ends the walk."""
    path: list[Mapping[str, Any]] = []
    at: int | None = len(nodes) - 1 if nodes else None
    while at is not None:
        path.append(nodes[at]["message"])
        parent = nodes[at].get("parent")
        at = parent if isinstance(parent, int) and 0 <= parent < at else None
    return path[::-1]


def _scores(trace: Mapping[str, Any]) -> dict[str, float]:
    rewards = {name: value for name, value in (trace.get("rewards") or {}).items() if value is not None}
    told = {name: value if isinstance(value, Mapping) else {"score": value} for name, value in rewards.items()}
    total = sum(float(value["score"]) * float(value.get("weight", 1.0)) for value in told.values())
    metrics = {name: float(value) for name, value in (trace.get("metrics") or {}).items() if value is not None}
    return {**metrics, **{name: float(value["score"]) for name, value in told.items()}, "reward": total}


def _usage(calls: Sequence[Mapping[str, Any]]) -> Usage:
    told = [call.get("usage") or {} for call in calls]
    costs = [usage.get("cost") for usage in told]
    return Usage(
        calls=len(calls),
        prompt_tokens=sum(map(_prompt_tokens, told)),
        cached_tokens=sum(int(usage.get("cached_input_tokens") or 0) for usage in told),
        completion_tokens=sum(int(usage.get("completion_tokens") or 0) for usage in told),
        cost=sum(float(cost or 0) for cost in costs) if costs and None not in costs else None,
    )


def _prompt_tokens(usage: Mapping[str, Any]) -> int:
    """All that was read: ``input_tokens`` where it is told; ``prompt_tokens`` does not count what was cached."""
    whole = usage.get("input_tokens")
    return int(whole or int(usage.get("prompt_tokens") or 0) + int(usage.get("cached_input_tokens") or 0))


def _result(source: Source, row: Mapping[str, Any]) -> Trajectory:
    prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": str(row["prompt"])}]
    done = row["completion"]
    done = done if isinstance(done, list) else [{"role": "assistant", "content": str(done)}]
    question, system, steps = steps_from_messages([*prompt, *done])
    info = row["info"] if isinstance(row.get("info"), Mapping) else {}
    return imported(
        question, steps, task=str(row.get("task") or source.name), id=id_of(row, "example_id", "id"),
        answer=str(row.get("answer") or ""), scores={"reward": float(row["reward"])},
        meta={"system": system, "tools": schemas(row.get("tools") or info.get("oai_tools"))},
    )  # fmt: skip
