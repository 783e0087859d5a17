"""Chat messages with native tool calls: ``{"messages": [...], "tools": [...]}`` a row, and what is known of them.

Invariant: ``row`` holds schemas, arguments and facts as JSON text, so Arrow cannot mix the keys of one tool into another;
``arrow_row`` is for columns of JSON, which are objects again where they are loaded; ``api_row`` holds the fields of OpenAI's fine-tuning API and no other. Both read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fireact.formats.source import UNREAD_CALL, Damage, Source, imported, needed
from fireact.render.messages import (
    FINISH_SCHEMA,
    inferred_schemas,
    messages_from_steps,
    role_of,
    schemas,
    steps_from_messages,
    unread_calls,
)
from fireact.sensitive import excerpt
from fireact.types import FINISH, Trajectory, Usage

KEYS = ("messages", "traj")
_OWN = ("id", "task", "method", "model", "seed", "stop", "answer", "scores", "extra")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows have messages with roles."""
    return bool(rows) and all(isinstance(row, dict) and _conversation(row) is not None for row in rows)


def read(source: Source) -> Iterator[Trajectory]:
    """The conversations of a file; where the row tells id, task, reward or trial, they are kept."""
    return source.each(lambda number, row: [conversation(source, number, row, needed(_conversation(row), "messages"))])


def row(trajectory: Trajectory) -> dict[str, Any]:
    """A conversation with what is known of it, safe in Arrow: a weight is the only key that some messages lack."""
    example = trajectory.example
    rest = {key: value for key, value in trajectory.meta.items() if key not in ("system", "tools", "released")}
    extra = {
        "example": dict(example.meta), "usage": asdict(trajectory.usage), "seconds": trajectory.seconds,
        "error": trajectory.error, "meta": rest,
    }  # fmt: skip
    return {
        "messages": _written(trajectory), "tools": json.dumps(tools_of(trajectory), ensure_ascii=False), "id": example.id,
        "task": trajectory.task, "method": trajectory.method, "model": trajectory.model, "seed": trajectory.seed,
        "stop": trajectory.stop, "answer": example.answer, "scores": json.dumps(dict(trajectory.scores)),
        "extra": json.dumps(extra, ensure_ascii=False),
    }  # fmt: skip


def arrow_row(trajectory: Trajectory) -> dict[str, Any]:
    """The same with every message as one JSON text, its arguments as objects: for columns of JSON, which mix no keys."""
    messages = [_native(message) for message in _written(trajectory)]
    return {**row(trajectory), "messages": [json.dumps(message, ensure_ascii=False) for message in messages]}


def _native(message: dict[str, Any]) -> dict[str, Any]:
    """The message with arguments as objects, as chat templates take them."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def api_row(trajectory: Trajectory) -> dict[str, Any]:
    """A conversation for OpenAI's fine-tuning API: tools as objects, reasoning as words, weights 0 or 1."""
    messages = []
    for message in _written(trajectory):
        reasoning = message.pop("reasoning_content", "")
        if reasoning:
            message["content"] = "\n\n".join(filter(None, (reasoning, message["content"])))
        if "weight" in message:
            message["weight"] = int(message["weight"] > 0)
        if message["role"] == "tool":
            message.pop("name")
        messages.append(message)
    while messages and messages[-1]["role"] != "assistant":  # the API refuses what the student does not end
        messages.pop()
    tools = tools_of(trajectory)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def tools_of(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The tool schemas of an episode: those that it came with, else such as fit its calls; with finish where it is called."""
    known = schemas(trajectory.meta.get("tools"))
    names = {tool["function"]["name"] for tool in known}
    missing = [tool for tool in inferred_schemas(trajectory.steps) if tool["function"]["name"] not in names]
    ends_in_call = any(
        call["function"]["name"] == FINISH for message in _written(trajectory) for call in message.get("tool_calls", ())
    )
    return known + [tool for tool in missing if tool != FINISH_SCHEMA or ends_in_call]


def conversation(
    source: Source, number: int, row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Trajectory:
    """The Trajectory of a row whose messages were found; own facts are read back, others by their usual names.

    A turn whose call cannot be read is reported, and gets weight 0: it acted, but its action is lost.
    """
    if not set(_OWN) <= row.keys():
        messages = [_heeded(source, number, message) for message in messages]
    question, system, steps = steps_from_messages(messages)
    tools = schemas(row.get("tools") or row.get("functions"))
    meta = {"system": str(row.get("system") or system), "tools": tools}
    if set(_OWN) <= row.keys():
        return _own(row, question, steps, meta)
    reward = row.get("reward")
    return imported(
        question,
        steps,
        task=str(row.get("task") or source.name) if isinstance(row.get("task", ""), str) else source.name,
        id=id_of(row, "id", "task_id"),
        model=str(row.get("model") or ""),
        seed=int(row.get("trial") or 0),
        scores={"reward": float(reward)} if isinstance(reward, int | float) else {},
        meta=meta,
    )


def _heeded(source: Source, number: int, message: Mapping[str, Any]) -> Mapping[str, Any]:
    if role_of(message.get("role", message.get("from"))) != "assistant" or not (lost := unread_calls(message)):
        return message
    for text in lost:
        source.notice(Damage(UNREAD_CALL, number, excerpt(text, 120)))
    return {**message, "weight": 0}


def id_of(row: Mapping[str, Any], *keys: str) -> str:
    """The first id that a row tells; empty where it tells none."""
    return next((str(row[key]) for key in keys if row.get(key) not in (None, "")), "")


def _own(row: Mapping[str, Any], question: str, steps: Any, meta: Mapping[str, Any]) -> Trajectory:
    extra, scores = (json.loads(row[key]) if isinstance(row[key], str) else row[key] for key in ("extra", "scores"))
    return imported(
        question, steps, task=row["task"], id=row["id"], answer=row["answer"], method=row["method"], model=row["model"],
        seed=int(row["seed"]), stop=row["stop"], scores=scores, usage=Usage(**extra["usage"]),
        seconds=extra["seconds"], error=extra["error"], about=extra["example"], meta={**meta, **extra["meta"]},
    )  # fmt: skip


def _written(trajectory: Trajectory) -> list[dict[str, Any]]:
    system = str(trajectory.meta.get("system") or "")
    return messages_from_steps(trajectory.example.question, trajectory.steps, system=system)


def _conversation(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    for key in KEYS:
        messages = row.get(key)
        if isinstance(messages, list) and messages and all(isinstance(item, Mapping) for item in messages):
            return messages if all("role" in item and role_of(item["role"]) for item in messages) else None
    return None
