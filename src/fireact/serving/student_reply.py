"""What a student writes, as the reply to a client: text, tool calls, and the answer of a student that has ``finish``.

Invariant: the deltas of a stream add up to the whole reply. A text is a call only where the request allows calls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection

from fireact.models.stops import held_back_length
from fireact.types import FINISH, Action, Completion
from fireact.wire.dialect import StreamDelta, ToolCall, WireReply
from fireact.wire.text_calls import CALL_TAGS, find_calls

OPENING_TAG = CALL_TAGS.split("\n", 1)[0]
_BARE_CALL = '{"'


class StudentReply:
    """Reads a reply while it is written; ``on_delta`` gets what is certain.

    ``callable`` are the tools that the student may call. ``finish`` is true for a student that answers by the finish
    action, which its client does not have: the answer becomes the text, and the thought becomes reasoning.
    ``call_seed`` is what the ids of calls are made from: other requests have other ids.
    """

    def __init__(
        self,
        on_delta: Callable[[StreamDelta], None],
        *,
        callable: Collection[str] = (),
        finish: bool = False,
        call_seed: str = "",
    ) -> None:
        self._on_delta, self._finish, self._call_seed = on_delta, finish, call_seed
        self._has_calls = bool(callable) or finish
        self._text, self._sent_chars, self._sent_calls = "", 0, 0

    def add(self, delta: str) -> None:
        """Read a delta of the student's text."""
        self._text += delta
        if self._finish:
            return  # until the reply is whole, a thought may turn out to belong to an answer
        self._send_text(self._find_text_end())
        if OPENING_TAG in self._text and delta.rstrip().endswith(">"):
            self._send_calls([action for _, action in self._find_calls()])

    def end(self, completion: Completion) -> WireReply:
        """The whole reply, once its last deltas are sent."""
        self._text = completion.text
        start, calls = len(self._text), list(completion.calls)
        positions = [] if calls else self._find_calls()
        if positions:
            start, calls = positions[0][0], [action for _, action in positions]
        if not calls and self._has_calls and completion.finish == "length" and OPENING_TAG in self._text:
            start = self._text.index(OPENING_TAG)  # a call that was cut off is no text; the finish says so
        text = self._text[:start].rstrip() if start < len(self._text) else self._text
        reasoning = ""
        if self._finish and [call.name for call in calls] == [FINISH]:
            text, reasoning, calls = _format_answer(calls[0]), text, []
        elif self._finish:
            calls = [call for call in calls if call.name != FINISH]
        if reasoning:
            self._on_delta(StreamDelta(reasoning=reasoning))
        if text[self._sent_chars :]:
            self._on_delta(StreamDelta(text[self._sent_chars :]))
        self._send_calls(calls)
        wire_calls = tuple(self._number_call(position, call) for position, call in enumerate(calls))
        return WireReply(
            (text,) if text or not calls else (), wire_calls, reasoning=reasoning, usage=completion.usage,
            finish="tool_calls" if calls and completion.finish == "stop" else completion.finish,
        )  # fmt: skip

    def _find_calls(self) -> list[tuple[int, Action]]:
        return find_calls(self._text) if self._has_calls else []

    def _find_text_end(self) -> int:
        """Where the text that is no call ends, or may end once more is written."""
        if not self._has_calls:
            return len(self._text)
        starts = [position for mark in (OPENING_TAG, _BARE_CALL) if (position := self._text.find(mark)) >= 0]
        return min(starts) if starts else len(self._text) - held_back_length(self._text, (OPENING_TAG, _BARE_CALL))

    def _send_text(self, end: int) -> None:
        # Space at the end stays back: it belongs to a call that follows.
        text = self._text[:end].rstrip() if self._has_calls else self._text[:end]
        if len(text) > self._sent_chars:
            self._on_delta(StreamDelta(text[self._sent_chars :]))
            self._sent_chars = len(text)

    def _send_calls(self, calls: list[Action]) -> None:
        for position, call in enumerate(calls[self._sent_calls :], self._sent_calls):
            self._on_delta(StreamDelta(calls=(self._number_call(position, call),)))
        self._sent_calls = max(self._sent_calls, len(calls))

    def _number_call(self, position: int, call: Action) -> ToolCall:
        # Nine letters and digits, as every provider takes; agents that send calls as text have no ids to go on from.
        digest = hashlib.sha256(f"{position} {self._call_seed}".encode()).hexdigest()
        return ToolCall(digest[:9], call.name, json.dumps(dict(call.arguments), ensure_ascii=False))


def _format_answer(finish: Action) -> str:
    answer = finish.arguments.get("answer", "")
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
