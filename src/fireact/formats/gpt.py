"""The gpt form: chat messages whose turns are ReAct text, one JSON object a line; of the released files, and of anyone.

Invariant: a released file that is read and written again is the same bytes. What a turn says is an action only where it
says so in text; native tool calls are another format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.formats.react_text import CLOSING, Episode, read_turn
from fireact.formats.released import Findings, closes_episodes, facts, sample
from fireact.formats.source import RELEASED, Source
from fireact.render.alpaca import closing_of, turn
from fireact.render.messages import role_of, text_of, weight_of
from fireact.types import Step, Trajectory

_OBSERVATION = "Observation:"
_ACTION = re.compile(r"^Action(?: ?\d+)?:", re.MULTILINE)


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows are chats in text, some of which have a line that begins with ``Action:``."""
    chats = [row.get("messages") if isinstance(row, dict) else None for row in rows]
    return bool(rows) and all(map(_is_text, chats)) and any(_is_react(chat) for chat in chats if chat)


def read(source: Source) -> Iterator[Trajectory]:
    """The samples of a file of ReAct chats."""
    closes = closes_episodes(source)
    return source.each(lambda number, row: [_read(source, number, row, closes=closes)])


def row(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as ReAct chat: what the tool says is a message of the user, as is the closing line."""
    kept = facts(trajectory)
    if kept.get("form") == "gpt":
        again = kept.get("raw") or _rebuilt(trajectory, kept)
        back = _read(_NOWHERE, 0, again)
        if back.example.question == trajectory.example.question and back.steps == trajectory.steps:
            return dict(again)
    messages = [_weighed(message, step) for message, step in chat_turns(trajectory)]
    closing = closing_of(trajectory)
    return {"messages": messages if closing is None else [*messages, _heard(closing)]}


def open_row(trajectory: Trajectory) -> dict[str, Any]:
    """The same for trainers that want the student to have the last word: no closing line, no last observation."""
    messages = [message for message, _ in chat_turns(trajectory)]
    while len(messages) > 1 and messages[-1]["role"] != "assistant":
        messages.pop()
    return {"messages": messages}


def flaw(row: Mapping[str, Any]) -> str:
    """What LLaMA-Factory would leave a row out for, or nothing: user and student take turns, and the student ends."""
    turns = [message["role"] for message in row["messages"] if message["role"] != "system"]
    right = bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2)
    return "" if right else "row whose turns LLaMA-Factory refuses"


def chat_turns(trajectory: Trajectory) -> list[tuple[dict[str, Any], Step | None]]:
    """The messages of a trajectory as ReAct text; beside each of the student's turns, the step that it is."""
    return _messages(trajectory, [turn(step) for step in trajectory.steps])


_NOWHERE = Source(path=Path("gpt"), kind="jsonl", head=())


def _is_text(messages: Any) -> bool:
    """Whether these are messages without native calls."""
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return False
    return not any(message.get("tool_calls") or role_of(message.get("role")) == "tool" for message in messages)


def _is_react(messages: Sequence[Mapping[str, Any]]) -> bool:
    said = [message.get("content") for message in messages if role_of(message.get("role")) == "assistant"]
    return any(isinstance(text, str) and _ACTION.search(text) for text in said)


def _read(source: Source, number: int, row: Mapping[str, Any], *, closes: bool = False) -> Trajectory:
    findings = Findings()
    system, question, episode = _taken_apart(row["messages"], findings)
    kept = {"form": "gpt", "closing": episode.closing}
    trajectory = sample(
        source, number, question=question, episode=episode, findings=findings, facts=kept, closes=closes, system=system
    )  # fmt: skip
    if _rebuilt(trajectory, kept) == row:
        return trajectory
    return replace(trajectory, meta={**trajectory.meta, RELEASED: {**facts(trajectory), "raw": dict(row)}})


def _taken_apart(messages: Sequence[Mapping[str, Any]], findings: Findings) -> tuple[str, str, Episode]:
    system: list[str] = []
    question: list[str] = []
    steps: list[Step] = []
    closings: list[str] = []
    for message in messages:
        role, text = role_of(message.get("role")), text_of(message.get("content"))
        heard = text.removeprefix(_OBSERVATION).removeprefix(" ")
        if text.startswith(_OBSERVATION) and CLOSING.match(heard):
            closings.append(heard)
        elif role == "system":
            system.append(text)
        elif role == "assistant":
            spoken = _turn(text, question, steps, findings)
            steps.append(replace(spoken, weight=weight_of(message)))
        elif not steps:
            question.append(text)
        else:
            _observe(steps, heard)
    closing = closings[-1] if closings else None
    return "\n\n".join(system), "\n\n".join(question), Episode("", tuple(steps), closing, len(closings))


def _turn(text: str, question: list[str], steps: list[Step], findings: Findings) -> Step:
    """A turn; without a question before it, its first line is the question where it is none of ReAct's."""
    if not question and not steps and not text.startswith(("Thought", "Action")):
        asked, _, text = text.partition("\n")
        findings.add("question-in-turn", asked)
        question.append(asked)
    return read_turn(text)


def _observe(steps: list[Step], text: str) -> None:
    last = steps[-1]
    steps[-1] = replace(last, observation=text if last.observation is None else f"{last.observation}\n{text}")


def _rebuilt(trajectory: Trajectory, kept: Mapping[str, Any]) -> dict[str, Any]:
    messages = [message for message, _ in _messages(trajectory, [step.text for step in trajectory.steps])]
    closing = kept.get("closing")
    return {"messages": messages if closing is None else [*messages, _heard(closing)]}


def _messages(trajectory: Trajectory, said: Sequence[str]) -> list[tuple[dict[str, Any], Step | None]]:
    system = trajectory.meta.get("system")
    messages: list[tuple[dict[str, Any], Step | None]] = []
    if system:
        messages.append(({"role": "system", "content": str(system)}, None))
    messages.append(({"role": "user", "content": trajectory.example.question}, None))
    for text, step in zip(said, trajectory.steps, strict=True):
        if text or step.observation is None:
            messages.append(({"role": "assistant", "content": text}, step))
        if step.observation is not None:
            messages.append((_heard(step.observation), None))
    return messages


def _heard(text: str) -> dict[str, Any]:
    return {"role": "user", "content": f"{_OBSERVATION} {text}"}


def _weighed(message: dict[str, Any], step: Step | None) -> dict[str, Any]:
    return message if step is None or step.weight == 1.0 else {**message, "weight": step.weight}
