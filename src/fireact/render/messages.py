"""Chat messages with native tool calls (OpenAI's wire form, as plain dicts) to steps and back: the one place for both.

Invariant: ``steps_from_messages`` is total, it raises for no list of mappings; and reading what ``messages_from_steps``
wrote gives the same thoughts, actions, observations, weights and turns. A last message without calls is the answer; a
reply of the user is the observation of a step without action. It knows no files and no tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.types import FINISH, Action, Step

FINISH_SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": FINISH,
        "description": "gives the answer, as short as possible, and ends the task",
        "parameters": {
            "type": "object",
            "properties": {"answer": {"type": "string", "description": "the answer"}},
            "required": ["answer"],
        },
    },
}
"""The finish action as a tool: at inference with native calls, and in files of episodes that end in a call of it."""

_ROLES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "agent": "assistant", "function_call": "assistant", "developer": "system", "function": "tool", "observation": "tool",
    "tool_response": "tool", "ipython": "tool", "tool-response": "tool",
}  # fmt: skip
_THOUGHT = re.compile(r"\A<think>\n(.*?)\n</think>\n\n(.*)\Z", re.DOTALL)
_INLINE = re.compile(r"\A\s*<think>(.*?)</think>\s*(.*)\Z", re.DOTALL)
_REASONING = ("reasoning", "thinking")
_TAGGED = re.compile(r"<tool_call>(?:(?:(?!<tool_call>).)*?</tool_call>|\s*[{<][^\n]*)", re.DOTALL)
"""A tagged call that nobody took out of the words: a closed one, or one that was cut off."""


def role_of(name: Any) -> str:
    """The role that a name of any dialect means: system, user, assistant or tool (user where it is unknown)."""
    role = _ROLES.get(str(name), str(name))
    return role if role in ("system", "user", "assistant", "tool") else "user"


def steps_from_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str, tuple[Step, ...]]:
    """The question, the system prompt and the steps of a conversation.

    Several calls of one turn become several steps, of which all but the first are ``joined``. Results answer calls by
    ``tool_call_id``, or in order. Arguments that are no JSON object become the one argument ``input``.
    """
    reading = _Reading()
    for message in messages:
        reading.add(message)
    return "\n\n".join(reading.question), "\n\n".join(reading.system), _ended(reading.steps)


def messages_from_steps(question: str, steps: Sequence[Step], *, system: str = "") -> list[dict[str, Any]]:
    """The conversation of an episode; arguments are JSON strings, ids count the calls (``call00000``).

    The finish action is a plain last message where the LM's words were the answer alone, else a call of ``finish``.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}] if question else []
    start = 0
    for turn in turns(steps):
        messages += _turn(turn, start, last=start + len(turn) == len(steps))
        start += len(turn)
    return messages


def weight_of(message: Mapping[str, Any]) -> float:
    """How much of a message is learned, as it says itself; 1 where it does not say."""
    weight = message.get("weight", message.get("loss_weight"))
    return float(weight) if isinstance(weight, int | float) else 1.0


def unread_calls(message: Mapping[str, Any]) -> list[str]:
    """What an assistant's message holds of calls that cannot be read: torn arguments, a list of them, tags among the words,

    and what a reader left under ``unread``.
    """
    found = [str(message["unread"])] if message.get("unread") else []
    for call in [*_listed(message.get("tool_calls")), message.get("function_call")]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        told = inner.get("arguments", inner.get("parameters")) if isinstance(inner, Mapping) else None
        value = _json(told, told) if isinstance(told, str) else told
        if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith(("{", "["))):
            found.append(text_of(told) if isinstance(told, str) else json.dumps(told, ensure_ascii=False))
    content = message.get("content", message.get("value"))
    tags = (match[0].removeprefix("<tool_call>") for match in _TAGGED.finditer(text_of(content)))
    return [*found, *(tag.removesuffix("</tool_call>").strip() for tag in tags)]


