"""ShareGPT: ``conversations`` of from/value (or role/content), with function_call and observation turns.

Invariant: a written row has LLaMA-Factory's order of turns. Text beside a call comes before it in ``<think>`` tags,
which LLaMA-Factory's formatter removes and restores. The results of several calls are one observation turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.chats import read_conversation, tools_of
from fireact.formats.source import SourceFile, require_field
from fireact.render.messages import messages_from_steps
from fireact.types import Trajectory
from fireact.wire.chat_completions import functions_of
from fireact.wire.file_messages import BETWEEN_RESULTS
from fireact.wire.reasoning import wrap_reasoning
from fireact.wire.schemas import unwrap_schema


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows have conversations, or messages of from/value."""
    return bool(rows) and all(isinstance(row, dict) and _find_turns(row) is not None for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The conversations of a file, as messages with tool calls."""
    return source.build_each(
        lambda number, row: [read_conversation(source, number, row, require_field(_find_turns(row), "conversations"))]
    )


def sharegpt_row(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as a ShareGPT sample with tools."""
    system = str(trajectory.meta.get("system") or "")
    turns: list[dict[str, str]] = []
    results: list[str] = []
    for message in messages_from_steps(trajectory.example.question, trajectory.steps, system=system):
        if message["role"] == "tool":
            results.append(message["content"])
            continue
        if results:
            turns.append({"from": "observation", "value": BETWEEN_RESULTS.join(results)})
            results = []
        turns.append(_build_turn(message))
    while turns and turns[-1]["from"] == "human" and len(turns) > 1:  # a last user turn has no answer to learn
        turns.pop()
    tools = list(map(unwrap_schema, tools_of(trajectory)))
    return {"conversations": turns, "tools": json.dumps(tools, ensure_ascii=False) if tools else ""}


def find_sharegpt_flaw(row: Mapping[str, Any]) -> str:
    """Why LLaMA-Factory would leave a row out, or nothing: user and student must alternate, and the student ends."""
    turns = [turn["from"] for turn in row["conversations"] if turn["from"] != "system"]
    allowed = (("human", "observation"), ("gpt", "function_call"))
    is_alternating = (
        bool(turns) and len(turns) % 2 == 0 and all(turn in allowed[index % 2] for index, turn in enumerate(turns))
    )
    return "" if is_alternating else "row whose turns LLaMA-Factory refuses"


def _build_turn(message: Mapping[str, Any]) -> dict[str, str]:
    if message["role"] != "assistant":
        return {"from": "human" if message["role"] == "user" else "system", "value": message["content"]}
    reasoning, content = message.get("reasoning_content", ""), message["content"]
    calls = functions_of(message)
    if not calls:
        return {"from": "gpt", "value": wrap_reasoning(reasoning, content)}
    thought = "\n\n".join(filter(None, (reasoning, content)))
    value = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
    return {"from": "function_call", "value": wrap_reasoning(thought, value)}


def _find_turns(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    role_key = "role" if "conversations" in row else "from"
    return turns if all("from" in turn or role_key in turn for turn in turns) else None
