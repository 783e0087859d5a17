"""The ``tool_calls`` renderer: thoughts as text, actions as native tool calls, observations as messages of the tool.

    user       the question
    assistant  thought, and calls of tools (finish is one)
    tool       the observation

How a call is written is the business of the student's chat template (``chat``). Invariant: the steps that ``read`` gives
have the structure that text ReAct would give them; reading is total; a completion without calls is read as text: as
tags (``<tool_call>{...}</tool_call>``), as bare JSON (``{"name": ..., "parameters": ...}``), at last as text ReAct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.render.react import ReActRenderer, call, without_thinking, written_by_student
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
            messages += _episode(example_question, example_steps)
        return messages + _episode(question, steps)

    def parse(self, text: str) -> Step:
        """Read words without native calls: their first call."""
        return _read(text)[0]

    def read(self, completion: Completion) -> list[Step]:
        """One step a call, all but the first joined to it; the thought stands in the first."""
        if not completion.calls:
            return _read(completion.text)
        first, *rest = completion.calls
        text = "\n".join([completion.text, *map(call, completion.calls)]).strip()
        steps = [Step(thought=_thought(completion.text), action=first, observation=None, text=text)]
        return steps + _joined(rest)

    def sample(self, trajectory: Trajectory) -> list[Message]:
        """A trajectory as training messages; nothing follows the student's last turn."""
        messages = _episode(trajectory.example.question, trajectory.steps)
        while messages[-1].role != "assistant" and len(messages) > 1:
            messages.pop()
        return messages

    def export(self, trajectory: Trajectory) -> dict[str, Any]:
        """The messages as endpoints of OpenAI's form take them; each observation names the call that it answers."""
        return {"messages": list(exported(_episode(trajectory.example.question, trajectory.steps)))}


def _episode(question: str, steps: Sequence[Step]) -> list[Message]:
    messages = [Message("user", question)]
    for turn in turns(steps):
        calls = tuple(step.action for step in turn if step.action is not None)
        words = turn[0].thought if calls else turn[0].text
        messages.append(written_by_student(words.strip(), *turn, calls=calls))
        for step in turn:
            if step.observation is not None:
                name = "" if step.action is None else step.action.name
                messages.append(Message("tool" if name else "user", step.observation, name=name))
    return messages


def turns(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps by the turns of the LM that they were written in."""
    found: list[list[Step]] = []
    for step in steps:
        if step.joined and found:
            found[-1].append(step)
        else:
            found.append([step])
    return found


def exported(messages: Sequence[Message], *, marked: bool = False) -> Iterator[dict[str, Any]]:
    """Messages in OpenAI's form, their calls numbered; ``marked`` ones say whether they are trained, and with what weight where it is not 1."""
    made, answered = 0, 0
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            answered = made
            row["tool_calls"] = [
                {"id": f"call{made + n:05d}", "type": "function", "function": _function(one)}
                for n, one in enumerate(message.calls, 1)
            ]
            made += len(message.calls)
        if message.role == "tool":
            answered += 1
            row |= {"tool_call_id": f"call{answered:05d}", "name": message.name}
        if marked:
            row["train"] = message.train
            row |= {"weight": message.weight} if message.weight != 1 else {}
        yield row


def _function(action: Action) -> dict[str, str]:
    return {"name": action.name, "arguments": json.dumps(dict(action.arguments), ensure_ascii=False)}


def _read(text: str) -> list[Step]:
    body = without_thinking(text)
    invented = _INVENTED.search(body)
    body = body[: invented.start()] if invented else body
    found = _calls(body)
    if not found:
        step = ReActRenderer().parse(text)
        return [step if step.action else Step(_thought(body), None, None, text)]
    at, first = found[0]
    return [Step(_thought(body[:at]), first, None, text), *_joined([action for _, action in found[1:]])]


def _joined(actions: Sequence[Action]) -> list[Step]:
    return [Step(thought="", action=one, observation=None, text="", joined=True) for one in actions]


def _calls(text: str) -> list[tuple[int, Action]]:
    """The calls in a text with where they begin: those in tags, or else those that are bare JSON."""
    tags = [(tag.start(), tag.end()) for tag in _TAG.finditer(text)]
    objects = [(at.start(), at.start()) for at in _OBJECT.finditer(text)]
    found: list[tuple[int, Action]] = []
    done = 0
    for start, begin in tags or objects:
        if start < done:
            continue  # an object inside one that was read
        value, length = _decoded(text[begin:])
        action = _action(value)
        if action is not None:
            found.append((start, action))
            done = begin + length
    return found


def _decoded(text: str) -> tuple[Any, int]:
    bare = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(bare)
    except (ValueError, RecursionError):
        return None, 0
    return value, len(text) - len(bare) + end


def _action(value: Any) -> Action | None:
    inner = value.get("function") if isinstance(value, dict) else None
    value = inner if isinstance(inner, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given = [value[key] for key in ("arguments", "parameters") if key in value]
    if not given or not value["name"].strip():
        return None
    name = value["name"].strip()
    return Action(FINISH if name.lower() == FINISH else name, _arguments(given[0]))


def _arguments(given: Any) -> Mapping[str, Any]:
    """The arguments, whatever was given: an object, one as JSON text, nothing, or else an input."""
    if isinstance(given, str):
        value, _ = _decoded(given)
        given = value if isinstance(value, dict) else given
    if given is None:
        return {}
    return given if isinstance(given, dict) else {"input": given}


def _thought(text: str) -> str:
    return _LITTER.sub("", without_thinking(text)).strip().removeprefix("Thought:").strip()
