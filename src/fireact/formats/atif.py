"""ATIF, the Agent Trajectory Interchange Format of Harbor (versions 1.0 to 1.8): one document, or one a line.

Invariant: a step of the agent is one turn with all its calls and results; results without a call become a message of
the user. A step that is copied from an earlier trajectory, or that no model wrote (``llm_call_count`` 0), has weight 0.
Sub-agents' trajectories are not read, but counted.
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
    reward = (row.get("extra") or {}).get("reward", (final.get("extra") or {}).get("reward"))
    return import_trajectory(
        question,
        steps,
        task=source.name,
        id=str(row.get("session_id") or ""),
        model=str(agent.get("model_name") or _first_model(row["steps"])),
        usage=Usage(
            calls=sum(step.get("source") == "agent" for step in row["steps"]),
            prompt_tokens=_count_tokens(row, "prompt_tokens"),
            cached_tokens=_count_tokens(row, "cached_tokens"),
            completion_tokens=_count_tokens(row, "completion_tokens"),
            cost=None if cost is None else float(cost),
        ),
        scores={"reward": float(reward)} if isinstance(reward, int | float) else {},
        meta={
            "system": system,
            "tools": normalise_schemas(agent.get("tool_definitions")),
            "agent": {key: agent[key] for key in ("name", "version") if key in agent},
            "sub_agents": len(row.get("subagent_trajectories") or ()),
        },
    )


def _first_model(steps: Sequence[Mapping[str, Any]]) -> str:
    return next((str(step["model_name"]) for step in steps if step.get("model_name")), "")


def _count_tokens(row: Mapping[str, Any], name: str) -> int:
    """The tokens of all steps: the sum in the final metrics, or that of the steps' own metrics."""
    total = (row.get("final_metrics") or {}).get(f"total_{name}")
    return int(sum((step.get("metrics") or {}).get(name) or 0 for step in row["steps"]) if total is None else total)


def _messages_of_step(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = {"agent": "assistant", "system": "system"}.get(str(step.get("source")), "user")
    content = step.get("message")
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
        **({"weight": 0} if step.get("is_copied_context") or step.get("llm_call_count") == 0 else {}),
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
