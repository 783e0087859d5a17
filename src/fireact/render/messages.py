"""Chat messages with native tool calls (OpenAI's form, as plain dicts) to steps and back.

Messages of any dialect are read by ``wire.file_messages``; here they become steps. Invariant: reading is total, it
raises for no list; and reading what ``messages_from_steps`` wrote gives the same thoughts, actions, observations,
weights and turns. A last message without calls is the answer; a user's reply is the observation of a step without
action. This module knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.render.react import is_unspoken
from fireact.types import FINISH, Action, Step
from fireact.wire.chat_completions import write_message
from fireact.wire.dialect import ToolCall, WireMessage, make_call_id
from fireact.wire.fields import WireDamage, parse_json
from fireact.wire.file_messages import BETWEEN_RESULTS, content_text, read_file_messages
from fireact.wire.reasoning import split_reasoning, unwrap_reasoning, wrap_reasoning

Report = Callable[[WireDamage], None]


def ignore_wire_damage(damage: WireDamage) -> None:
    """Ignore a report of damage."""


def steps_from_messages(
    messages: Sequence[Any], *, tools: Any = (), system: str = "", report: Report = ignore_wire_damage
) -> tuple[str, str, tuple[Step, ...]]:
    """The question, the system prompt and the steps of a conversation in any dialect.

    Several calls of one turn become several steps, all but the first ``joined``. Results match calls by id, wherever
    they stand, or in order where there is none. Arguments that are no JSON object become the one argument ``input``.
    ``report`` is called with what could not be read, which gets weight 0; ``tools`` and ``system`` are those that
    stand outside the messages.
    """
    wire_messages, damage = read_file_messages(messages, tools=tools, system=system)
    reading = _ConversationReader()
    for message in wire_messages:
        reading.add(message)
    for wire_damage in (*damage, *reading.damage):
        report(wire_damage)
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
    """The state while a conversation is read; ``pending_calls`` are the last turn's calls (steps) without a result."""

    question: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    pending_calls: list[int] = field(default_factory=list)
    ids: dict[int, str] = field(default_factory=dict)
    """The id of each step's call, where it has one."""
    damage: list[WireDamage] = field(default_factory=list)

    def add(self, message: WireMessage) -> None:
        content = content_text(list(message.parts))
        if message.role == "assistant":
            self._add_assistant_message(message, content)
        elif message.role == "system":
            self.system += [content] if content else []
        elif message.role == "tool":
            self._add_result(content, message.call_id)
        elif not self.steps:
            self.question.append(content)
        else:
            self._add_user_reply(content)

    def _add_assistant_message(self, message: WireMessage, content: str) -> None:
        text = wrap_reasoning(message.reasoning, content)
        weight = message.extra.get("weight", 1.0)
        step = Step(_join_texts(message.reasoning, content), None, None, text, weight=weight)
        self.pending_calls = []
        if not message.calls:
            self.steps.append(step)
        for index, call in enumerate(message.calls):
            joined = Step("", call.action, None, "", joined=True, weight=weight)
            self.steps.append(joined if index else replace(step, action=call.action))
            if call.id:
                self.ids[len(self.steps) - 1] = call.id
            if call.output is not None:
                self._set_result(len(self.steps) - 1, call.output)
            else:
                self.pending_calls.append(len(self.steps) - 1)

    def _add_result(self, content: str, call_id: str) -> None:
        """Give a result to the call with its id: the first open one of this turn, else the latest of earlier ones.

        Without ids it goes to the first call of the turn.
        """
        matching_steps = [step for step, id in self.ids.items() if call_id and id == call_id]
        open_steps = [step for step in matching_steps if self.steps[step].observation is None]
        unnamed_calls = [step for step in self.pending_calls if not call_id or step not in self.ids]
        bundle = [] if matching_steps else _split_bundle(content, len(unnamed_calls))
        if bundle:
            for step, result in zip(tuple(unnamed_calls), bundle, strict=True):
                self._set_result(step, result)
        elif matching_steps:
            first_of_turn = next((step for step in open_steps if step in self.pending_calls), None)
            self._set_result((open_steps or matching_steps)[-1] if first_of_turn is None else first_of_turn, content)
        elif unnamed_calls:
            self._set_result(unnamed_calls[0], content)
        elif call_id and self.ids:
            expected = "the result of a call with this id, which there is not; it is left out"
            self.damage.append(WireDamage("stray-result", f"the result with the id {call_id!r}", content, expected))
        else:
            self._add_user_reply(content)

    def _set_result(self, step: int, content: str) -> None:
        earlier = self.steps[step].observation
        self.steps[step] = replace(
            self.steps[step], observation=content if earlier is None else f"{earlier}\n{content}"
        )
        self.pending_calls = [pending for pending in self.pending_calls if pending != step]

    def _add_user_reply(self, content: str) -> None:
        last_step = self.steps[-1] if self.steps else None
        if last_step is not None and last_step.action is None and last_step.observation is None:
            self.steps[-1] = replace(last_step, observation=content)
        else:
            self.steps.append(Step("", None, content, ""))


def _split_bundle(content: str, count: int) -> list[str]:
    """The results of ``count`` calls in one message; else an empty list.

    A bundle is a JSON list of objects with ``content``, or texts with tags between them.
    """
    if count < 2:
        return []
    texts = content.split(BETWEEN_RESULTS)
    bundle = parse_json(content) if content.startswith("[") else None
    if isinstance(bundle, list) and all(isinstance(item, Mapping) and "content" in item for item in bundle):
        texts = [content_text(item["content"]) for item in bundle]
    return texts if len(texts) == count else []


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
        if is_unspoken(first_step):
            return user_reply
        return [_assistant_message(*_reasoning_and_content(first_step), first_step.weight), *user_reply]
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


def _join_texts(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
