"""The turns of an episode as a Trajectory: thoughts, actions, observations, and how it ended.

Invariant: what the model wrote comes from its replies, never from an agent's retelling of them; nothing is scored here.
A thought is what the model said beside its calls; a call to finish, or the last words without a call, is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fireact.models.prices import Price
from fireact.recording.conversations import Opening, Round, Turn, observed
from fireact.recording.text import answer_in, read
from fireact.recording.wire import Reply, Said, ToolCall
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import FINISH, Action, Completion, Example, Step, Stop, Trajectory, Usage

METHOD = "recorded"
FINISHES = ("final_answer", "finish", "submit", "submit_answer", "submit_final_answer")
"""Tools by which agents give their answer."""


def trajectory(
    found: Sequence[Turn], *, task: str, finishes: Sequence[str], price: Callable[[str], Price]
) -> Trajectory:
    """The trajectory of an episode. ``found`` are its turns in order, at least one."""
    path = main_path(found)
    opening, last = path[0].opening, path[-1]
    assert opening is not None  # the first of a path is a root
    told = [turn.heard for turn in path[1:]] + [()]
    rounds = [*opening.past, *((turn.reply, heard) for turn, heard in zip(path, told, strict=True) if turn.reply)]
    steps, stop, closing = ended(rounds, coded=opening.coded, finishes=finishes)
    if last.reply is None:
        stop = "error"
    return Trajectory(
        task=task,
        example=Example(last.episode, opening.question, ""),
        method=METHOD,
        model=last.model,
        seed=0,
        steps=tuple(steps),
        stop=stop,
        scores={},
        usage=sum((_usage(turn, price) for turn in found), Usage()),
        seconds=round(max(turn.at + turn.seconds for turn in found) - min(turn.at for turn in found), 3),
        error=last.error if last.reply is None else None,
        meta=_meta(opening, last.model, closing, len(found) - len(path)),
    )


def main_path(found: Sequence[Turn]) -> list[Turn]:
    """The turns from the first to the last of the main conversation.

    A turn that was asked again counts in its last version. Of several conversations (a plan that is asked for in
    between, an agent under an agent) the one that spans the most calls is the main one.
    """
    paths: dict[str, list[Turn]] = {}
    for turn in found:
        path = [turn]
        while path[-1].parent is not None:
            path.append(path[-1].parent)
        path.reverse()
        paths[path[0].conversation] = (
            path  # the last leaf; a conversation that was begun anew takes the place of the old
        )
    return max(paths.values(), key=lambda path: (path[-1].number - path[0].number, path[-1].number))


def _usage(turn: Turn, price: Callable[[str], Price]) -> Usage:
    if turn.reply is None:
        return Usage(1)
    used = turn.reply.usage
    return Usage(1, cost=None) if used is None else replace(used, cost=price(turn.model).cost(used))


def _meta(opening: Opening, model: str, closing: str, aside: int) -> dict[str, Any]:
    found = {
        "system": opening.system,
        "tools": list(opening.tools),
        "model": model,
        "context": [{"role": one.role, "content": one.text} for one in opening.context],
        "closing": closing,
        "calls_aside": aside,
    }
    return {name: value for name, value in found.items() if value}


def ended(rounds: Sequence[Round], *, coded: bool, finishes: Sequence[str]) -> tuple[list[Step], Stop, str]:
    """The steps of the rounds with the answer as the finish action; how they ended; words after the answer, if any."""
    written = [told(wrote(reply, coded=coded), reply.calls, heard) for reply, heard in rounds]
    closing = ""
    if len(written) > 1 and _words_alone(written[-1]) and any(_finishing(one, finishes) for one in written[-2]):
        closing = written.pop()[0].text
    steps = [step for turn in written[:-1] for step in turn]
    if not written:
        return steps, "format", closing
    last, reply = written[-1], rounds[len(written) - 1][0]
    finish = next((one for one in last if _finishing(one, finishes)), None)
    if finish is not None:
        return steps + _finish_last(last, finish), "finish", closing
    if not _words_alone(last):
        return steps + last, "max_steps", closing  # the agent was stopped before it answered
    if reply.finish == "length" or not reply.text.strip():
        return steps + last, "format", closing
    answer = Action(FINISH, {"answer": reply.text.strip()})
    return [*steps, Step(reply.reasoning.strip(), answer, None, reply.text)], "finish", closing


def _words_alone(turn: Sequence[Step]) -> bool:
    return turn[0].action is None


def _finishing(step: Step, finishes: Sequence[str]) -> bool:
    return step.action is not None and step.action.name in (*finishes, FINISH)


def _finish_last(turn: Sequence[Step], finish: Step) -> list[Step]:
    """A turn with its finishing call at the end, where an episode ends; the thought stays with the first step."""
    assert finish.action is not None
    done = replace(finish, action=Action(FINISH, {"answer": answer_in(finish.action.arguments)}), observation=None)
    ordered = [*(step for step in turn if step is not finish), done]
    if ordered[0].joined:
        return ordered
    first = turn[0]
    steps = [replace(step, thought="", text="", joined=True) for step in ordered]
    return [replace(steps[0], thought=first.thought, text=first.text, joined=False), *steps[1:]]


def wrote(reply: Reply, *, coded: bool) -> list[Step]:
    """The steps of a reply, with no observations yet: by its native calls, or by the actions in its text."""
    if not reply.calls:
        return read(reply.text, coded=coded)
    words = reply.text.strip() or reply.reasoning.strip()  # a model that reasons apart often says nothing beside a call
    calls = tuple(call.action for call in reply.calls)
    return ToolCallsRenderer().read(Completion(words, Usage(), "stop", 0.0, calls))


def told(steps: Sequence[Step], calls: Sequence[ToolCall], heard: Sequence[Said]) -> list[Step]:
    """Steps with what they observed: a tool's message by its call, words of the user to the turn's last step."""
    answers = [one for one in heard if one.role == "tool"]
    rest = [observed(one.text) for one in heard if one.role != "tool"]
    found: list[str | None] = [None] * len(steps)
    for at, call in enumerate(calls[: len(steps)]):
        match = next((one for one in answers if one.call_id == call.id), None)
        if match is not None:
            found[at] = match.text
            answers.remove(match)
    for answer in answers:  # of a client that names no calls
        at = next((index for index, one in enumerate(found) if one is None), len(found) - 1)
        found[at] = answer.text if found[at] is None else f"{found[at]}\n{answer.text}"
    if rest:
        found[-1] = "\n\n".join(rest if found[-1] is None else [found[-1], *rest])
    return [replace(step, observation=one) for step, one in zip(steps, found, strict=True)]
