"""Chat messages with native tool calls (OpenAI's form, as plain dicts) to steps and back.

Invariant: ``steps_from_messages`` is total, it raises for no list of mappings; and reading what ``messages_from_steps``
wrote gives the same thoughts, actions, observations, weights and turns. A last message without calls is the answer; a
user's reply is the observation of a step without action. This module knows no files and no tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.types import FINISH, Action, Step
from fireact.wire.chat_completions import find_torn_arguments, read_calls_of_any_shape, write_message
from fireact.wire.dialect import ToolCall, WireMessage, make_call_id
from fireact.wire.fields import parse_json
from fireact.wire.reasoning import REASONING_BLOCKS, split_reasoning, unwrap_reasoning, wrap_reasoning
from fireact.wire.roles import normalise_role
from fireact.wire.text_calls import find_tags


def steps_from_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str, tuple[Step, ...]]:
    """The question, the system prompt and the steps of a conversation.

    Several calls of one turn become several steps, all but the first ``joined``. Results match calls by
    ``tool_call_id``, or in order. Arguments that are no JSON object become the one argument ``input``.
    """
    reading = _ConversationReader()
    for message in messages:
        reading.add(message)
    return "\n\n".join(reading.question), "\n\n".join(reading.system), _with_final_answer(reading.steps)


def messages_from_steps(question: str, steps: Sequence[Step], *, system: str = "") -> list[dict[str, Any]]:
    """The conversation of an episode; arguments are JSON strings, ids count the calls (``call00000``).

    The finish action becomes a plain last message where the LM wrote only the answer, else a call of ``finish``.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}] if question else []
    start = 0
    for turn in split_into_turns(steps):
        messages += _turn_messages(turn, start, is_last=start + len(turn) == len(steps))
        start += len(turn)
    return messages


def message_weight(message: Mapping[str, Any]) -> float:
    """The loss weight in a message; 1 where it has none."""
    weight = message.get("weight", message.get("loss_weight"))
    return float(weight) if isinstance(weight, int | float) else 1.0


def find_unreadable_calls(message: Mapping[str, Any]) -> list[str]:
    """The calls in an assistant's message that cannot be read.

    They are torn arguments, a list of arguments, tags in the text, and what a reader put under ``unread``.
    """
    unread = [str(message["unread"])] if message.get("unread") else []
    text = content_text(message.get("content", message.get("value")))
    return [*unread, *find_torn_arguments(message), *find_tags(text)]


