"""The samples of a provider's training file: chats whose turns that are not learnt have weight 0.

Invariant: a sample ends with words that are learnt. What providers would reject is refused before an upload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.progress import SILENT, Progress
from fireact.data.recorded_calls import RENDERER, resolve_renderer
from fireact.errors import DataError
from fireact.render.react import ReActRenderer
from fireact.render.tokens import Chat
from fireact.render.tool_calls import export_messages
from fireact.rollout.loading import load_renderer
from fireact.training.samples import ChatSource
from fireact.training.trained_tools import describe_prompt, describe_trained_tools
from fireact.types import Message, Trajectory
from fireact.wire.chat_completions import write_message
from fireact.wire.dialect import WireMessage


def build_training_rows(
    trajectories: Sequence[Trajectory], renderer: str, data: Path, progress: Progress = SILENT
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The samples, and what the manifest tells of a student of a recorded agent (nothing for any other)."""
    if resolve_renderer(renderer, data) != RENDERER:
        return list(map(training_row, trajectories)), {}
    chats = _render_recorded(trajectories, data, progress)
    student_fields = {
        "renderer": RENDERER, "prompt": describe_prompt(chats),
        "tools": describe_trained_tools(chats, trajectories, load_renderer(RENDERER), ()),
    }  # fmt: skip
    return list(map(recorded_row, chats)), student_fields


def _render_recorded(trajectories: Sequence[Trajectory], data: Path, progress: Progress) -> list[Chat]:
    """The recorded calls of trajectories as chats. Raises DataError where none is left."""
    source = ChatSource.load(RENDERER, data=data, tools=())
    chats = [chat for trajectory in trajectories for chat in source.render(trajectory)]
    for line in source.describe_left_out():
        progress.say(f"tune: left out, {line}")
    if not chats:
        raise DataError(f"none of {len(trajectories)} trajectories has a sample for the renderer {RENDERER}.")
    return chats


def count_row_chars(row: Mapping[str, Any]) -> int:
    """The characters of a sample: the texts and calls of its messages, and its tools."""
    calls = [message["tool_calls"] for message in row["messages"] if message.get("tool_calls")]
    extra = [*calls, *([row["tools"]] if row.get("tools") else [])]
    texts = [message.get("content") or "" for message in row["messages"]]
    return sum(map(len, texts)) + sum(len(jsonl.dumps(part)) for part in extra)


def recorded_row(chat: Chat) -> dict[str, Any]:
    """The sample of a recorded agent's requests with its tools, up to the last turn that is learnt."""
    messages = _trim_messages(chat.messages, chat.key)
    rows = list(export_messages(messages))
    for row, message in zip(rows, messages, strict=True):
        if message.role == "assistant" and not message.train:
            row["weight"] = 0
    return {"messages": rows, **({"tools": list(chat.tools)} if chat.tools else {})}


def _trim_messages(messages: Sequence[Message], key: str) -> Sequence[Message]:
    """The messages up to the last turn that is learnt. Raises DataError for a weight between 0 and 1."""
    other_weights = [message.weight for message in messages if message.weight != 1]
    if other_weights:
        raise DataError(
            f"{key} has a step of weight {other_weights[0]:g}; providers know 0 and 1 alone. Set one of them."
        )
    end = max((position for position, message in enumerate(messages, 1) if message.train), default=len(messages))
    return messages[:end]


def training_row(trajectory: Trajectory) -> dict[str, Any]:
    """The sample of a trajectory, up to the last turn that is learnt; earlier turns not to be learnt have weight 0."""
    messages = []
    for message in _trim_messages(ReActRenderer().sample(trajectory), trajectory.key):
        extra = {"weight": 0} if message.role == "assistant" and not message.train else {}
        messages.append(write_message(WireMessage(message.role, (message.content,), extra=extra)))
    return {"messages": messages}


def check_training_rows(rows: list[dict[str, Any]], *, min_samples: int) -> None:
    """Raise DataError for rows that providers would reject."""
    if len(rows) < min_samples:
        raise DataError(f"{len(rows)} samples; the provider asks for {min_samples} at least. Mix more.")
    for number, row in enumerate(rows, 1):
        last_message = row["messages"][-1]
        if last_message["role"] != "assistant" or last_message.get("weight") == 0:
            raise DataError(f"sample {number} does not end with words of the student. Filter with --where finished.")
        if any(
            not (message.get("content") or "").strip() and not message.get("tool_calls") for message in row["messages"]
        ):
            raise DataError(f"sample {number} has an empty message. Repair or filter it.")
