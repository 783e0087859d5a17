"""The ``react`` renderer: chat turns with text actions, the format in which the student is trained and run.

    user       the question
    assistant  Thought: ...
               Action: search[ ...]
    user       Observation: ...

Invariant: ``sample`` and ``prompt`` build every message with the same functions, so a training sample starts with
the prompt that inference sends; and ``parse`` is total: it returns a Step for every string, never raises, and never
reads an action from an observation. It does not know which tools exist: the method handles an unknown tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.types import FINISH, Action, Completion, Message, Step, Trajectory
from fireact.wire.reasoning import strip_thinking

ACTION = "Action:"
OBSERVATION = "Observation:"
REFLECT = "Reflect:"
REFLECTION = "Reflection:"
STOP = ("\nObservation", "\nQuestion:")
"""Strings at which a completion ends: an LM would go on with an invented observation."""

_PARAMETER = {FINISH: "answer", "search": "query"}
_MARK = re.compile(
    r"^[ \t]*(?:\**)(Thought|Action|Observation)(?:[ \t]*\d+)?[ \t]*(?:\**)[:：](?:\**)", re.MULTILINE | re.IGNORECASE
)
_CALL = re.compile(r"\s*`*([A-Za-z_][\w.-]*)[ \t]*\[", re.ASCII)
_NEXT_CALL = re.compile(r"(?<![\w.-])[\d.-]*+[A-Za-z_][\w.-]*+\[", re.ASCII)


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
            messages += _render_episode(example_question, example_steps)
        return messages + _render_episode(question, steps, goes_on=True)

    def read(self, completion: Completion) -> list[Step]:
        """The one step of a completion; reasoning apart from the text is the thought where the text holds none."""
        step = self.parse(completion.text)
        return [step if step.thought else replace(step, thought=completion.reasoning.strip())]

    def parse(self, text: str) -> Step:
        """Read a completion: its first thought and first action. The text from an invented observation on is cut."""
        body = strip_thinking(text)
        marks = list(_MARK.finditer(body))
        invented = next((mark.start() for mark in marks if _is_mark(mark, "observation")), len(body))
        marks = [mark for mark in marks if mark.start() < invented]
        action_index = next((index for index, mark in enumerate(marks) if _is_mark(mark, "action")), None)
        if action_index is None:
            return Step(thought=_parse_thought(body[:invented]), action=None, observation=None, text=text)
        end = marks[action_index + 1].start() if action_index + 1 < len(marks) else invented
        action = _parse_action(body[marks[action_index].end() : end])
        return Step(
            thought=_parse_thought(body[: marks[action_index].start()]), action=action, observation=None, text=text
        )

    def sample(self, trajectory: Trajectory) -> list[Message]:
        """A trajectory as training messages: ``train`` is set on the student's turns; the last one ends the sample."""
        messages = _render_episode(trajectory.example.question, trajectory.steps)
        return messages if messages[-1].role == "assistant" else messages[:-1]

    def export(self, trajectory: Trajectory) -> dict[str, Any]:
        """The whole episode as role and content, the form for fine-tuning OpenAI's models."""
        messages = _render_episode(trajectory.example.question, trajectory.steps)
        return {"messages": [{"role": message.role, "content": message.content} for message in messages]}


def student_message(content: str, *steps: Step, calls: tuple[Action, ...] = ()) -> Message:
    """The message of these steps, with the smallest of their weights; a weight of 0 makes the turn context only.

    A turn without a word or a call is never trained: the student would learn to say nothing.
    """
    weight = steps[0].weight if len(steps) == 1 else min(step.weight for step in steps)
    is_trained = weight > 0 and bool(content or calls)
    weight_of_loss = weight if weight > 0 else 1.0
    return Message("assistant", content, is_trained, calls, weight=weight_of_loss, extra=steps[0].extra)


def is_unspoken(step: Step) -> bool:
    """Whether a step is only what the user says after a turn that was answered already: the student says nothing."""
    return step.action is None and step.observation is not None and not (step.text + step.thought).strip()


def render_turn(step: Step) -> str:
    """A step as the student writes it: its thought, then its action (its text where it has no action).

    The argument follows the bracket after a space: subword tokenizers cut " Thai" and "Thai" differently, and a small
    student copies a name far better as the same tokens that it read (LOG.md has the figures).
    """
    if step.action is None:
        return step.text.strip()
    action = f"Action: {step.action.name}[ {render_argument(step.action)}]"
    return f"Thought: {step.thought}\n{action}" if step.thought else action


def render_call(action: Action) -> str:
    """The text form of an action: ``name[argument]``, or a JSON object inside the brackets for several arguments."""
    return f"{action.name}[{render_argument(action)}]"


def render_argument(action: Action) -> str:
    """The text between the brackets of an action's text form."""
    values = action.arguments
    only = values.get(_PARAMETER.get(action.name, "input"))
    if len(values) == 1 and isinstance(only, str):
        return only
    return json.dumps(dict(values), ensure_ascii=False)


def _render_episode(question: str, steps: Sequence[Step], *, goes_on: bool = False) -> list[Message]:
    """The messages of an episode; between two steps, a missing observation is rendered as an empty one."""
    messages = [Message("user", question)]
    for step_number, step in enumerate(steps, 1):
        if not is_unspoken(step):
            messages.append(student_message(render_turn(step), step))
        if step.observation is not None or goes_on or step_number < len(steps):
            observation_text = OBSERVATION if step.observation is None else f"{OBSERVATION} {step.observation}"
            messages.append(Message("user", observation_text))
    return messages


def _is_mark(mark: re.Match[str], word: str) -> bool:
    return mark.group(1).lower() == word


def _parse_thought(text: str) -> str:
    match = _MARK.match(text)
    return (text[match.end() :] if match else text).strip()


def _parse_action(text: str) -> Action | None:
    match = _CALL.match(text)
    if match is None:
        return None
    name = match.group(1).lower()
    return Action(name, _parse_arguments(name, _text_in_brackets(text[match.end() :]).strip()))


def _text_in_brackets(text: str) -> str:
    """The text up to the bracket that closes the call, or to the end of the line where none closes it."""
    last_bracket = text.rfind("]")
    if last_bracket < 0:
        return text.split("\n", 1)[0]
    closing_bracket = _find_closing_bracket(text)
    if closing_bracket is not None and _NEXT_CALL.search(text, closing_bracket + 1):
        return text[:closing_bracket]
    return text[:last_bracket]


def _find_closing_bracket(text: str) -> int | None:
    depth = 1
    for index, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth == 0:
            return index
    return None


def _parse_arguments(name: str, inside: str) -> Mapping[str, Any]:
    if inside.startswith("{"):
        try:
            values = json.loads(inside)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            return values
    return {_PARAMETER.get(name, "input"): inside}
