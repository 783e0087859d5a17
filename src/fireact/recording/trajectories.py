"""Builds a Trajectory from the turns of an episode: thoughts, actions, observations, and how it ended.

Invariant: the model's text comes from its replies, never from later requests that repeat them. Nothing is scored here.
A thought is the text beside the calls of a reply. The answer is a finish call, or the last reply without a call, or
what feedback says. A call that the provider ran itself is a step whose observation is what the wire shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fireact.models.prices import TokenPrice
from fireact.recording.conversations import ConversationStart, Exchange, Turn, strip_observation_label
from fireact.recording.feedback import Feedback, add_feedback
from fireact.recording.text import parse_turn
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import FINISH, Action, Completion, Example, Step, Stop, Trajectory, Usage
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import ToolCall, WireMessage, WireReply
from fireact.wire.text_calls import extract_answer

METHOD = "recorded"
FindPrice = Callable[[str, str], TokenPrice]
"""The price of a model, by its name and the dialect of its endpoint."""


def build_trajectory(
    turns: Sequence[Turn], *, task: str, finishes: Sequence[str], price: FindPrice, feedback: Sequence[Feedback] = ()
) -> Trajectory:
    """The trajectory of an episode from its turns in order, of which there is at least one, and from its feedback."""
    path = find_main_path(turns)
    start, last = path[0].start, path[-1]
    assert start is not None  # the first of a path is a root
    next_messages = [turn.new_messages for turn in path[1:]] + [()]
    replies = ((turn.reply, messages) for turn, messages in zip(path, next_messages, strict=True) if turn.reply)
    exchanges = [half for exchange in (*start.past, *replies) for half in split_provider_calls(exchange)]
    steps, stop, closing = read_outcome(exchanges, coded=start.coded, finishes=finishes)
    if last.reply is None:
        stop = "error"
    trajectory = Trajectory(
        task=task,
        example=Example(last.episode, start.question, ""),
        method=METHOD,
        model=last.model,
        seed=0,
        steps=tuple(steps),
        stop=stop,
        scores={},
        usage=sum((measure_usage(turn, price) for turn in turns), Usage()),
        seconds=round(
            max(turn.started_at + turn.seconds for turn in turns) - min(turn.started_at for turn in turns), 3
        ),
        error=last.error if last.reply is None else None,
        meta=_build_meta(start, path, closing, len(turns) - len(path)),
    )
    return add_feedback(trajectory, feedback)


def find_main_path(turns: Sequence[Turn]) -> list[Turn]:
    """The turns of the main conversation, from the first to the last.

    Of a repeated turn the last version counts. An episode may hold several conversations, such as side calls for a plan
    or those of a sub-agent; the main one spans the most calls.
    """
    paths: dict[str, list[Turn]] = {}
    for turn in turns:
        path = [turn]
        while path[-1].parent is not None:
            path.append(path[-1].parent)
        path.reverse()
        # The last leaf wins, so a conversation that was started over replaces the old one.
        paths[path[0].conversation] = path
    return max(paths.values(), key=lambda path: (path[-1].number - path[0].number, path[-1].number))


def measure_usage(turn: Turn, price: FindPrice) -> Usage:
    """The tokens of a call and their cost, which is None where the price or the tokens are not known."""
    if turn.reply is None:
        return Usage(1)
    usage = turn.reply.usage
    return Usage(1, cost=None) if usage is None else replace(usage, cost=price(turn.model, turn.dialect).cost(usage))


def _build_meta(start: ConversationStart, path: Sequence[Turn], closing: str, side_calls: int) -> dict[str, Any]:
    last = path[-1]
    meta = {
        "system": start.system,
        "tools": list(start.tools),
        "model": last.model,
        "dialect": "" if last.dialect == CHAT_COMPLETIONS.name else last.dialect,
        "missing_history": [id for turn in path for id in turn.missing_ids],
        "context": [{"role": message.role, "content": message.text} for message in start.context],
        "closing": closing,
        "calls_aside": side_calls,
    }
    return {name: value for name, value in meta.items() if value}


def split_provider_calls(exchange: Exchange) -> list[Exchange]:
    """An exchange in two, where the provider ran calls itself: first these calls, then what the model made of them."""
    reply, messages = exchange
    run_calls = tuple(call for call in reply.calls if call.output is not None)
    client_calls = tuple(call for call in reply.calls if call.output is None)
    if not run_calls:
        return [exchange]
    first = replace(reply, parts=(), calls=run_calls)
    if not client_calls and not reply.text.strip():
        return [(first, messages)]
    return [(first, ()), (replace(reply, calls=client_calls, reasoning=""), messages)]


def read_outcome(
    exchanges: Sequence[Exchange], *, coded: bool, finishes: Sequence[str]
) -> tuple[list[Step], Stop, str]:
    """The steps with the answer as a finish action, the reason for the stop, and the text after the answer, if any."""
    turn_steps = [
        add_observations(steps_of_reply(reply, coded=coded), reply.calls, messages) for reply, messages in exchanges
    ]
    closing = ""
    if (
        len(turn_steps) > 1
        and _has_no_action(turn_steps[-1])
        and any(_is_finish(step, finishes) for step in turn_steps[-2])
    ):
        closing = turn_steps.pop()[0].text
    steps = [step for turn in turn_steps[:-1] for step in turn]
    if not turn_steps:
        return steps, "format", closing
    last, reply = turn_steps[-1], exchanges[len(turn_steps) - 1][0]
    finish = next((step for step in last if _is_finish(step, finishes)), None)
    if finish is not None:
        return steps + _move_finish_last(last, finish), "finish", closing
    if not _has_no_action(last):
        return steps + last, "max_steps", closing  # the agent was stopped before it answered
    if reply.finish == "length" or not reply.text.strip():
        return steps + last, "format", closing
    answer = Action(FINISH, {"answer": reply.text.strip()})
    return [*steps, Step(reply.reasoning.strip(), answer, None, reply.text)], "finish", closing


def _has_no_action(turn: Sequence[Step]) -> bool:
    return turn[0].action is None


def _is_finish(step: Step, finishes: Sequence[str]) -> bool:
    return step.action is not None and step.action.name in (*finishes, FINISH)


def _move_finish_last(turn: Sequence[Step], finish: Step) -> list[Step]:
    """A turn with its finish call as the last step, where an episode ends; the thought stays with the first step."""
    assert finish.action is not None
    done = replace(finish, action=Action(FINISH, {"answer": extract_answer(finish.action.arguments)}), observation=None)
    ordered = [*(step for step in turn if step is not finish), done]
    if ordered[0].joined:
        return ordered
    first = turn[0]
    steps = [replace(step, thought="", text="", joined=True) for step in ordered]
    return [replace(steps[0], thought=first.thought, text=first.text, joined=False), *steps[1:]]


def steps_of_reply(reply: WireReply, *, coded: bool) -> list[Step]:
    """The steps of a reply without observations, from its tool calls or from the actions in its text."""
    if not reply.calls:
        return parse_turn(reply.text, coded=coded)
    words = reply.text.strip() or reply.reasoning.strip()  # a reasoning model often writes no text beside a call
    calls = tuple(call.action for call in reply.calls)
    return ToolCallsRenderer().read(Completion(words, Usage(), "stop", 0.0, calls))


def add_observations(steps: Sequence[Step], calls: Sequence[ToolCall], messages: Sequence[WireMessage]) -> list[Step]:
    """Steps with their observations: a tool's message goes to its call, a user's message to the turn's last step."""
    tool_messages = [message for message in messages if message.role == "tool"]
    user_texts = [strip_observation_label(message.text) for message in messages if message.role != "tool"]
    observations: list[str | None] = [None] * len(steps)
    for position, call in enumerate(calls[: len(steps)]):
        observations[position] = call.output
        match = next((message for message in tool_messages if message.call_id == call.id), None)
        if match is not None:
            observations[position] = match.text
            tool_messages.remove(match)
    for message in tool_messages:  # from a client that sends no call ids
        position = next(
            (index for index, observation in enumerate(observations) if observation is None), len(observations) - 1
        )
        observations[position] = (
            message.text if observations[position] is None else f"{observations[position]}\n{message.text}"
        )
    if user_texts:
        observations[-1] = "\n\n".join(user_texts if observations[-1] is None else [observations[-1], *user_texts])
    return [replace(step, observation=observation) for step, observation in zip(steps, observations, strict=True)]
