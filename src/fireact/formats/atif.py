"""ATIF, the Agent Trajectory Interchange Format of Harbor (versions 1.0 to 1.7): one document, or one a line.

Invariant: a step of the agent is one turn with all its calls and results; results without a call become a message of
the user. Sub-agents' trajectories are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory, Usage
from fireact.wire.file_messages import content_text
from fireact.wire.schemas import normalise_schemas


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows name ATIF as their schema, or have an agent and steps with sources."""
    return bool(rows) and all(isinstance(row, dict) and _is_atif(row) for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The trajectories of a file."""
    return source.build_each(lambda number, row: [_read_row(source, number, row)])


def _is_atif(row: Mapping[str, Any]) -> bool:
    steps = row.get("steps")
    if not isinstance(steps, list) or "agent" not in row:
        return False
    has_version = str(row.get("schema_version", "")).startswith("ATIF")
    return has_version or all(isinstance(step, dict) and "source" in step for step in steps)


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    question, system, steps = steps_from_messages(
        [message for step in row["steps"] for message in _messages_of_step(step)], report=source.reporter(number)
    )
    agent, final = row["agent"], row.get("final_metrics") or {}
    cost = final.get("total_cost_usd")
    return import_trajectory(
        question,
        steps,
        task=source.name,
        id=str(row.get("session_id") or ""),
        model=str(agent.get("model_name") or ""),
        usage=Usage(
            calls=sum(step.get("source") == "agent" for step in row["steps"]),
            prompt_tokens=int(final.get("total_prompt_tokens") or 0),
            cached_tokens=int(final.get("total_cached_tokens") or 0),
            completion_tokens=int(final.get("total_completion_tokens") or 0),
            cost=None if cost is None else float(cost),
        ),
        meta={
            "system": system,
            "tools": normalise_schemas(agent.get("tool_definitions")),
            "agent": {key: agent[key] for key in ("name", "version") if key in agent},
        },
    )


def _messages_of_step(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = {"agent": "assistant", "system": "system"}.get(str(step.get("source")), "user")
    content = content_text(step.get("message"))
    if role != "assistant":
        return [{"role": role, "content": content}]
    calls = [
        {"id": call.get("tool_call_id"), "name": call["function_name"], "arguments": call["arguments"]}
        for call in step.get("tool_calls") or []
    ]
    message = {
        "role": role,
        "content": content,
        "reasoning_content": step.get("reasoning_content"),
        "tool_calls": calls,
    }
    results = (step.get("observation") or {}).get("results") or []
    result_messages = [
        {
            "role": "tool" if calls else "user",
            "content": content_text(result.get("content")),
            "tool_call_id": result.get("source_call_id"),
        }
        for result in results
    ]
    return [message, *result_messages]
