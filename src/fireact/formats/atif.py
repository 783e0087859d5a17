"""ATIF, the Agent Trajectory Interchange Format of Harbor (versions 1.0 to 1.8): one document, or one a line.

Invariant: a step of the agent is one turn with all its calls and results; results without a call become a message of
the user. A step that is copied from an earlier trajectory, or that no model wrote (``llm_call_count`` 0), has weight 0.
Sub-agents' trajectories are not read, but counted. What FireAct writes has version 1.8, and its facts in ``extra``.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import chat_messages, episode_facts, read_facts, tools_of
from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Trajectory, Usage
from fireact.wire.file_messages import content_text
from fireact.wire.schemas import normalise_schemas

VERSION = "ATIF-v1.8"
FACTS = "fireact"
"""The key of ``extra`` under which FireAct keeps what the format has no place for."""


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
    agent, final, extra = row["agent"], row.get("final_metrics") or {}, row.get("extra") or {}
    tools = normalise_schemas(agent.get("tool_definitions"))
    if FACTS in extra:
        return read_facts(extra[FACTS], question, steps, {"system": system, "tools": tools})
    cost = final.get("total_cost_usd")
    reward = extra.get("reward", (final.get("extra") or {}).get("reward"))
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
            "tools": tools,
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
    weight = (step.get("extra") or {}).get("weight")
    message = {
        "role": role,
        "content": content,
        "reasoning_content": step.get("reasoning_content"),
        "tool_calls": calls,
        "weight": 0 if step.get("is_copied_context") or step.get("llm_call_count") == 0 else weight,
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


def atif_document(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as a document of ATIF; its facts and the weights of turns are in ``extra``."""
    usage, tools = trajectory.usage, tools_of(trajectory)
    reward = trajectory.scores.get("reward", trajectory.scores.get("em"))
    return {
        "schema_version": VERSION,
        "session_id": trajectory.example.id,
        "trajectory_id": f"{trajectory.key}/{trajectory.model}",
        "agent": {
            "name": FACTS,
            "version": importlib.metadata.version(FACTS),
            **({"model_name": trajectory.model} if trajectory.model else {}),
            **({"tool_definitions": tools} if tools else {}),
        },
        "steps": [{"step_id": number, **step} for number, step in enumerate(_steps(trajectory), 1)],
        "final_metrics": {
            "total_prompt_tokens": usage.prompt_tokens,
            "total_completion_tokens": usage.completion_tokens,
            "total_cached_tokens": usage.cached_tokens,
            **({} if usage.cost is None else {"total_cost_usd": usage.cost}),
        },
        "extra": {**({} if reward is None else {"reward": reward}), FACTS: episode_facts(trajectory)},
    }


def _steps(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The steps of a document: a turn of the agent has the results of its calls."""
    steps: list[dict[str, Any]] = []
    for message in chat_messages(trajectory):
        role, content = message["role"], str(message.get("content") or "")
        if role == "tool":
            result = {"source_call_id": message["tool_call_id"], "content": content}
            steps[-1].setdefault("observation", {"results": []})["results"].append(result)
        elif role != "assistant":
            steps.append({"source": role, "message": content})
        else:
            steps.append({"source": "agent", "message": content, **_agent_fields(message)})
    return steps


def _agent_fields(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {
            "tool_call_id": call["id"],
            "function_name": call["function"]["name"],
            "arguments": json.loads(call["function"]["arguments"]),
        }
        for call in message.get("tool_calls") or ()
    ]
    fields = {
        "reasoning_content": message.get("reasoning_content"),
        "tool_calls": calls,
        "extra": {"weight": message["weight"]} if "weight" in message else None,
    }
    return {name: value for name, value in fields.items() if value}
