"""A student's text as a reply: reasoning, text and calls, whole and in deltas of any size."""

from typing import Any

import pytest

from fireact.serving.student_reply import StudentReply
from fireact.types import Completion, Usage
from fireact.wire.dialect import StreamDelta, WireReply

CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>'
THINK = "<think>\nI look it up.\n</think>\n\n"


def read(text: str, *, size: int, finish: Any = "stop", **options: Any) -> tuple[WireReply, list[StreamDelta]]:
    """The reply of a text that comes in deltas of ``size`` characters; 0 brings it as a whole."""
    deltas: list[StreamDelta] = []
    reply = StudentReply(deltas.append, **{"callable": ("search",), **options})
    for start in range(0, len(text) if size else 0, size or 1):
        reply.add(text[start : start + size])
    return reply.end(Completion(text, Usage(), finish, 0.0)), deltas


@pytest.mark.parametrize(
    ("text", "reasoning", "visible", "calls"),
    [
        (f"{THINK}Paris", "I look it up.", "Paris", 0),
        (f"<think>maybe {CALL}</think>Paris", f"maybe {CALL}", "Paris", 0),
        (f"{THINK}Let me see. {CALL}", "I look it up.", "Let me see.", 1),
        (f"Let me see. {CALL}\nAnd this comes after.", "", "Let me see.\nAnd this comes after.", 1),
        (f"{CALL}\nmiddle\n{CALL}", "", "middle", 2),
        ('{"name": "search", "arguments": {}} too', "", "too", 1),
        ('The object is {"a": 1} as said.', "", 'The object is {"a": 1} as said.', 0),
        ("  <3 is a heart, <thin> is no tag", "", "  <3 is a heart, <thin> is no tag", 0),
        ("<think>\nnever closed", "never closed", "", 0),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 7])
def test_reasoning_text_and_calls_are_told_apart(
    text: str, reasoning: str, visible: str, calls: int, size: int
) -> None:
    reply, deltas = read(text, size=size)
    assert (reply.reasoning, reply.text, len(reply.calls)) == (reasoning, visible, calls)
    assert "".join(delta.text for delta in deltas) == visible
    assert "".join(delta.reasoning for delta in deltas) == reasoning
    assert tuple(call for delta in deltas for call in delta.calls) == reply.calls


def test_a_closing_tag_alone_ends_reasoning_where_no_text_was_sent() -> None:
    reply, _ = read("I look it up.\n</think>\n\nParis", size=0, callable=())
    assert (reply.reasoning, reply.text) == ("I look it up.", "Paris")
    reply, deltas = read("I look it up.\n</think>\n\nParis", size=7, callable=())
    assert "".join(delta.text for delta in deltas) == reply.text and not reply.reasoning


def test_a_call_that_was_cut_off_is_no_text() -> None:
    reply, _ = read(f"See. {CALL} then {CALL[:30]}", size=7, finish="length")
    assert (reply.text, len(reply.calls), reply.finish) == ("See.\nthen", 1, "length")
