"""Groups calls into episodes and finds the earlier call that each one continues, from the messages alone.

Invariant: the result depends only on the order of calls, so reading a log again gives the same episodes. A call is a
``Turn``. The turns of an episode form trees, because agents repeat a call, make side calls, or start over. Memory holds
only the new messages of each call. This module builds no trajectories and writes no files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fireact.recording.calls import RecordedCall
from fireact.wire.code_actions import asks_for_code
from fireact.wire.dialect import WireMessage, WireReply, WireRequest
from fireact.wire.dialects import DIALECTS
from fireact.wire.response_history import ResponseHistory
from fireact.wire.responses import RESPONSES

_CUE = re.compile(r"\s*(?:Thought|Action)[ \t]*\d*:", re.IGNORECASE)
_OBSERVATION = re.compile(r"\s*\**Observation[ \t]*\d*\**:", re.IGNORECASE)
_TASK = re.compile(r"\s*(?:New task|Task|Question)[ \t]*\d*:\s*", re.IGNORECASE)
_QUESTION = re.compile(r"^[ \t]*Question[ \t]*\d*:[ \t]*", re.MULTILINE)

Exchange = tuple[WireReply, tuple[WireMessage, ...]]
"""A reply of the model, and the messages that answered it."""


@dataclass(frozen=True, slots=True)
class ConversationStart:
    """The start of a conversation, as its first recorded call shows it.

    ``context`` holds the messages before the question, such as few-shot examples. ``past`` holds the exchanges that
    happened before the first recorded call. ``coded`` is true for an agent that acts in code.
    """

    system: str
    question: str
    context: tuple[WireMessage, ...]
    past: tuple[Exchange, ...]
    tools: Sequence[Any]
    coded: bool


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One call in its episode.

    ``new_messages`` are the messages since the parent's reply. ``start`` is set only in a root, which has no parent.
    ``missing_ids`` name what the request referred to and the recording does not hold.
    """

    number: int
    episode: str
    parent: Turn | None
    conversation: str
    new_messages: tuple[WireMessage, ...]
    start: ConversationStart | None
    reply: WireReply | None
    error: str
    model: str
    started_at: float
    seconds: float
    dialect: str
    missing_ids: tuple[str, ...]


