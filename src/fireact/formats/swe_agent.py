"""Trajectories of SWE-agent (``.traj``) and mini-swe-agent: the messages of ``history``, and ``info`` on the end.

Invariant: demonstrations are context of the prompt and are left out; the agent submits by a tool or a command, and
what it submitted is the answer, which is not learned. A score stands in the file only where an evaluation wrote it
(``info.resolved``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.formats.chats import find_id
from fireact.formats.model_calls import read_count
from fireact.formats.source import SourceFile, finish_step, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import Step, Stop, Trajectory, Usage
from fireact.wire.schemas import normalise_schemas


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the rows are trajectories with their history, or messages with info."""
    return bool(rows) and all(isinstance(row, Mapping) and _find_history(row) is not None for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The trajectories of a file."""
    return source.build_each(lambda number, row: [_read_row(source, number, row)])


def _find_history(row: Mapping[str, Any]) -> list[Any] | None:
    if isinstance(row.get("history"), list) and isinstance(row.get("trajectory"), list):
        history: list[Any] = row["history"]
        return history
    is_mini = str(row.get("trajectory_format", "")).startswith("mini-swe-agent")
    return row["messages"] if is_mini and isinstance(row.get("messages"), list) else None


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    history = [_read_message(message) for message in _find_history(row) or [] if _is_message(message)]
    info = row.get("info") or {}
    question, system, steps = steps_from_messages(history, report=source.reporter(number))
    submission = str(info.get("submission") or "")
    exit_status = str(info.get("exit_status") or "")
    statistics = info.get("model_stats") or {}
    cost = statistics.get("instance_cost")
    resolved = info.get("resolved", row.get("resolved"))
    is_submitted = "submitted" in exit_status.lower()
    return import_trajectory(
        question,
        _with_submission(steps, submission) if is_submitted else steps,
        task=source.name,
        id=find_id(row, "instance_id") or find_id(info, "instance_id"),
        model=str((info.get("config") or {}).get("model", {}).get("model_name") or ""),
        stop=None if is_submitted else _STOPS.get(exit_status, "max_steps" if "limit" in exit_status.lower() else None),
        scores={"resolved": float(resolved)} if isinstance(resolved, bool | int | float) else {},
        usage=Usage(
            read_count(statistics, "api_calls"),
            read_count(statistics, "tokens_sent"),
            0,
            read_count(statistics, "tokens_received"),
            float(cost) if isinstance(cost, int | float) else None,
        ),
        meta={"system": system, "tools": normalise_schemas(row.get("tools")), "exit_status": exit_status},
    )


_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "reasoning_content")
_STOPS: dict[str, Stop] = {"LimitsExceeded": "max_steps", "exit_cost": "max_steps", "exit_context": "max_steps"}


def _is_message(message: Mapping[str, Any]) -> bool:
    """Whether a message is of the episode: demonstrations and mini-swe-agent's note on the end are none."""
    return not message.get("is_demo") and message.get("role") != "exit"


def _read_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a history; results have their ids in a list, and an action in text stands beside its thought."""
    ids = message.get("tool_call_ids")
    fields = {key: message[key] for key in _FIELDS if key in message}
    if isinstance(ids, list) and ids and message.get("role") == "tool":
        fields["tool_call_id"] = ids[0]
    return fields


def _with_submission(steps: Sequence[Step], submission: str) -> list[Step]:
    """The steps, and what was submitted as the answer; the model did not write it there, so it is not learned."""
    return [*steps, replace(finish_step(submission), weight=0.0)]
