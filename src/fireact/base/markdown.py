"""Text in Markdown files.

Invariant: the text shows as it is, except for control characters. Nothing in it becomes a heading, a picture, a
formula or HTML; a link leads only to an address that is visible in the text.
"""

from __future__ import annotations

import re

from fireact.base.controls import strip_controls

_ACTIVE = re.compile(r"([\\`*_\[\]|]|<(?=[A-Za-z/!?])|&(?=[#\w]))")
_PAIRS = "$~"
"""Marks that work in pairs: ``$`` encloses a formula, ``~`` text that is crossed out."""
_AT_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[#+\-=:>]))(.)")


def escape_cell(text: str) -> str:
    """Any text as a table cell, with line breaks as spaces."""
    return _escape_marks(text, allowed_marks=1)  # a single mark has no effect, so it can stay


def escape_line(line_text: str) -> str:
    """Any text as one line of Markdown or a part of one, with line breaks as spaces."""
    return _AT_START.sub(r"\1\\\2", _escape_marks(line_text, allowed_marks=0))


def _escape_marks(line_text: str, *, allowed_marks: int) -> str:
    """One line in which no mark is active; up to ``allowed_marks`` of a paired mark stay unescaped."""
    line = _ACTIVE.sub(r"\\\1", _single_line(line_text))
    for mark in _PAIRS:
        line = line.replace(mark, f"\\{mark}") if line.count(mark) > allowed_marks else line
    return line


def _single_line(text: str) -> str:
    return strip_controls(" ".join(text.split()))


def code_span(text: str) -> str:
    """Any text as a code span on one line."""
    line = _single_line(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"
