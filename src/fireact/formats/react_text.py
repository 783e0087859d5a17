"""ReAct episodes in one text (``Thought:``, ``Action:``, ``Observation:`` at the beginnings of lines) to steps.

Invariant: total; each step keeps its turn verbatim (``text``), so that the steps and the last line give the text back.
Lines before the first mark are returned, not interpreted. An observation is never read as an action, as far as one
text can tell them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fireact.recording.text import parse_turn
from fireact.render.react import ReActRenderer
from fireact.types import FINISH, Action, Step
from fireact.wire.reasoning import strip_thinking

MARK = re.compile(r"^(Thought|Action|Observation)(?: ?\d+)?[:：][ \t]?", re.MULTILINE)
CLOSING = re.compile(r"Episode finished, reward = (\w+)\.?[ \t]*\Z")
_LANGCHAIN = re.compile(
    r"^[ \t]*(?:(?:Action ?\d* Input|Final Answer) ?\d*:|Action ?\d*:\s*(?:```|\{))", re.MULTILINE | re.IGNORECASE
)
_WIDE_COLON = re.compile(r"^([ \t]*(?:Thought|Action|Action Input|Observation|Final Answer)[ \t]*\d*)：", re.MULTILINE)
_ANSWER = re.compile(r"\b[Aa]nswer(?: is)?:?\s+(?P<answer>[^.\n]+)\.?\s*\Z")
_PARSER = ReActRenderer()


@dataclass(frozen=True, slots=True)
class EpisodeText:
    """The parts of an episode's text: the text before it, its steps, and its closing line (without the mark)."""

    before: str
    steps: tuple[Step, ...]
    closing: str | None = None
    closings: int = 0


def parse_episode(text: str) -> EpisodeText:
    """Split the text of an episode into its parts."""
    marks = list(MARK.finditer(text))
    before = text[: marks[0].start()] if marks else text
    steps: list[Step] = []
    closings: list[str] = []
    words: list[str] = []
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        if mark[1] != "Observation":
            words.append(text[mark.start() : end])
            continue
        observation = text[mark.end() : end].removesuffix("\n")
        closing = CLOSING.match(observation)
        if words:
            steps.append(
                replace(
                    parse_react_turn("".join(words).removesuffix("\n")), observation=None if closing else observation
                )
            )
            words = []
        elif not closing and steps:
            steps[-1] = replace(steps[-1], observation=f"{steps[-1].observation or ''}\n{observation}")
        closings += [observation] if closing else []
    if words:
        steps.append(parse_react_turn("".join(words).removesuffix("\n")))
    return EpisodeText(before, tuple(steps), closings[-1] if closings else None, len(closings))


def parse_react_turn(text: str) -> Step:
    """The text of one turn as a step; ``Thought`` and ``Action`` may be numbered, and LangChain's forms are allowed."""
    step = _PARSER.parse(text)
    body = _WIDE_COLON.sub(r"\1:", strip_thinking(text))
    if step.action is None and _LANGCHAIN.search(body):
        (parsed, *extra) = parse_turn(body, coded=False)
        step = step if parsed.action is None or extra else replace(parsed, text=text)
    return step


def reward_of(closing: str | None) -> float | None:
    """The reward in a closing line (True and 1 are 1), or None."""
    match = CLOSING.match(closing or "")
    if match is None:
        return None
    return {"True": 1.0, "1": 1.0, "False": 0.0, "0": 0.0}.get(match[1])


def split_thought_from_answer(step: Step) -> Step | None:
    """The step with thought and answer separated if the LM wrote ``finish[Thought: ... Answer: ...]``, else None."""
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
