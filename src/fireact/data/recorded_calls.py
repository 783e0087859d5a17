"""Samples of recorded agents: the requests that an agent sent, and the replies that its model gave.

A chat is a conversation in which each request extends the one before; where the agent rewrites its history, a new chat
begins. Invariant: the messages before each trained reply are those of its request, by the function that the server
uses. What is not learned is counted by its reason. This module encodes nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fireact.base.run_directory import CONFIG, read_config
from fireact.data.sources import find_origins
from fireact.errors import DataError, FormatError
from fireact.recording.calls import RecordedCall
from fireact.recording.conversations import Turn, TurnIndex
from fireact.recording.recorder import CALLS, replay_calls
from fireact.recording.trajectories import find_main_path, split_provider_calls, steps_of_reply
from fireact.render.requests import client_tools, reply_message, student_messages
from fireact.render.tokens import Chat
from fireact.render.tool_calls import group_joined_steps
from fireact.types import Message, Trajectory
from fireact.wire.dialect import WireRequest
from fireact.wire.schemas import Schema

RENDERER = "recorded"


def find_recorded_runs(data: Path) -> list[Path]:
    """The runs of ``record`` behind a path: itself, or those that a mixture or a repaired copy was made of."""
    if not (data / CONFIG).is_file():
        return []
    if read_config(data)["verb"] == "record":
        return [data] if (data / CALLS).is_file() else []
    return [run for origin in find_origins(data) for run in find_recorded_runs(origin)]


def resolve_renderer(name: str, data: Path) -> str:
    """The renderer of the name ``auto``: ``recorded`` where all data is recorded, else ``react``."""
    if name != "auto":
        return name
    return RENDERER if all(map(find_recorded_runs, find_origins(data) or [data])) else "react"


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A recorded call, its request with all that it refers to in earlier calls, and its turn in the episode."""

    call: RecordedCall
    request: WireRequest
    turn: Turn


@dataclass(frozen=True, slots=True)
class AgentCall:
    """A recorded call: its request as messages and tools, and the reply; ``weight`` is that of the reply's tokens.

    ``says_something`` is false for a reply that was cut off or is empty; it is context only. ``provider_tools`` names
    the tools of the request that only a provider can run; ``tools`` is without them, as for a lenient server.
    """

    messages: Sequence[Message]
    tools: Sequence[Schema]
    reply: Message
    says_something: bool
    weight: float = 1.0
    provider_tools: tuple[str, ...] = ()

    @property
    def is_learned(self) -> bool:
        return self.says_something and self.weight > 0


@dataclass(slots=True)
class RecordedRuns:
    """The calls of recorded runs, by episode; ``left_out`` counts calls and trajectories without samples, by reason.

    ``ambiguous`` counts the trajectories whose replies several recorded episodes hold.
    """

    episodes: Mapping[str, Sequence[Sequence[RecordedTurn]]]
    left_out: Counter[str] = field(default_factory=Counter)
    ambiguous: int = 0

    def render(self, trajectory: Trajectory) -> list[Chat]:
        """The chats of a trajectory; none where the recordings do not hold it."""
        matches = self._find_matches(trajectory)
        if not matches:
            has_recording = trajectory.example.id in self.episodes
            reason = "differ from their recorded calls" if has_recording else "have no recorded calls"
            self.left_out[f"trajectories {reason}"] += 1
            return []
        self.ambiguous += len(matches) > 1
        return self._render_episode(trajectory.key, *matches[0])

    def learned_calls(self, trajectory: Trajectory) -> list[tuple[RecordedTurn, AgentCall]]:
        """The calls of a trajectory whose replies are learned, in their order."""
        uncounted = replace(self, left_out=Counter())  # rendering counts them
        return [
            (recorded_turn, call)
            for match in self._find_matches(trajectory)[:1]
            for recorded_turn, call in uncounted._read_episode(*match)
            if call.is_learned
        ]

    def _find_matches(self, trajectory: Trajectory) -> list[tuple[Sequence[RecordedTurn], Mapping[int, float]]]:
        """The recorded episodes whose replies are the steps of a trajectory, each with the weights of its turns."""
        weighted = [
            (episode, match_weights(trajectory, [recorded_turn.turn for recorded_turn in episode]))
            for episode in self.episodes.get(trajectory.example.id, ())
        ]
        return [(episode, weights) for episode, weights in weighted if weights is not None]

    def _render_episode(self, key: str, episode: Sequence[RecordedTurn], weights: Mapping[int, float]) -> list[Chat]:
        calls = [call for _, call in self._read_episode(episode, weights)]
        self.left_out["replies that were cut off or say nothing"] += sum(not call.says_something for call in calls)
        chats = build_chats(calls, key)
        return [chat for chat in chats if any(message.train for message in chat.messages)]

    def _read_episode(
        self, episode: Sequence[RecordedTurn], weights: Mapping[int, float]
    ) -> list[tuple[RecordedTurn, AgentCall]]:
        calls: list[tuple[RecordedTurn, AgentCall]] = []
        abandoned_turns = find_abandoned([recorded_turn.turn for recorded_turn in episode])
        for recorded_turn in episode:
            try:
                if (call := read_agent_call(recorded_turn)) is None:
                    continue
                if recorded_turn.turn.number in abandoned_turns:
                    self.left_out["calls of an attempt that was started over"] += 1
                    continue
                self.left_out.update(f"tools that only a provider can run, {name}" for name in call.provider_tools)
                calls.append((recorded_turn, replace(call, weight=weights.get(recorded_turn.turn.number, 1.0))))
            except FormatError as error:
                self.left_out[f"calls: {error}"] += 1
        return calls

    def describe_left_out(self) -> list[str]:
        """A line for each reason."""
        return [f"{reason}: {count}" for reason, count in self.left_out.most_common() if count]

    def describe_ambiguity(self) -> list[str]:
        """A line where several recordings hold the same replies to a trajectory's question; else none."""
        line = f"{self.ambiguous} trajectories fit several recorded episodes, and are learned from the first"
        return [line] if self.ambiguous else []