class TurnIndex:
    """All turns by episode, with an index that finds the turn that a request continues."""

    def __init__(self) -> None:
        self.turns: dict[str, list[Turn]] = {}
        self._turn_count = 0
        self._continued: set[int] = set()
        self._unnamed_episodes: set[str] = set()
        self._by_conversation: dict[str, list[Turn]] = defaultdict(list)
        self._by_prefix: dict[tuple[str, str], dict[int, tuple[Turn, str]]] = defaultdict(dict)
        self._by_question: dict[str, list[Turn]] = defaultdict(list)
        self._assigned = 0
        self._response_history = ResponseHistory()

    def read_request(self, dialect: str, body: Mapping[str, Any]) -> tuple[WireRequest, tuple[str, ...]]:
        """A request with all that it refers to in earlier calls, and the ids of what they do not hold."""
        missing_ids: tuple[str, ...] = ()
        if dialect == RESPONSES.name:
            body, missing_ids = self._response_history.resolve(body)
        return DIALECTS[dialect].read_request(body), missing_ids

    def add_conversation_items(self, id: str, items: Sequence[Any]) -> None:
        """Begin a conversation of the Responses API with items, or add them to it."""
        self._response_history.add_conversation_items(id, items)

    def assign_episode(self, messages: Sequence[WireMessage]) -> str:
        """The episode of a call whose URL names none: the one that it continues, or a new id."""
        hashes = hash_prefixes(messages)
        parent_turn, _, _ = self._find_parent(messages, hashes, None)
        if parent_turn is not None:
            return parent_turn.episode
        same_conversation = self._in_episode(self._by_conversation.get(hashes[-1], ()), None)
        if same_conversation and (
            same_conversation[-1].reply is None or any(message.role == "assistant" for message in messages)
        ):
            # The call is repeated. A question that was answered and comes again starts a new episode instead.
            return same_conversation[-1].episode
        rewritten_turn = self._find_rewritten(messages, None)
        if rewritten_turn is not None:
            return rewritten_turn.episode
        while True:
            self._assigned += 1
            name = f"episode-{self._assigned:04d}"
            if name not in self.turns:
                return name

    def add(self, call: RecordedCall, read: tuple[WireRequest, tuple[str, ...]] | None = None) -> Turn:
        """Add a call that has ended, and return its turn; ``read`` is its request as ``read_request`` gave it."""
        request, missing_ids = read or self.read_request(call.dialect, call.request)
        messages = request.messages
        hashes = hash_prefixes(messages)
        if not call.named:
            self._unnamed_episodes.add(call.episode)
        parent, new_messages, has_reply = self._find_parent(messages, hashes, call.episode)
        if not has_reply:
            latest_turn = self._find_rewritten(messages, call.episode, repeated=parent is not None)
            if latest_turn is not None:
                parent, new_messages = latest_turn, _after_last_assistant(messages)
        reply, error = call.parse_reply()
        if reply is not None and call.dialect == RESPONSES.name:
            self._response_history.add(self._response_history.resolve(call.request)[0], reply)
        self._turn_count += 1
        turn = Turn(
            number=self._turn_count,
            episode=call.episode,
            parent=parent,
            conversation=hashes[-1],
            new_messages=new_messages if parent is not None else (),
            start=_read_start(request) if parent is None else None,
            reply=None if reply is None else replace(reply, extra={}, damage=()),  # the log holds them
            error=error,
            model=request.model,
            started_at=call.at,
            seconds=call.seconds,
            dialect=call.dialect,
            missing_ids=missing_ids,
        )
        self._index(turn, messages, hashes)
        return turn

    def _index(self, turn: Turn, messages: Sequence[WireMessage], hashes: Sequence[str]) -> None:
        self.turns.setdefault(turn.episode, []).append(turn)
        self._by_conversation[turn.conversation].append(turn)
        if messages and messages[-1].role == "user":
            same_prefix = self._by_prefix[self._prefix_key(hashes, turn.episode)]
            same_prefix[turn.number] = (turn, messages[-1].text)
            if turn.parent is not None:
                same_prefix.pop(turn.parent.number, None)
        if turn.parent is not None:
            self._continued.add(turn.parent.number)
        elif turn.start is not None:
            self._by_question[turn.start.question].append(turn)

    def _prefix_key(self, hashes: Sequence[str], episode: str | None) -> tuple[str, str]:
        """All messages but the last, and the episode; all episodes that no URL named are one here."""
        return hashes[-2], "" if episode is None or episode in self._unnamed_episodes else episode

    def _in_episode(self, turns: Sequence[Turn], episode: str | None) -> list[Turn]:
        """The turns of one episode; where it is None, the turns of all episodes that no URL named."""
        return [
            turn
            for turn in turns
            if (turn.episode in self._unnamed_episodes if episode is None else turn.episode == episode)
        ]

    def _find_parent(
        self, messages: Sequence[WireMessage], hashes: Sequence[str], episode: str | None
    ) -> tuple[Turn | None, tuple[WireMessage, ...], bool]:
        """The turn that these messages continue, the messages that they add, and whether they contain its reply.

        Of all turns whose conversation is a prefix of the messages, the one with the longest conversation is the
        parent.
        """
        for length in range(len(messages) - 1, 0, -1):
            candidates = self._in_episode(self._by_conversation.get(hashes[length], ()), episode)
            if candidates:
                parent = max(candidates, key=lambda turn: self._rank_parent(turn, messages[length]))
                new_messages = tuple(
                    message for message in messages[length:] if message.role not in ("assistant", "system")
                )
                return parent, new_messages, parent.reply is not None and _has_reply(messages[length], parent.reply)
        return self._find_lengthened(messages, hashes, episode)

    def _rank_parent(self, turn: Turn, following: WireMessage) -> tuple[bool, bool, bool, int]:
        reply = turn.reply
        has_reply = reply is not None and _has_reply(following, reply)
        return reply is not None, has_reply, turn.number not in self._continued, turn.number

    def _find_lengthened(
        self, messages: Sequence[WireMessage], hashes: Sequence[str], episode: str | None
    ) -> tuple[Turn | None, tuple[WireMessage, ...], bool]:
        """The turn whose last message these messages lengthen, for an agent that keeps all its notes in one message."""
        key = self._prefix_key(hashes, episode) if messages and messages[-1].role == "user" else None
        if key not in self._by_prefix:
            return None, (), False
        text = messages[-1].text
        for turn, earlier_text in reversed(self._by_prefix[key].values()):
            if turn.reply is None or not text.startswith(earlier_text) or not self._in_episode([turn], episode):
                continue
            reply_text = turn.reply.text.strip()
            start = text.find(reply_text, len(earlier_text)) if reply_text else -1
            if start >= 0:
                return turn, (WireMessage("user", (_strip_cue(text[start + len(reply_text) :]),)),), True
        return None, (), False

    def _find_rewritten(
        self, messages: Sequence[WireMessage], episode: str | None, *, repeated: bool = False
    ) -> Turn | None:
        """The last turn of an episode with the same question, whose history was shortened or reworded.

        With ``repeated``, the turn counts only if the last assistant message contains its reply.
        """
        last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=0)
        for message in messages[:last]:
            if message.role == "user":
                matching_turns = self._in_episode(self._by_question.get(extract_question(message.text), ()), episode)
                latest_turn = self.turns[matching_turns[-1].episode][-1] if matching_turns else None
                has_latest_reply = (
                    latest_turn is not None
                    and latest_turn.reply is not None
                    and _has_reply(messages[last], latest_turn.reply)
                )
                if latest_turn is not None and (has_latest_reply or not repeated):
                    return latest_turn
        return None


