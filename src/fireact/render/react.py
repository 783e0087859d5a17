"""The ``react`` renderer: chat turns with text actions, the format the student is trained and run in.

    user       the question
    assistant  Thought: ...
               Action: search[ ...]
    user       Observation: ...

Invariant: ``sample`` and ``prompt`` build every message with the same functions, so a training sample starts with
the prompt that inference sends; and ``parse`` is total: it returns a Step for every string, never raises, and never
reads an action out of an observation. It does not know which tools exist: an unknown tool is the method's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.types import FINISH, Action, Completion, Message, Step, Trajectory

ACTION = "Action:"
OBSERVATION = "Observation:"
REFLECT = "Reflect:"
REFLECTION = "Reflection:"
STOP = ("\nObservation", "\nQuestion:")
"""Strings at which a completion ends: what follows would be invented, not observed."""

_PARAMETER = {FINISH: "answer", "search": "query"}
_MARK = re.compile(
    r"^[ \t]*(?:\**)(Thought|Action|Observation)(?:[ \t]*\d+)?[ \t]*(?:\**):(?:\**)", re.MULTILINE | re.IGNORECASE
)
_CALL = re.compile(r"\s*([A-Za-z_][\w.-]*)[ \t]*\[", re.ASCII)
_NEXT_CALL = re.compile(r"[A-Za-z_][\w.-]*\[", re.ASCII)
_THINKING = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


class ReActRenderer:
    """Renders and parses text ReAct (paper, section 3)."""

    name = "react"
    native = False

    def prompt(
        self,
        question: str,
        steps: Sequence[Step] = (),
        *,
        instructions: str = "",
        examples: Sequence[tuple[str, Sequence[Step]]] = (),
    ) -> list[Message]:
        """The messages that ask for step ``len(steps)``: instructions and examples only for a few-shot prompt."""
        messages = [Message("system", instructions)] if instructions else []
        for example_question, example_steps in examples:
            messages += _episode(example_question, example_steps)
        return messages + _episode(question, steps, goes_on=True)

    def read(self, completion: Completion) -> list[Step]:
        """The one step of a completion."""
        return [self.parse(completion.text)]

    def parse(self, text: str) -> Step:
        """Read one completion: its first thought and first action; everything from an invented observation on is cut."""
        body = without_thinking(text)
        marks = list(_MARK.finditer(body))
        invented = next((mark.start() for mark in marks if _is(mark, "observation")), len(body))
        marks = [mark for mark in marks if mark.start() < invented]
        at = next((index for index, mark in enumerate(marks) if _is(mark, "action")), None)
        if at is None:
            return Step(thought=_thought(body[:invented]), action=None, observation=None, text=text)
        end = marks[at + 1].start() if at + 1 < len(marks) else invented
        action = _action(body[marks[at].end() : end])
        return Step(thought=_thought(body[: marks[at].start()]), action=action, observation=None, text=text)

    def sample(self, trajectory: Trajectory) -> list[Message]:
        """A trajectory as training messages: ``train`` is set on the student's turns, and nothing follows the last one."""
        messages = _episode(trajectory.example.question, trajectory.steps)
        return messages if messages[-1].role == "assistant" else messages[:-1]

    def export(self, trajectory: Trajectory) -> dict[str, Any]:
        """The whole episode as role and content, the form in which OpenAI's models are fine-tuned."""
        messages = _episode(trajectory.example.question, trajectory.steps)
        return {"messages": [{"role": message.role, "content": message.content} for message in messages]}


def written_by_student(content: str, *steps: Step, calls: tuple[Action, ...] = ()) -> Message:
    """The turn of these steps, learned with the least of their weights: one of 0 keeps the whole turn as context only."""
    weight = steps[0].weight if len(steps) == 1 else min(step.weight for step in steps)
    return Message("assistant", content, train=weight > 0, calls=calls, weight=weight if weight > 0 else 1.0)


def without_thinking(text: str) -> str:
    """The text without the hidden reasoning that some models put before it."""
    return _THINKING.sub("", text, count=1)


def turn(step: Step) -> str:
    """A step as the student writes it: its thought, then its action (its own words where it has no action).

    The argument follows the bracket after a space: subword tokenizers cut " Thai" and "Thai" differently, and a small
    student copies a name far better in the tokens that it read it in (LOG.md has the figures).
    """
    if step.action is None:
        return step.text.strip()
    action = f"Action: {step.action.name}[ {argument(step.action)}]"
    return f"Thought: {step.thought}\n{action}" if step.thought else action


def call(action: Action) -> str:
    """The text form of an action: ``name[argument]``, or a JSON object inside the brackets for several arguments."""
    return f"{action.name}[{argument(action)}]"


def argument(action: Action) -> str:
    """What stands between the brackets of an action's text form."""
    values = action.arguments
    only = values.get(_PARAMETER.get(action.name, "input"))
    if len(values) == 1 and isinstance(only, str):
        return only
    return json.dumps(dict(values), ensure_ascii=False)


def _episode(question: str, steps: Sequence[Step], *, goes_on: bool = False) -> list[Message]:
    """The turns of an episode; a step without an observation, which another one follows, is answered by an empty one."""
    messages = [Message("user", question)]
    for at, step in enumerate(steps, 1):
        messages.append(written_by_student(turn(step), step))
        if step.observation is not None or goes_on or at < len(steps):
            said = OBSERVATION if step.observation is None else f"{OBSERVATION} {step.observation}"
            messages.append(Message("user", said))
    return messages


def _is(mark: re.Match[str], word: str) -> bool:
    return mark.group(1).lower() == word


def _thought(text: str) -> str:
    match = _MARK.match(text)
    return (text[match.end() :] if match else text).strip()


def _action(text: str) -> Action | None:
    match = _CALL.match(text)
    if match is None:
        return None
    name = match.group(1).lower()
    return Action(name, _arguments(name, _inside(text[match.end() :]).strip()))


def _inside(text: str) -> str:
    """The text up to the bracket that closes the call; up to the line's end where nothing closes it."""
    last = text.rfind("]")
    if last < 0:
        return text.split("\n", 1)[0]
    first = _balanced(text)
    if first is not None and _NEXT_CALL.search(text, first + 1):
        return text[:first]
    return text[:last]


def _balanced(text: str) -> int | None:
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth == 0:
            return index
    return None


def _arguments(name: str, inside: str) -> Mapping[str, Any]:
    if inside.startswith("{"):
        try:
            values = json.loads(inside)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            return values
    return {_PARAMETER.get(name, "input"): inside}
