"""The gpt format: chat messages with ReAct text, one JSON object a line, as the released files and others have it.

Invariant: a released file that is read and written again keeps its bytes. A turn has an action only where its text
says ``Action:``; native tool calls are another format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.base.redact import excerpt
from fireact.formats.react_text import CLOSING, EpisodeText, parse_react_turn
from fireact.formats.released import RowDamage, build_released_trajectory, has_closing_lines, released_facts
from fireact.formats.source import RELEASED, Damage, SourceFile
from fireact.render.alpaca import closing_line, render_alpaca_turn
from fireact.types import Step, Trajectory
from fireact.wire.chat_completions import has_calls
from fireact.wire.file_messages import content_text, read_weight
from fireact.wire.reasoning import strip_thinking
from fireact.wire.roles import find_role, is_call_role, normalise_role

_OBSERVATION = "Observation:"
_MARK = re.compile(r"Observation(?: ?\d+)?[:：] ?")
_ACTION = re.compile(r"^[ \t]*\**Action(?: ?\d+)?\**[:：]", re.MULTILINE)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are chats in text, and some have a line that begins with ``Action:``."""
    chats = [_as_messages(row).get("messages") if isinstance(row, dict) else None for row in rows]
    return bool(rows) and all(map(_is_text, chats)) and any(_is_react(chat) for chat in chats if chat)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The samples of a file of ReAct chats."""
    closes = has_closing_lines(source)
    return source.build_each(lambda number, row: [_read_row(source, number, _as_messages(row), closes=closes)])


def gpt_row(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as a ReAct chat: observations and the closing line are messages of the user."""
    released = released_facts(trajectory)
    if released.get("form") == "gpt":
        rebuilt_row = released.get("raw") or _rebuild_row(trajectory, released)
        back = _read_row(_NOWHERE, 0, rebuilt_row)
        if back.example.question == trajectory.example.question and back.steps == trajectory.steps:
            return dict(rebuilt_row)
    messages = [_with_weight(message, step) for message, step in chat_turns(trajectory)]
    closing = closing_line(trajectory)
    return {"messages": messages if closing is None else [*messages, _observation_message(closing)]}


def gpt_open_row(trajectory: Trajectory) -> dict[str, Any]:
    """The same for trainers that need the student's turn last: no closing line, no last observation."""
    messages = [message for message, _ in chat_turns(trajectory)]
    while len(messages) > 1 and messages[-1]["role"] != "assistant":
        messages.pop()
    return {"messages": messages}


def find_gpt_flaw(row: Mapping[str, Any]) -> str:
    """Why LLaMA-Factory would leave a row out, or nothing: user and student must alternate, and the student ends."""
    turns = [message["role"] for message in row["messages"] if message["role"] != "system"]
    is_alternating = bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2)
    return "" if is_alternating else "row whose turns LLaMA-Factory refuses"


def chat_turns(trajectory: Trajectory) -> list[tuple[dict[str, Any], Step | None]]:
    """The messages of a trajectory as ReAct text, each of the student's turns with its step."""
    return _build_messages(trajectory, [render_alpaca_turn(step) for step in trajectory.steps])


_NOWHERE = SourceFile(path=Path("gpt"), kind="jsonl", head=())


def _is_text(messages: Any) -> bool:
    """Whether these are messages without native calls."""
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return False
    roles = [message.get("role") for message in messages]
    return not any(map(has_calls, messages)) and not any(
        find_role(role) == "tool" or is_call_role(role) for role in roles
    )