def split_into_turns(steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """The steps grouped by turn of the LM: a ``joined`` step shares the turn of the step before it."""
    group: list[Step] = []
    for step in steps:
        if group and not (step.joined and step.action is not None and group[-1].action is not None):
            yield tuple(group)
            group = []
        group.append(step)
    if group:
        yield tuple(group)


@dataclass(slots=True)
class _ConversationReader:
    """The state while a conversation is read; ``pending_calls`` are the calls (step, id) without a result."""

    question: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    pending_calls: list[tuple[int, str]] = field(default_factory=list)

    def add(self, message: Mapping[str, Any]) -> None:
        role = normalise_role(message.get("role", message.get("from")))
        if role == "assistant":
            self._add_assistant_message(message)
            return
        content = content_text(message.get("content", message.get("value")))
        if role == "system":
            self.system += [content] if content else []
        elif role == "tool":
            self._add_result(content, str(message.get("tool_call_id") or ""))
        elif not self.steps:
            self.question.append(content)
        else:
            self._add_user_reply(content)

    def _add_assistant_message(self, message: Mapping[str, Any]) -> None:
        reasoning, content, calls = _parse_assistant_message(message)
        text = wrap_reasoning(reasoning, content)
        weight = message_weight(message)
        step = Step(_join_texts(reasoning, content), None, None, text, weight=weight)
        self.pending_calls = []
        if not calls:
            self.steps.append(step)
        for index, (action, call_id) in enumerate(calls):
            self.pending_calls.append((len(self.steps), call_id))
            joined = Step("", action, None, "", joined=True, weight=weight)
            self.steps.append(joined if index else replace(step, action=action))

    def _add_result(self, content: str, call_id: str) -> None:
        results = [] if call_id or len(self.pending_calls) < 2 else _split_bundle(content)
        if len(results) == len(self.pending_calls) > 1:
            for result in results:
                self._add_result(result, "")
            return
        matching_positions = [
            position for position, (_, pending_id) in enumerate(self.pending_calls) if call_id and pending_id == call_id
        ]
        if self.pending_calls:
            step, _ = self.pending_calls.pop(matching_positions[0] if matching_positions else 0)
            self.steps[step] = replace(self.steps[step], observation=content)
        else:
            self._add_user_reply(content)

    def _add_user_reply(self, content: str) -> None:
        last_step = self.steps[-1] if self.steps else None
        if last_step is not None and last_step.action is None and last_step.observation is None:
            self.steps[-1] = replace(last_step, observation=content)
        else:
            self.steps.append(Step("", None, content, ""))


def _split_bundle(content: str) -> list[str]:
    """The results of several calls in one message (a JSON list of objects with ``content``); else an empty list."""
    bundle = parse_json(content) if content.startswith("[") else None
    if not isinstance(bundle, list) or not all(isinstance(item, Mapping) and "content" in item for item in bundle):
        return []
    return [content_text(item["content"]) for item in bundle]


def _with_final_answer(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, with a last step without action turned into a finish action."""
    if not steps or steps[-1].action is not None or steps[-1].observation is not None:
        return tuple(steps)
    last_step = steps[-1]
    thought, answer = unwrap_reasoning(last_step.text) or ("", last_step.text)
    if not answer:
        return tuple(steps)
    return (*steps[:-1], replace(last_step, thought=thought, action=Action(FINISH, {"answer": answer})))


def _turn_messages(turn: Sequence[Step], start: int, *, is_last: bool) -> list[dict[str, Any]]:
    first_step, weight = turn[0], min(step.weight for step in turn)
    if first_step.action is None:
        user_reply = (
            [] if first_step.observation is None else [{"role": "user", "content": str(first_step.observation)}]
        )
        unspoken = user_reply and not first_step.text and not first_step.thought
        return (
            user_reply
            if unspoken
            else [_assistant_message(*_reasoning_and_content(first_step), first_step.weight), *user_reply]
        )
    plain = _plain_answer(first_step) if is_last and len(turn) == 1 else None
    if plain is not None:
        return [_assistant_message(*plain, first_step.weight)]
    reasoning, content = _reasoning_and_content(first_step)
    later_thoughts = [step.thought for step in turn[1:]]
    calls = [ToolCall.from_action(step.action, start + n) for n, step in enumerate(turn) if step.action is not None]
    message = _assistant_message(reasoning, _join_texts(content, *later_thoughts), weight, calls)
    results = [
        _result_message(step, start + index)
        for index, step in enumerate(turn)
        if step.observation is not None or not is_last
    ]
    return [message, *results]


def _assistant_message(reasoning: str, content: str, weight: float, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    extra = {} if weight == 1.0 else {"weight": weight}
    return write_message(WireMessage("assistant", (content,), tuple(calls), reasoning=reasoning, extra=extra))


def _result_message(step: Step, number: int) -> dict[str, Any]:
    name = step.action.name if step.action is not None else ""
    content = "" if step.observation is None else str(step.observation)
    return write_message(WireMessage("tool", (content,), call_id=make_call_id(number), extra={"name": name}))


def _reasoning_and_content(step: Step) -> tuple[str, str]:
    """The reasoning and the content of a turn; the reasoning is empty where the text does not mark it."""
    wrapped = unwrap_reasoning(step.text)
    if wrapped and _join_texts(*wrapped) == step.thought:
        return wrapped
    marked = step.text.strip().removeprefix("Thought:").strip() == step.thought.strip()
    return "", step.thought if step.action is not None or marked else step.text or step.thought


def _plain_answer(step: Step) -> tuple[str, str] | None:
    action = step.action
    if action is None or action.name != FINISH or set(action.arguments) != {"answer"} or step.observation is not None:
        return None
    answer = action.arguments["answer"]
    if answer and unwrap_reasoning(step.text) == (step.thought, answer):
        return step.thought, answer
    plain = isinstance(answer, str) and bool(answer) and step.text == answer and not step.thought
    return ("", answer) if plain and not split_reasoning(answer) else None


def _parse_assistant_message(message: Mapping[str, Any]) -> tuple[str, str, list[tuple[Action, str]]]:
    """The reasoning, the text and the calls (with their ids) of an assistant's message in any dialect."""
    content = message.get("content", message.get("value"))
    reasoning = content_text(message.get("reasoning_content") or message.get("reasoning") or "")
    if isinstance(content, list):
        blocks = [block for block in content if isinstance(block, Mapping)]
        thoughts = [block for block in blocks if block.get("type") in REASONING_BLOCKS]
        reasoning = _join_texts(reasoning, *map(_block_text, thoughts))
        content = [block for block in content if not isinstance(block, Mapping) or block.get("type") not in _NOT_TEXT]
    text = content_text(content)
    split = None if reasoning else split_reasoning(text)
    if split is not None:
        reasoning, text = split[0].strip(), split[1]
    return reasoning, text, read_calls_of_any_shape(message)


_NOT_TEXT = (*REASONING_BLOCKS, "tool_call", "tool_use")


def content_text(content: Any) -> str:
    """The text of a message's content: a string, None, or blocks (one without text gives its kind in brackets)."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(block if isinstance(block, str) else _block_text(block) for block in content)
    return json.dumps(content, ensure_ascii=False)


def _block_text(block: Any) -> str:
    if not isinstance(block, Mapping):
        return json.dumps(block, ensure_ascii=False)
    for key in ("text", "value", "reasoning", "thinking", "content"):
        if isinstance(block.get(key), str):
            return str(block[key])
    return f"[{block.get('type', 'block')}]"


def _join_texts(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
