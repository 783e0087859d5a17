"""What a student writes, as the reply to a client: text, tool calls, and the answer of a student that has ``finish``.

Invariant: the deltas of a stream add up to the whole reply. A text is a call only where the request allows calls, and
never inside reasoning. Text after a call stays text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence

from fireact.models.stops import held_back_length
from fireact.types import FINISH, Action, Completion
from fireact.wire.dialect import StreamDelta, ToolCall, WireReply
from fireact.wire.reasoning import CLOSING_TAGS, OPENING_TAGS, split_reasoning
from fireact.wire.text_calls import CALL_TAGS, find_call_spans

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
        self._text, self._sent_chars, self._sent_reasoning_chars, self._sent_calls = "", 0, 0, 0

    def add(self, delta: str) -> None:
        """Read a delta of the student's text."""
        self._text += delta
        bare_text = self._text.lstrip()
        if self._finish or held_back_length(bare_text, OPENING_TAGS) == len(bare_text):
            return  # a thought may turn out to belong to an answer, and a text may turn out to begin with reasoning
        reasoning, content = self._split()
        self._send_reasoning(reasoning)
        self._send_text(content[: self._find_text_end(content)])
        if OPENING_TAG in content and delta.rstrip().endswith(">"):
            self._send_calls([action for _, _, actions in self._find_spans(content) for action in actions])

    def end(self, completion: Completion) -> WireReply:
        """The whole reply, once its last deltas are sent."""
        self._text = completion.text
        reasoning, content = self._split(is_whole=True)
        reasoning = completion.reasoning or reasoning
        spans = [] if completion.calls else self._find_spans(content)
        calls = list(completion.calls) or [action for _, _, actions in spans for action in actions]
        text = _join_texts(content, spans) if spans else content
        if self._has_calls and completion.finish == "length" and OPENING_TAG in text and not completion.calls:
            text = text[: text.index(OPENING_TAG)].rstrip()  # a call that was cut off is no text; the finish says so
        if self._finish and [call.name for call in calls] == [FINISH]:
            text, reasoning, calls = _format_answer(calls[0]), "\n\n".join(filter(None, (reasoning, text))), []
        elif self._finish:
            calls = [call for call in calls if call.name != FINISH]
        self._send_reasoning(reasoning)
        if text[self._sent_chars :]:
            self._on_delta(StreamDelta(text[self._sent_chars :]))
        self._send_calls(calls)
        wire_calls = tuple(self._number_call(position, call) for position, call in enumerate(calls))
        return WireReply(
            (text,) if text or not calls else (), wire_calls, reasoning=reasoning, usage=completion.usage,
            finish="tool_calls" if calls and completion.finish == "stop" else completion.finish,
        )  # fmt: skip

    def _split(self, *, is_whole: bool = False) -> tuple[str, str]:
        """The reasoning and the content so far; a tag that closes reasoning counts alone until text has been sent."""
        split = split_reasoning(self._text)
        is_opened = self._text.lstrip().startswith(OPENING_TAGS)
        if split is None or not (is_opened or (is_whole and not self._sent_chars)):
            return "", self._text
        reasoning, content = split
        is_open = not is_whole and not any(tag in self._text for tag in CLOSING_TAGS)
        certain_chars = len(reasoning) - (held_back_length(reasoning, CLOSING_TAGS) if is_open else 0)
        return reasoning[:certain_chars].strip("\n"), content

    def _find_spans(self, content: str) -> list[tuple[int, int, list[Action]]]:
        return find_call_spans(content) if self._has_calls else []

    def _find_text_end(self, content: str) -> int:
        """Where the text that is no call ends, or may end once more is written."""
        if not self._has_calls:
            return len(content)
        starts = [position for mark in (OPENING_TAG, _BARE_CALL) if (position := content.find(mark)) >= 0]
        return min(starts) if starts else len(content) - held_back_length(content, (OPENING_TAG, _BARE_CALL))

    def _send_reasoning(self, reasoning: str) -> None:
        if reasoning[self._sent_reasoning_chars :]:
            self._on_delta(StreamDelta(reasoning=reasoning[self._sent_reasoning_chars :]))
            self._sent_reasoning_chars = len(reasoning)

    def _send_text(self, certain_text: str) -> None:
        # Space at the end stays back: it belongs to a call that follows.
        text = certain_text.rstrip() if self._has_calls else certain_text
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


def _join_texts(content: str, spans: Sequence[tuple[int, int, list[Action]]]) -> str:
    """The texts before, between and after the calls, a line each."""
    starts, ends = [*(span[0] for span in spans), len(content)], [0, *(span[1] for span in spans)]
    first, *others = [content[end:start] for end, start in zip(ends, starts, strict=True)]
    return "\n".join(filter(None, [first.rstrip(), *(text.strip() for text in others)]))


def _format_answer(finish: Action) -> str:
    answer = finish.arguments.get("answer", "")
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
