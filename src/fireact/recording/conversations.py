"""Which episode a call belongs to, and which earlier call it goes on from, told by its messages alone.

Invariant: deterministic in the order of calls, so that a log read again gives the same episodes. A call is a ``Turn``;
turns form trees within an episode, since agents ask again, ask elsewhere in between, or start anew. Of a conversation
only what is new in each call is kept in memory. This module neither builds trajectories nor writes anything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fireact.recording.text import CODE_ENDS
from fireact.recording.wire import Reply, Said, messages_of, parsed, prefixes, reply_of, streamed

_CUE = re.compile(r"\n\s*(?:Thought|Action)[ \t]*\d*:\s*\Z", re.IGNORECASE)
_OBSERVATION = re.compile(r"\s*\**Observation[ \t]*\d*\**:", re.IGNORECASE)
_TASK = re.compile(r"\s*(?:New task|Task|Question)[ \t]*\d*:\s*", re.IGNORECASE)
_QUESTION = re.compile(r"^[ \t]*Question[ \t]*\d*:[ \t]*", re.MULTILINE)

Round = tuple[Reply, tuple[Said, ...]]
"""What the model wrote in a turn, and what it was told then."""


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the log: a request and what came of it.

    ``named`` says that the episode's id stood in the URL. ``at`` is in seconds of the Unix clock. ``reply`` is the body:
    JSON, or the text of a stream. ``cut`` is "client" or "upstream" where one of them went away before the end.
    """

    episode: str
    named: bool
    at: float
    seconds: float
    status: int
    request: Mapping[str, Any]
    reply: Any
    cut: str = ""

    def answered(self) -> tuple[Reply | None, str]:
        """The reply, or None and what went wrong."""
        if self.status != 200:
            return None, f"the endpoint answered {self.status}: {_shortly(self.reply)}"
        if not isinstance(self.reply, str):
            reply = reply_of(self.reply)
            return reply, "" if reply else f"the endpoint sent no choice: {_shortly(self.reply)}"
        reply, ended, failed = streamed(self.reply)
        if failed or self.cut == "upstream" or not (ended or self.cut):
            return None, f"the endpoint broke off its stream{': ' + failed if failed else ''}"
        if reply is None or not (ended or reply.text or reply.calls):
            return None, "the client went away before the reply"
        return (reply if ended else replace(reply, finish="length")), ""  # a client may have read enough to act on


def _shortly(body: Any) -> str:
    said = body.get("error", body) if isinstance(body, dict) else body
    said = said.get("message", said) if isinstance(said, dict) else said
    return str(said)[:300]


@dataclass(frozen=True, slots=True)
class Opening:
    """How a conversation began: ``context`` is what stood before the question (examples, say), ``past`` is what had been
    done before the first call that was seen."""

    system: str
    question: str
    context: tuple[Said, ...]
    past: tuple[Round, ...]
    tools: Sequence[Any]
    coded: bool


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One call in its episode. ``heard`` is what is new since the parent's reply; ``opening`` is there in a root."""

    number: int
    episode: str
    parent: Turn | None
    conversation: str
    heard: tuple[Said, ...]
    opening: Opening | None
    reply: Reply | None
    error: str
    model: str
    at: float
    seconds: float