def load_recorded_runs(runs: Iterable[Path]) -> RecordedRuns:
    """The calls of runs of ``record``. Raises DataError where a log cannot be read."""
    episodes: dict[str, list[Sequence[RecordedTurn]]] = defaultdict(list)
    for run in runs:
        index, calls = TurnIndex(), defaultdict[str, list[RecordedTurn]](list)
        for call in replay_calls(run, index):
            request, _ = index.read_request(call.dialect, call.request)
            calls[call.episode].append(RecordedTurn(call, request, index.add(call)))
        for name, episode in calls.items():
            episodes[name].append(episode)
    if not episodes:
        raise DataError(
            "the renderer 'recorded' needs recorded calls, and the data has none. Give a run of 'fireact record', or a "
            "mixture of such runs, or another --renderer."
        )
    return RecordedRuns(episodes)


def match_weights(trajectory: Trajectory, turns: Sequence[Turn]) -> dict[int, float] | None:
    """The weight of each turn of the main conversation, by its number; None where the trajectory has other replies."""
    path = find_main_path(turns)
    start = path[0].start
    assert start is not None  # the first of a path is a root
    replies = [
        (turn.number, reply) for turn in path if turn.reply for reply, _ in split_provider_calls((turn.reply, ()))
    ]
    closing = str(trajectory.meta.get("closing", ""))
    if closing and replies:
        _, closing_reply = replies.pop()  # the closing text has no step
        if closing_reply.text != closing:
            return None
    groups = group_joined_steps(trajectory.steps)[len(start.past) :]
    if start.question != trajectory.example.question or len(groups) != len(replies):
        return None
    weights: dict[int, float] = {}
    for (number, reply), group in zip(replies, groups, strict=True):
        if group[0].text not in (reply.text, steps_of_reply(reply, coded=start.coded)[0].text):
            return None
        weights[number] = min(weights.get(number, math.inf), *(step.weight for step in group))
    return weights


def find_abandoned(turns: Sequence[Turn]) -> set[int]:
    """The numbers of the turns of attempts that were started over.

    Such an attempt begins at a call whose request is that of a call of the main conversation.
    """
    path = find_main_path(turns)
    main_numbers, main_conversations = {turn.number for turn in path}, {turn.conversation for turn in path}
    abandoned: set[int] = set()
    for turn in turns:  # a parent comes before its children
        is_aside = turn.number not in main_numbers
        follows_abandoned = turn.parent is not None and turn.parent.number in abandoned
        if is_aside and (follows_abandoned or turn.conversation in main_conversations):
            abandoned.add(turn.number)
    return abandoned


def read_agent_call(recorded_turn: RecordedTurn) -> AgentCall | None:
    """A recorded call, or None where it has no reply. Raises FormatError where the student cannot read or write it."""
    request, reply = recorded_turn.request, recorded_turn.turn.reply
    if reply is None:
        return None
    if recorded_turn.turn.missing_ids:
        raise FormatError("the request refers to a response that is not in the recording")
    if request.damage:
        raise FormatError(str(request.damage[0]))
    message = reply_message(reply)
    says_something = bool(message.calls or message.content.strip())
    provider_tools: list[str] = []
    return AgentCall(
        student_messages(request.messages),
        [tool.schema for tool in client_tools(request, left_out=provider_tools)],
        message,
        says_something and reply.finish != "length",
        provider_tools=tuple(provider_tools),
    )


def build_chats(calls: Sequence[AgentCall], key: str) -> list[Chat]:
    """The chats of calls in their order; of calls with the same request the last one counts."""
    chats: list[Chat] = []
    for call in calls:
        reply = replace(call.reply, train=call.is_learned, weight=call.weight if call.is_learned else 1.0)
        position = next(
            (number for number, chat in reversed(list(enumerate(chats))) if _begins(call, chat)), len(chats)
        )
        trained = list(chats[position].messages) if position < len(chats) else []
        is_repeat = len(call.messages) < len(trained)
        messages = [*(trained[:-1] if is_repeat else trained + list(call.messages[len(trained) :])), reply]
        chats[position : position + 1] = [Chat(messages, call.tools, key)]
    return chats


def _begins(call: AgentCall, chat: Chat) -> bool:
    """Whether a chat, with or without its last reply, is the beginning of a request."""
    if list(call.tools) != list(chat.tools):
        return False
    sent = [_without_training(message) for message in chat.messages]
    request = list(call.messages)
    return request[: len(sent)] == sent or request == sent[:-1]


def _without_training(message: Message) -> Message:
    return replace(message, train=False, weight=1.0)
