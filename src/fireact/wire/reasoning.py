"""Reasoning in a text, between ``<think>`` tags as most model families write it: wrapped, split off, stripped."""

from __future__ import annotations

import re

from fireact.wire.text_calls import is_inside_call

REASONING_BLOCKS = ("reasoning", "thinking", "redacted_thinking")
"""The types of content blocks that hold reasoning."""

_WRAPPED = re.compile(r"\A<think>\n(.*?)\n</think>\n\n(.*)\Z", re.DOTALL)
_PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
OPENING_TAGS, CLOSING_TAGS = tuple(pair[0] for pair in _PAIRS), tuple(pair[1] for pair in _PAIRS)
_TAGS = re.compile(r"</?think>")


def wrap_reasoning(reasoning: str, content: str) -> str:
    """The content after its reasoning in tags; the content alone where there is no reasoning."""
    return f"<think>\n{reasoning}\n</think>\n\n{content}" if reasoning else content


def unwrap_reasoning(text: str) -> tuple[str, str] | None:
    """The reasoning and the content of a text exactly as ``wrap_reasoning`` writes it, or None."""
    match = _WRAPPED.match(text)
    return (match[1], match[2]) if match else None


def split_reasoning(text: str) -> tuple[str, str] | None:
    """The reasoning in tags at the start of any text, as it stands between them, and the text after it, or None.

    Many templates write the opening tag themselves, so all before a closing tag alone is reasoning. Where no tag
    closes the reasoning, it was cut: there is no text after it.
    """
    for opening, closing in _PAIRS:
        before, closed, after = text.partition(closing)
        bare = before.lstrip()
        if bare.startswith(opening):
            return bare.removeprefix(opening), after.lstrip()
        if closed and opening not in before and not is_inside_call(text, len(before)):
            return before, after.lstrip()
    return None


def strip_thinking(text: str) -> str:
    """A text without hidden reasoning at its start."""
    split = split_reasoning(text)
    return text if split is None else split[1]


def strip_think_tags(text: str) -> str:
    """A text without the tags themselves; the reasoning between them stays."""
    return _TAGS.sub("", text)