class Book:
    """All turns by episode, and an index that finds the turn that a request goes on from."""

    def __init__(self) -> None:
        self.turns: dict[str, list[Turn]] = {}
        self._number = 0
        self._continued: set[int] = set()
        self._auto: set[str] = set()
        self._by_conversation: dict[str, list[Turn]] = defaultdict(list)
        self._by_start: dict[str, dict[int, tuple[Turn, str]]] = defaultdict(dict)
        self._asked: dict[str, list[Turn]] = defaultdict(list)
        self._given = 0

    def place(self, messages: Sequence[Said]) -> str:
        """The episode of a call that names none: the one that it goes on with, or a new id."""
        hashes = prefixes(messages)
        parent, _, _ = self._parent(messages, hashes, None)
        if parent is not None:
            return parent.episode
        same = self._among(self._by_conversation.get(hashes[-1], ()), None)
        if same and (same[-1].reply is None or any(one.role == "assistant" for one in messages)):
            return same[-1].episode  # asked again; a question that was answered and comes again is a new episode
        before = self._rewritten(messages, None)
        if before is not None:
            return before.episode
        while True:
            self._given += 1
            name = f"episode-{self._given:04d}"
            if name not in self.turns:
                return name

    def add(self, call: Call) -> Turn:
        """Note a call that has ended."""
        messages = messages_of(call.request)
        hashes = prefixes(messages)
        if not call.named:
            self._auto.add(call.episode)
        parent, heard, fits = self._parent(messages, hashes, call.episode)
        if not fits:
            latest = self._rewritten(messages, call.episode, repeated=parent is not None)
            if latest is not None:
                parent, heard = latest, _after_last_assistant(messages)
        reply, error = call.answered()
        self._number += 1
        turn = Turn(
            number=self._number,
            episode=call.episode,
            parent=parent,
            conversation=hashes[-1],
            heard=heard if parent is not None else (),
            opening=_opening(call.request, messages) if parent is None else None,
            reply=reply,
            error=error,
            model=str(call.request.get("model") or ""),
            at=call.at,
            seconds=call.seconds,
        )
        self._index(turn, messages, hashes)
        return turn

    def _index(self, turn: Turn, messages: Sequence[Said], hashes: Sequence[str]) -> None:
        self.turns.setdefault(turn.episode, []).append(turn)
        self._by_conversation[turn.conversation].append(turn)
        if messages and messages[-1].role == "user":
            start = self._by_start[hashes[-2]]
            start[turn.number] = (turn, messages[-1].text)
            if turn.parent is not None:
                start.pop(turn.parent.number, None)
        if turn.parent is not None:
            self._continued.add(turn.parent.number)
        elif turn.opening is not None:
            self._asked[turn.opening.question].append(turn)

    def _among(self, turns: Sequence[Turn], episode: str | None) -> list[Turn]:
        """Those of one episode; of all that were not named, where it is None."""
        return [one for one in turns if (one.episode in self._auto if episode is None else one.episode == episode)]

    def _parent(
        self, messages: Sequence[Said], hashes: Sequence[str], episode: str | None
    ) -> tuple[Turn | None, tuple[Said, ...], bool]:
        """The turn with the longest conversation that these messages extend, what they add, and whether its reply is there."""
        for length in range(len(messages) - 1, 0, -1):
            found = self._among(self._by_conversation.get(hashes[length], ()), episode)
            if found:
                chosen = max(found, key=lambda turn: self._fitness(turn, messages[length]))
                heard = tuple(one for one in messages[length:] if one.role not in ("assistant", "system"))
                return chosen, heard, chosen.reply is not None and _repeats(messages[length], chosen.reply)
        return self._grown(messages, hashes, episode)

    def _fitness(self, turn: Turn, following: Said) -> tuple[bool, bool, bool, int]:
        reply = turn.reply
        fits = reply is not None and _repeats(following, reply)
        return reply is not None, fits, turn.number not in self._continued, turn.number

    def _grown(
        self, messages: Sequence[Said], hashes: Sequence[str], episode: str | None
    ) -> tuple[Turn | None, tuple[Said, ...], bool]:
        """The turn whose last message these messages lengthen: an agent that keeps its notes in one message."""
        if not messages or messages[-1].role != "user" or hashes[-2] not in self._by_start:
            return None, (), False
        text = messages[-1].text
        for turn, before in reversed(self._by_start[hashes[-2]].values()):
            if turn.reply is None or not text.startswith(before) or not self._among([turn], episode):
                continue
            written = turn.reply.text.strip()
            at = text.find(written, len(before)) if written else -1
            if at >= 0:
                return turn, (Said("user", _CUE.sub("", text[at + len(written) :])),), True
        return None, (), False

    def _rewritten(self, messages: Sequence[Said], episode: str | None, *, repeated: bool = False) -> Turn | None:
        """The last turn of an episode whose question these messages ask, with a history that was shortened or reworded.

        Where ``repeated``, only if its reply is the last that stands in them.
        """
        last = max((at for at, one in enumerate(messages) if one.role == "assistant"), default=0)
        for message in messages[:last]:
            if message.role == "user":
                found = self._among(self._asked.get(question_of(message.text), ()), episode)
                latest = self.turns[found[-1].episode][-1] if found else None
                said = latest is not None and latest.reply is not None and _repeats(messages[last], latest.reply)
                if latest is not None and (said or not repeated):
                    return latest
        return None


def _repeats(message: Said, reply: Reply) -> bool:
    """Whether an assistant's message of a later request is this reply, as it came or as text."""
    ids = [call.id for call in reply.calls if call.id]
    if ids:
        return any(one in message.text or any(one == call.id for call in message.calls) for one in ids)
    return bool(reply.text.strip()) and reply.text.strip() in message.text


def _after_last_assistant(messages: Sequence[Said]) -> tuple[Said, ...]:
    last = max((at for at, one in enumerate(messages) if one.role == "assistant"), default=-1)
    return tuple(one for one in messages[last + 1 :] if one.role != "system")


def _opening(request: Mapping[str, Any], messages: Sequence[Said]) -> Opening:
    system = "\n\n".join(one.text for one in messages if one.role == "system")
    said = [one for one in messages if one.role != "system"]
    asked = _after_last_assistant(said)
    going_on = not asked or any(one.role != "user" or is_observation(one.text) for one in asked)
    first = next((at for at, one in enumerate(said) if one.role == "user"), 0)
    if going_on:
        question, context, past = "".join(one.text for one in said[first : first + 1]), said[:first], said[first + 1 :]
    else:
        question, context, past = "\n\n".join(one.text for one in asked), said[: len(said) - len(asked)], []
    short = question_of(question)
    if short != question and not _TASK.match(question):  # a whole prompt in one message: keep it
        context = [*context, Said("user", question)]
    tools = request.get("tools") or request.get("functions")
    stop = request.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return Opening(
        system=system,
        question=short,
        context=tuple(context),
        past=_rounds(past),
        tools=tools if isinstance(tools, list) else (),
        coded=any(one in CODE_ENDS for one in stops) or "final_answer(" in system,
    )


def _rounds(messages: Sequence[Said]) -> tuple[Round, ...]:
    rounds: list[Round] = []
    for message in messages:
        if message.role == "assistant":
            rounds.append((Reply(message.text, message.calls), ()))
        elif rounds:
            rounds[-1] = (rounds[-1][0], (*rounds[-1][1], message))
    return tuple(rounds)


def question_of(text: str) -> str:
    """The question in a user's message: without "New task:" before it, and out of a prompt that ends in "Question: ..."."""
    marks = list(_QUESTION.finditer(text))
    if marks:
        text = text[marks[-1].end() :]
    else:
        match = _TASK.match(text)
        text = text[match.end() :] if match else text
    return _CUE.sub("", text).strip()


def is_observation(text: str) -> bool:
    return _OBSERVATION.match(text) is not None


def observed(text: str) -> str:
    """An observation without the word before it."""
    match = _OBSERVATION.match(text)
    return (text[match.end() :] if match else text).strip()


def body_of(raw: bytes) -> Any:
    """A body as the log holds it: JSON where it is JSON, text where it is not."""
    value = parsed(raw)
    return raw.decode("utf-8", "replace") if value is None else value