def turns(steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """The steps by turn of the LM: a step that is ``joined`` shares the turn of the one before it."""
    group: list[Step] = []
    for step in steps:
        if group and not (step.joined and step.action is not None and group[-1].action is not None):
            yield tuple(group)
            group = []
        group.append(step)
    if group:
        yield tuple(group)


def schemas(tools: Any) -> list[dict[str, Any]]:
    """Tool schemas in OpenAI's form from any common one: wrapped or bare, ``input_schema``, a list or its JSON text."""
    if isinstance(tools, str):
        tools = _json(tools, [])
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        return []
    return [_schema(tool) for tool in tools if isinstance(tool, Mapping)]


def inferred_schemas(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Schemas that fit the calls of the steps, for episodes that come without; descriptions are empty."""
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        if step.action is not None:
            properties = found.setdefault(step.action.name, {})
            for name, value in step.action.arguments.items():
                properties.setdefault(name, {"type": _type(value)})
    return [
        FINISH_SCHEMA if name == FINISH else _schema({"name": name, "parameters": {"properties": properties}})
        for name, properties in found.items()
    ]


@dataclass(slots=True)
class _Reading:
    """What is known of a conversation while it is read: ``waiting`` are the calls (step, id) without result."""

    question: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    waiting: list[tuple[int, str]] = field(default_factory=list)

    def add(self, message: Mapping[str, Any]) -> None:
        role = role_of(message.get("role", message.get("from")))
        if role == "assistant":
            self._assistant(message)
            return
        content = text_of(message.get("content", message.get("value")))
        if role == "system":
            self.system += [content] if content else []
        elif role == "tool":
            self._result(content, str(message.get("tool_call_id") or ""))
        elif not self.steps:
            self.question.append(content)
        else:
            self._said(content)

    def _assistant(self, message: Mapping[str, Any]) -> None:
        reasoning, content, calls = _parts(message)
        words = f"<think>\n{reasoning}\n</think>\n\n{content}" if reasoning else content
        weight = weight_of(message)
        step = Step(_together(reasoning, content), None, None, words, weight=weight)
        self.waiting = []
        if not calls:
            self.steps.append(step)
        for index, (action, call_id) in enumerate(calls):
            self.waiting.append((len(self.steps), call_id))
            joined = Step("", action, None, "", joined=True, weight=weight)
            self.steps.append(joined if index else replace(step, action=action))

    def _result(self, content: str, call_id: str) -> None:
        results = [] if call_id or len(self.waiting) < 2 else _bundled(content)
        if len(results) == len(self.waiting) > 1:
            for result in results:
                self._result(result, "")
            return
        known = [at for at, (_, waiting) in enumerate(self.waiting) if call_id and waiting == call_id]
        if self.waiting:
            step, _ = self.waiting.pop(known[0] if known else 0)
            self.steps[step] = replace(self.steps[step], observation=content)
        else:
            self._said(content)

    def _said(self, content: str) -> None:
        last = self.steps[-1] if self.steps else None
        if last is not None and last.action is None and last.observation is None:
            self.steps[-1] = replace(last, observation=content)
        else:
            self.steps.append(Step("", None, content, ""))


def _bundled(content: str) -> list[str]:
    """The results of several calls that one message holds as a JSON list of objects with ``content``; else none."""
    bundle = _json(content, None) if content.startswith("[") else None
    if not isinstance(bundle, list) or not all(isinstance(item, Mapping) and "content" in item for item in bundle):
        return []
    return [text_of(item["content"]) for item in bundle]


def _ended(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with plain last words as the answer."""
    if not steps or steps[-1].action is not None or steps[-1].observation is not None:
        return tuple(steps)
    last = steps[-1]
    match = _THOUGHT.match(last.text)
    thought, answer = match.groups() if match else ("", last.text)
    if not answer:
        return tuple(steps)
    return (*steps[:-1], replace(last, thought=thought, action=Action(FINISH, {"answer": answer})))


def _turn(turn: Sequence[Step], start: int, *, last: bool) -> list[dict[str, Any]]:
    first, weight = turn[0], min(step.weight for step in turn)
    if first.action is None:
        said = [] if first.observation is None else [{"role": "user", "content": str(first.observation)}]
        unspoken = said and not first.text and not first.thought
        return said if unspoken else [_assistant(*_words(first), first.weight), *said]
    plain = _plain_answer(first) if last and len(turn) == 1 else None
    if plain is not None:
        return [_assistant(*plain, first.weight)]
    reasoning, content = _words(first)
    rest = [step.thought for step in turn[1:]]
    message = _assistant(reasoning, _together(content, *rest), weight)
    message["tool_calls"] = [_call(step.action, start + at) for at, step in enumerate(turn) if step.action is not None]
    results = [_result(step, start + at) for at, step in enumerate(turn) if step.observation is not None or not last]
    return [message, *results]


def _assistant(reasoning: str, content: str, weight: float) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if weight != 1.0:
        message["weight"] = weight
    return message


def _call(action: Action, number: int) -> dict[str, Any]:
    arguments = json.dumps(dict(action.arguments), ensure_ascii=False)
    return {
        "id": f"call{number:05d}", "type": "function", "function": {"name": action.name, "arguments": arguments},
    }  # fmt: skip


def _result(step: Step, number: int) -> dict[str, Any]:
    name = step.action.name if step.action is not None else ""
    content = "" if step.observation is None else str(step.observation)
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": name, "content": content}


def _words(step: Step) -> tuple[str, str]:
    """What the LM reasoned and what it said in a turn, told apart where its own words tell them apart."""
    match = _THOUGHT.match(step.text)
    if match and _together(match[1], match[2]) == step.thought:
        return match[1], match[2]
    marked = step.text.strip().removeprefix("Thought:").strip() == step.thought.strip()
    return "", step.thought if step.action is not None or marked else step.text or step.thought


def _plain_answer(step: Step) -> tuple[str, str] | None:
    action = step.action
    if action is None or action.name != FINISH or set(action.arguments) != {"answer"} or step.observation is not None:
        return None
    answer = action.arguments["answer"]
    match = _THOUGHT.match(step.text)
    if match and answer and (match[1], match[2]) == (step.thought, answer):
        return step.thought, answer
    plain = isinstance(answer, str) and bool(answer) and step.text == answer and not step.thought
    return ("", answer) if plain and not _INLINE.match(answer) else None


def _parts(message: Mapping[str, Any]) -> tuple[str, str, list[tuple[Action, str]]]:
    """The reasoning, the words and the calls (with their ids) of an assistant's message in any dialect."""
    content = message.get("content", message.get("value"))
    reasoning = text_of(message.get("reasoning_content") or message.get("reasoning") or "")
    calls = [call for call in _listed(message.get("tool_calls")) if isinstance(call, Mapping)]
    if isinstance(message.get("function_call"), Mapping):
        calls.append({"function": message["function_call"]})
    if isinstance(content, list):
        blocks = [block for block in content if isinstance(block, Mapping)]
        thoughts = [block for block in blocks if block.get("type") in _REASONING]
        reasoning = _together(reasoning, *map(_block, thoughts))
        calls += [found for block in blocks for found in _calls_in(block)]
        content = [block for block in content if not isinstance(block, Mapping) or block.get("type") not in _NOT_WORDS]
    words = text_of(content)
    match = None if reasoning else _INLINE.match(words)
    if match:
        reasoning, words = match[1].strip(), match[2]
    return reasoning, words, [_action(call) for call in calls]


_NOT_WORDS = (*_REASONING, "tool_call", "tool_use")


def _calls_in(block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if block.get("type") == "tool_use":
        return [{"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}]
    if block.get("type") == "tool_call":
        value = _json(block["value"], {}) if isinstance(block.get("value"), str) else block.get("value")
        return [value] if isinstance(value, Mapping) else []
    return []


def _action(call: Mapping[str, Any]) -> tuple[Action, str]:
    inner = call.get("function")
    values: Mapping[str, Any] = inner if isinstance(inner, Mapping) else call
    name = inner if isinstance(inner, str) else values.get("name")
    arguments = values.get("arguments", values.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments, arguments) if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        arguments = {} if arguments is None else {"input": arguments}
    return Action(str(name or ""), dict(arguments)), str(call.get("id") or "")


def text_of(content: Any) -> str:
    """The text of a message's content: a string, nothing, or blocks (one that is no text leaves its kind in brackets)."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(block if isinstance(block, str) else _block(block) for block in content)
    return json.dumps(content, ensure_ascii=False)


def _block(block: Any) -> str:
    if not isinstance(block, Mapping):
        return json.dumps(block, ensure_ascii=False)
    for key in ("text", "value", "reasoning", "thinking", "content"):
        if isinstance(block.get(key), str):
            return str(block[key])
    return f"[{block.get('type', 'block')}]"


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    inner = tool.get("function")
    values: Mapping[str, Any] = inner if isinstance(inner, Mapping) else tool
    parameters = values.get("parameters") or values.get("input_schema") or values.get("inputSchema") or {}
    if isinstance(parameters, str):
        parameters = _json(parameters, {})
    parameters = parameters if isinstance(parameters, Mapping) else {}
    function = {
        "name": str(values.get("name") or ""),
        "description": str(values.get("description") or ""),
        "parameters": {"type": "object", "properties": {}, **parameters},
    }
    return {"type": "function", "function": function}


def _type(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "string")


def _together(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _json(text: str, default: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default
