"""ReAct episodes in one text (``Thought:``, ``Action:``, ``Observation:`` at the beginnings of lines) to steps.

Invariant: total; each step keeps the words of its turn verbatim (``text``), so that the text can be built again from the
steps and its last line. Lines before the first mark are handed back, not interpreted. What an observation says is never
an action, as far as one text can tell them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fireact.recording.text import read
from fireact.render.react import ReActRenderer
from fireact.types import FINISH, Action, Step

MARK = re.compile(r"^(Thought|Action|Observation)(?: ?\d+)?:[ \t]?", re.MULTILINE)
CLOSING = re.compile(r"Episode finished, reward = (\w+)\.?[ \t]*\Z")
_LANGCHAIN = re.compile(r"^[ \t]*(?:Action ?\d* Input|Final Answer) ?\d*:", re.MULTILINE)
_ANSWER = re.compile(r"\b[Aa]nswer(?: is)?:?\s+(?P<answer>[^.\n]+)\.?\s*\Z")
_PARSER = ReActRenderer()


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode's text taken apart: what stands before it, its steps, and its closing line (without the mark)."""

    before: str
    steps: tuple[Step, ...]
    closing: str | None = None
    closings: int = 0


def read_episode(text: str) -> Episode:
    """Take the text of an episode apart."""
    marks = list(MARK.finditer(text))
    before = text[: marks[0].start()] if marks else text
    steps: list[Step] = []
    closings: list[str] = []
    words: list[str] = []
    for at, mark in enumerate(marks):
        end = marks[at + 1].start() if at + 1 < len(marks) else len(text)
        if mark[1] != "Observation":
            words.append(text[mark.start() : end])
            continue
        heard = text[mark.end() : end].removesuffix("\n")
        closing = CLOSING.match(heard)
        if words:
            steps.append(replace(read_turn("".join(words).removesuffix("\n")), observation=None if closing else heard))
            words = []
        elif not closing and steps:
            steps[-1] = replace(steps[-1], observation=f"{steps[-1].observation or ''}\n{heard}")
        closings += [heard] if closing else []
    if words:
        steps.append(read_turn("".join(words).removesuffix("\n")))
    return Episode(before, tuple(steps), closings[-1] if closings else None, len(closings))


def read_turn(text: str) -> Step:
    """One turn's words to a step; numbers after ``Thought`` and ``Action`` are allowed, as is LangChain's form."""
    step = _PARSER.parse(text)
    if step.action is None and _LANGCHAIN.search(text):
        (other, *more) = read(text, coded=False)
        step = step if other.action is None or more else other
    return step


def reward_of(closing: str | None) -> float | None:
    """The reward that a closing line tells (True and 1 are 1), or None."""
    match = CLOSING.match(closing or "")
    if match is None:
        return None
    return {"True": 1.0, "1": 1.0, "False": 0.0, "0": 0.0}.get(match[1])


def thought_out_of_answer(step: Step) -> Step | None:
    """The step with thought and answer told apart, where the LM wrote ``finish[Thought: ... Answer: ...]``; else None."""
    action = step.action
    if action is None or action.name != FINISH:
        return None
    inside = str(action.arguments.get("answer", ""))
    if not inside.startswith("Thought:"):
        return None
    thought = inside.removeprefix("Thought:").strip()
    match = _ANSWER.search(thought)
    answer = match["answer"].strip() if match else thought
    return replace(step, thought=thought, action=Action(FINISH, {"answer": answer}))
