"""Chat messages with native tool calls: ``{"messages": [...], "tools": [...]}`` in each row, and facts about them.

Invariant: ``messages_row`` holds schemas, arguments and facts as JSON text, so that Arrow cannot mix the keys of one
tool into another. ``arrow_row`` is for columns of JSON, which load as objects. ``api_row`` holds the fields of OpenAI's
fine-tuning API and no others. All of them can be read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fireact.formats.source import SourceFile, import_trajectory, require_field
from fireact.render.messages import messages_from_steps, steps_from_messages
from fireact.types import FINISH, Trajectory, Usage
from fireact.wire.chat_completions import functions_of, with_argument_objects
from fireact.wire.file_messages import content_text, role_name
from fireact.wire.roles import find_role
from fireact.wire.schemas import FINISH_SCHEMA, infer_schemas, normalise_schemas, schema_name

KEYS = ("messages", "traj")
_OWN_KEYS = ("id", "task", "method", "model", "seed", "stop", "answer", "scores", "extra")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows have messages with roles."""
    return bool(rows) and all(isinstance(row, dict) and _find_messages(row) is not None for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The conversations of a file; a row's id, task, reward and trial are kept."""
    return source.build_each(
        lambda number, row: [read_conversation(source, number, row, require_field(_find_messages(row), "messages"))]
    )


def messages_row(trajectory: Trajectory) -> dict[str, Any]:
    """A conversation with its facts, safe in Arrow: only the key ``weight`` is missing in some messages."""
    facts = episode_facts(trajectory)
    texts = {name: json.dumps(facts[name], ensure_ascii=False) for name in ("scores", "extra")}
    tools = json.dumps(tools_of(trajectory), ensure_ascii=False)
    return {"messages": chat_messages(trajectory), "tools": tools, **facts, **texts}


def episode_facts(trajectory: Trajectory) -> dict[str, Any]:
    """What is known of an episode beside its messages and tools, as plain values; ``read_facts`` reads it back."""
    example = trajectory.example
    other_meta = {key: value for key, value in trajectory.meta.items() if key not in ("system", "tools", "released")}
    extra = {
        "example": dict(example.meta), "usage": asdict(trajectory.usage), "seconds": trajectory.seconds,
        "error": trajectory.error, "meta": other_meta,
    }  # fmt: skip
    return {
        "id": example.id, "task": trajectory.task, "method": trajectory.method, "model": trajectory.model,
        "seed": trajectory.seed, "stop": trajectory.stop, "answer": example.answer, "scores": dict(trajectory.scores),
        "extra": extra,
    }  # fmt: skip


def arrow_row(trajectory: Trajectory) -> dict[str, Any]:
    """The same for columns of JSON: every message is one JSON text, and its arguments are objects."""
    messages = [with_argument_objects(message) for message in chat_messages(trajectory)]
    return {**messages_row(trajectory), "messages": [json.dumps(message, ensure_ascii=False) for message in messages]}


def api_row(trajectory: Trajectory) -> dict[str, Any]:
    """A conversation for OpenAI's fine-tuning API: tools as objects, reasoning in the content, weights 0 or 1."""
    messages = []
    for message in chat_messages(trajectory):
        reasoning = message.pop("reasoning_content", "")
        if reasoning:
            message["content"] = "\n\n".join(filter(None, (reasoning, message["content"])))
        if "weight" in message:
            message["weight"] = int(message["weight"] > 0)
        if message["role"] == "tool":
            message.pop("name")
        messages.append(message)
    while messages and messages[-1]["role"] != "assistant":  # the API refuses a row that does not end with the student
        messages.pop()
    tools = tools_of(trajectory)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def tools_of(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The tool schemas of an episode: its own, plus schemas inferred from its calls; finish only where it is called."""
    known_tools = normalise_schemas(trajectory.meta.get("tools"))
    names = set(map(schema_name, known_tools))
    missing = [tool for tool in infer_schemas(trajectory.steps) if schema_name(tool) not in names]
    ends_in_call = any(
        function["name"] == FINISH for message in chat_messages(trajectory) for function in functions_of(message)
    )
    return known_tools + [tool for tool in missing if tool != FINISH_SCHEMA or ends_in_call]


def read_conversation(
    source: SourceFile, number: int, row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Trajectory:
    """The Trajectory of a row with these messages: facts that FireAct wrote are read back, others by their usual names.

    What cannot be read is reported; a turn in which it stands gets weight 0, as it says less than its model said.
    """
    tools, outer_system = row.get("tools") or row.get("functions"), content_text(row.get("system"))
    question, system, steps = steps_from_messages(
        messages, tools=tools, system=outer_system, report=source.reporter(number)
    )
    source.report_bad_schemas(number, tools)
    meta = {"system": outer_system or system, "tools": normalise_schemas(tools)}
    if set(_OWN_KEYS) <= row.keys():
        return read_facts(row, question, steps, meta)
    reward = row.get("reward")
    return import_trajectory(
        question,
        steps,
        task=str(row.get("task") or source.name) if isinstance(row.get("task", ""), str) else source.name,
        id=find_id(row, "id", "task_id"),
        model=str(row.get("model") or ""),
        seed=int(row.get("trial") or 0),
        scores={"reward": float(reward)} if isinstance(reward, int | float) else {},
        meta=meta,
    )


def find_id(row: Mapping[str, Any], *keys: str) -> str:
    """The first id that a row has under these keys; empty where there is none."""
    return next((str(row[key]) for key in keys if row.get(key) not in (None, "")), "")


def read_facts(row: Mapping[str, Any], question: str, steps: Any, meta: Mapping[str, Any]) -> Trajectory:
    """The Trajectory of an episode that FireAct wrote, with its ``episode_facts``."""
    extra, scores = (json.loads(row[key]) if isinstance(row[key], str) else row[key] for key in ("extra", "scores"))
    return import_trajectory(
        question, steps, task=row["task"], id=row["id"], answer=row["answer"], method=row["method"], model=row["model"],
        seed=int(row["seed"]), stop=row["stop"], scores=scores, usage=Usage(**extra["usage"]),
        seconds=extra["seconds"], error=extra["error"], about=extra["example"], meta={**meta, **extra["meta"]},
    )  # fmt: skip


def chat_messages(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The conversation of an episode, with its system prompt."""
    system = str(trajectory.meta.get("system") or "")
    return messages_from_steps(trajectory.example.question, trajectory.steps, system=system)


def _find_messages(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    for key in KEYS:
        messages = row.get(key)
        if isinstance(messages, list) and messages and all(isinstance(item, Mapping) for item in messages):
            return messages if all("role" in item or find_role(role_name(item)) for item in messages) else None
    return None