def _as_messages(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of ShareGPT (``conversations`` of from and value) as one of messages; any other row as it is."""
    turns = row.get("conversations")
    if "messages" in row or not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return row
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    messages = [
        {
            "role": turn.get("from", turn.get("role")),
            "content": turn.get("value", turn.get("content")),
            **{key: value for key, value in turn.items() if key not in ("from", "role", "value", "content")},
        }
        for turn in turns
    ]
    return {"messages": [*system, *messages]}


def _is_react(messages: Sequence[Mapping[str, Any]]) -> bool:
    replies = [message.get("content") for message in messages if normalise_role(message.get("role")) == "assistant"]
    return any(isinstance(text, str) and _ACTION.search(text) for text in replies)


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any], *, closes: bool = False) -> Trajectory:
    row_damage = RowDamage()
    system, question, episode = _split_messages(row["messages"], row_damage)
    for message in row["messages"]:
        if find_role(message.get("role")) is None:
            source.notice(Damage("unknown-role", number, f"{message.get('role')!r}, read as the user"))
    if episode.closing is None:
        episode = replace(episode, steps=tuple(_check_action(source, number, step) for step in episode.steps))
    sample_facts = {"form": "gpt", "closing": episode.closing}
    trajectory = build_released_trajectory(
        source, number, question=question, episode=episode, row_damage=row_damage, facts=sample_facts,
        closes=closes, system=system,
    )  # fmt: skip
    if _rebuild_row(trajectory, sample_facts) == row:
        return trajectory
    return replace(trajectory, meta={**trajectory.meta, RELEASED: {**released_facts(trajectory), "raw": dict(row)}})


def _split_messages(messages: Sequence[Mapping[str, Any]], row_damage: RowDamage) -> tuple[str, str, EpisodeText]:
    system: list[str] = []
    question: list[str] = []
    steps: list[Step] = []
    closings: list[str] = []
    for message in messages:
        role, text = normalise_role(message.get("role")), content_text(message.get("content"))
        mark = _MARK.match(text)
        observation = text[mark.end() :] if mark else text
        if mark and CLOSING.match(observation):
            closings.append(observation)
        elif role == "system":
            system.append(text)
        elif role == "assistant":
            step = _read_turn(text, question, steps, row_damage)
            steps.append(replace(step, weight=read_weight(message)))
        elif not steps:
            question.append(text)
        else:
            _add_observation(steps, observation)
    closing = closings[-1] if closings else None
    return "\n\n".join(system), "\n\n".join(question), EpisodeText("", tuple(steps), closing, len(closings))


def _check_action(source: SourceFile, number: int, step: Step) -> Step:
    """A step that acts in words which cannot be read is reported, and gets weight 0."""
    if step.action is not None or not _ACTION.search(strip_thinking(step.text)):
        return step
    source.notice(Damage("unread-tool-call", number, excerpt(step.text, 120)))
    return replace(step, weight=0.0)


def _read_turn(text: str, question: list[str], steps: list[Step], row_damage: RowDamage) -> Step:
    """A turn as a step; where no question came before, a first line without a ReAct mark is the question."""
    if not question and not steps and not text.startswith(("Thought", "Action")):
        question_line, _, text = text.partition("\n")
        row_damage.add("question-in-turn", question_line)
        question.append(question_line)
    return parse_react_turn(text)


def _add_observation(steps: list[Step], text: str) -> None:
    last = steps[-1]
    steps[-1] = replace(last, observation=text if last.observation is None else f"{last.observation}\n{text}")


def _rebuild_row(trajectory: Trajectory, released: Mapping[str, Any]) -> dict[str, Any]:
    messages = [message for message, _ in _build_messages(trajectory, [step.text for step in trajectory.steps])]
    closing = released.get("closing")
    return {"messages": messages if closing is None else [*messages, _observation_message(closing)]}


def _build_messages(trajectory: Trajectory, turn_texts: Sequence[str]) -> list[tuple[dict[str, Any], Step | None]]:
    system = trajectory.meta.get("system")
    messages: list[tuple[dict[str, Any], Step | None]] = []
    if system:
        messages.append(({"role": "system", "content": str(system)}, None))
    messages.append(({"role": "user", "content": trajectory.example.question}, None))
    for text, step in zip(turn_texts, trajectory.steps, strict=True):
        if text or step.observation is None:
            messages.append(({"role": "assistant", "content": text}, step))
        if step.observation is not None:
            messages.append((_observation_message(step.observation), None))
    return messages


def _observation_message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": f"{_OBSERVATION} {text}"}


def _with_weight(message: dict[str, Any], step: Step | None) -> dict[str, Any]:
    return message if step is None or step.weight == 1.0 else {**message, "weight": step.weight}