def _has_reply(message: WireMessage, reply: WireReply) -> bool:
    """Whether an assistant message of a later request contains this reply, by its call ids or by its text."""
    ids = [call.id for call in reply.calls if call.id and call.output is None]
    if ids:
        return any(call_id in message.text or any(call_id == call.id for call in message.calls) for call_id in ids)
    return bool(reply.text.strip()) and reply.text.strip() in message.text


def _after_last_assistant(messages: Sequence[WireMessage]) -> tuple[WireMessage, ...]:
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return tuple(message for message in messages[last + 1 :] if message.role != "system")


def _read_start(request: WireRequest) -> ConversationStart:
    messages = request.messages
    system = "\n\n".join(message.text for message in messages if message.role == "system")
    chat_messages = [message for message in messages if message.role != "system"]
    unanswered = _after_last_assistant(chat_messages)
    is_continuation = not unanswered or any(
        message.role != "user" or is_observation(message.text) for message in unanswered
    )
    first_user = next((index for index, message in enumerate(chat_messages) if message.role == "user"), 0)
    if is_continuation:
        question, context, past = (
            "".join(message.text for message in chat_messages[first_user : first_user + 1]),
            chat_messages[:first_user],
            chat_messages[first_user + 1 :],
        )
    else:
        question, context, past = (
            "\n\n".join(message.text for message in unanswered),
            chat_messages[: len(chat_messages) - len(unanswered)],
            [],
        )
    bare_question = extract_question(question)
    if bare_question != question and not _TASK.match(question):  # the whole prompt is one message
        context = [*context, WireMessage("user", (question,))]
    return ConversationStart(
        system=system,
        question=bare_question,
        context=tuple(context),
        past=_read_exchanges(past),
        tools=request.tools,
        coded=asks_for_code(system, request.stop),
    )


def _read_exchanges(messages: Sequence[WireMessage]) -> tuple[Exchange, ...]:
    exchanges: list[Exchange] = []
    for message in messages:
        if message.role == "assistant":
            exchanges.append((WireReply(message.parts, message.calls), ()))
        elif exchanges:
            exchanges[-1] = (exchanges[-1][0], (*exchanges[-1][1], message))
    return tuple(exchanges)


def extract_question(text: str) -> str:
    """The question in a user's message, without a "New task:" label.

    Of a prompt that ends in "Question: ...", only the last question is returned.
    """
    marks = list(_QUESTION.finditer(text))
    if marks:
        text = text[marks[-1].end() :]
    else:
        match = _TASK.match(text)
        text = text[match.end() :] if match else text
    return _strip_cue(text).strip()


def _strip_cue(text: str) -> str:
    """A text without a last line such as "Thought:", after which the model goes on."""
    head, newline, last_line = text.rstrip().rpartition("\n")
    return head if newline and _CUE.fullmatch(last_line) else text


def is_observation(text: str) -> bool:
    return _OBSERVATION.match(text) is not None


def strip_observation_label(text: str) -> str:
    """An observation without its "Observation:" label."""
    match = _OBSERVATION.match(text)
    return (text[match.end() :] if match else text).strip()


def hash_prefixes(messages: Sequence[WireMessage]) -> list[str]:
    """A hash for each prefix of a conversation; item k covers the first k messages, and item 0 covers none."""
    state = hashlib.blake2b(digest_size=16)
    hashes = [state.hexdigest()]
    for message in messages:
        calls = [[call.id, call.name, call.arguments] for call in message.calls]
        line = [message.role, message.text.strip(), message.call_id, calls]
        state.update(json.dumps(line).encode() + b"\n")
        hashes.append(state.hexdigest())
    return hashes
