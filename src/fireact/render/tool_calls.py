"""The ``tool_calls`` renderer: thoughts as text, actions as native tool calls, observations as messages of the tool.

    user       the question
    assistant  thought, and calls of tools (finish is one)
    tool       the observation

The student's chat template decides how a call is written (``chat``). Invariant: the steps that ``read`` returns have
the same structure as in text ReAct, and reading is total. A completion without native calls is read as text: as tags
(``<tool_call>{...}</tool_call>``), else as bare JSON (``{"name": ..., "parameters": ...}``), else as text ReAct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.render.react import ReActRenderer, render_call, strip_thinking, student_message
from fireact.types import FINISH, Action, Completion, Message, Step, Trajectory

_TAG = re.compile(r"<tool_call>")
_OBJECT = re.compile(r'\{\s*"(?:name|type|function|parameters|arguments|id)"')
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
        text = "\n".join([completion.text, *map(render_call, completion.calls)]).strip()
        steps = [Step(thought=_parse_thought(completion.text), action=first_call, observation=None, text=text)]
        return steps + _joined_steps(later_calls)

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
    call_count, answered_count = 0, 0
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            answered_count = call_count
            row["tool_calls"] = [
                {"id": f"call{call_count + number:05d}", "type": "function", "function": _function_entry(call)}
                for number, call in enumerate(message.calls, 1)
            ]
            call_count += len(message.calls)
        if message.role == "tool":
            answered_count += 1
            row |= {"tool_call_id": f"call{answered_count:05d}", "name": message.name}
        if marked:
            row["train"] = message.train
            row |= {"weight": message.weight} if message.weight != 1 else {}
        yield row


def _function_entry(action: Action) -> dict[str, str]:
    return {"name": action.name, "arguments": json.dumps(dict(action.arguments), ensure_ascii=False)}


def _read_text(text: str) -> list[Step]:
    body = strip_thinking(text)
    invented = _INVENTED.search(body)
    body = body[: invented.start()] if invented else body
    calls = _find_calls(body)
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


def _find_calls(text: str) -> list[tuple[int, Action]]:
    """The calls in a text with their positions: those in tags, or else those that are bare JSON."""
    tags = [(tag.start(), tag.end()) for tag in _TAG.finditer(text)]
    objects = [(match.start(), match.start()) for match in _OBJECT.finditer(text)]
    calls: list[tuple[int, Action]] = []
    read_until = 0
    for start, begin in tags or objects:
        if start < read_until:
            continue  # an object inside a call that was read already
        value, length = _decode_json(text[begin:])
        action = _parse_action(value)
        if action is not None:
            calls.append((start, action))
            read_until = begin + length
    return calls


def _decode_json(text: str) -> tuple[Any, int]:
    bare = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(bare)
    except (ValueError, RecursionError):
        return None, 0
    return value, len(text) - len(bare) + end


def _parse_action(value: Any) -> Action | None:
    inner = value.get("function") if isinstance(value, dict) else None
    value = inner if isinstance(inner, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    argument_values = [value[key] for key in ("arguments", "parameters") if key in value]
    if not argument_values or not value["name"].strip():
        return None
    name = value["name"].strip()
    return Action(FINISH if name.lower() == FINISH else name, _parse_arguments(argument_values[0]))


def _parse_arguments(arguments: Any) -> Mapping[str, Any]:
    """The arguments as a mapping: from an object, from one as JSON text, from None, or else as ``input``."""
    if isinstance(arguments, str):
        value, _ = _decode_json(arguments)
        arguments = value if isinstance(value, dict) else arguments
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"input": arguments}


def _parse_thought(text: str) -> str:
    return _LITTER.sub("", strip_thinking(text)).strip().removeprefix("Thought:").strip()
