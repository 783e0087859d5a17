"""The ``tool_calls`` renderer: thoughts as text, actions as native tool calls, observations as messages of the tool.

    user       the question
    assistant  thought, and calls of tools (finish is one)
    tool       the observation

The student's chat template decides how a call is written (``chat``). Invariant: the steps that ``read`` returns have
the same structure as in text ReAct, and reading is total. A completion without native calls is read as text: as tags
(``<tool_call>{...}</tool_call>``), else as bare JSON (``{"name": ..., "parameters": ...}``), else as text ReAct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from fireact.render.react import ReActRenderer, is_unspoken, render_call, student_message
from fireact.types import Action, Completion, Message, Step, Trajectory
from fireact.wire.chat_completions import write_message
from fireact.wire.dialect import number_calls
from fireact.wire.reasoning import strip_thinking
from fireact.wire.text_calls import find_calls

_INVENTED = re.compile(r"<tool_response>|^[ \t]*Observation(?:[ \t]*\d+)?:", re.MULTILINE)
_LITTER = re.compile(r"<\|python_tag\|>|</?tool_call>|```(?:json)?")


class ToolCallsRenderer:
    """Renders steps as messages with tool calls, and reads completions with tool calls."""

    name = "tool_calls"
    native = True

    def prompt(
        self,
        question: str,
        steps: Sequence[Step] = (),
        *,
        instructions: str = "",
        examples: Sequence[tuple[str, Sequence[Step]]] = (),
    ) -> list[Message]:
        """The messages that ask for the next turn."""
        messages = [Message("system", instructions)] if instructions else []
        for example_question, example_steps in examples:
            messages += _render_episode(example_question, example_steps)
        return messages + _render_episode(question, steps)

    def parse(self, text: str) -> Step:
        """Read a text without native calls: its first call."""
        return _read_text(text)[0]

    def read(self, completion: Completion) -> list[Step]:
        """One step a call; the first has the thought, the others are joined to it."""
        if not completion.calls:
            return _read_text(completion.text)
        first_call, *later_calls = completion.calls
        content = completion.text.strip() or completion.reasoning.strip()  # many write no text beside a call
        text = "\n".join([content, *map(render_call, completion.calls)]).strip()
        return [
            Step(_parse_thought(content), first_call, None, text, extra=completion.extra),
            *_joined_steps(later_calls),
        ]

    def sample(self, trajectory: Trajectory) -> list[Message]:
        """A trajectory as training messages; nothing follows the student's last turn."""
        messages = _render_episode(trajectory.example.question, trajectory.steps)
        while messages[-1].role != "assistant" and len(messages) > 1:
            messages.pop()
        return messages

    def export(self, trajectory: Trajectory) -> dict[str, Any]:
        """The messages in the form of OpenAI-compatible endpoints; each observation has the id of its call."""
        return {"messages": list(export_messages(_render_episode(trajectory.example.question, trajectory.steps)))}


def _render_episode(question: str, steps: Sequence[Step]) -> list[Message]:
    messages = [Message("user", question)]
    for turn in group_joined_steps(steps):
        calls = tuple(step.action for step in turn if step.action is not None)
        content = turn[0].thought if calls else turn[0].text
        if not is_unspoken(turn[0]):
            messages.append(student_message(content.strip(), *turn, calls=calls))
        for step in turn:
            if step.observation is not None:
                name = "" if step.action is None else step.action.name
                messages.append(Message("tool" if name else "user", step.observation, name=name))
    return messages


def group_joined_steps(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps grouped by the turn of the LM in which they were written."""
    groups: list[list[Step]] = []
    for step in steps:
        if step.joined and groups:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def export_messages(messages: Sequence[Message], *, marked: bool = False) -> Iterator[dict[str, Any]]:
    """Messages in OpenAI's form, with numbered calls.

    With ``marked``, each message says whether it is trained, and its weight where that is not 1.
    """
    for message, numbered in zip(messages, number_calls(messages, named=True), strict=True):
        row = {"role": message.role, "content": message.content, **write_message(numbered)}
        if marked:
            row["train"] = message.train
            row |= {"weight": message.weight} if message.weight != 1 else {}
        yield row


def _read_text(text: str) -> list[Step]:
    body = strip_thinking(text)
    invented = _INVENTED.search(body)
    body = body[: invented.start()] if invented else body
    calls = find_calls(body)
    if not calls:
        step = ReActRenderer().parse(text)
        return [step if step.action else Step(_parse_thought(body), None, None, text)]
    first_position, first_action = calls[0]
    return [
        Step(_parse_thought(body[:first_position]), first_action, None, text),
        *_joined_steps([action for _, action in calls[1:]]),
    ]


def _joined_steps(actions: Sequence[Action]) -> list[Step]:
    return [Step(thought="", action=action, observation=None, text="", joined=True) for action in actions]


def _parse_thought(text: str) -> str:
    return _LITTER.sub("", strip_thinking(text)).strip().removeprefix("Thought:").strip()
