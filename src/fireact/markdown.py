"""Text in Markdown files.

Invariant: it shows as it is, but for control characters; nothing in it becomes a heading, a picture, a formula, HTML, or a link
other than to an address that it shows.
"""

from __future__ import annotations

import re

from fireact.controls import without_controls

_ACTIVE = re.compile(r"([\\`*_\[\]|]|<(?=[A-Za-z/!?])|&(?=[#\w]))")
_PAIRS = "$~"
"""What begins a formula or crosses out, up to the next one."""
_AT_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[#+\-=:>]))(.)")


def in_cell(words: str) -> str:
    """Any text as a cell of a table, line breaks as spaces."""
    return _escaped(words, alone=1)  # one mark begins nothing, and stays legible


def text(words: str) -> str:
    """Any text as one line of Markdown or a part of one, line breaks as spaces."""
    return _AT_START.sub(r"\1\\\2", _escaped(words, alone=0))


def _escaped(words: str, *, alone: int) -> str:
    """One line in which no mark is active; of those that come in pairs so many stay as they are."""
    line = _ACTIVE.sub(r"\\\1", _line(words))
    for mark in _PAIRS:
        line = line.replace(mark, f"\\{mark}") if line.count(mark) > alone else line
    return line


def _line(words: str) -> str:
    return without_controls(" ".join(words.split()))


def code(words: str) -> str:
    """Any text as a code span on one line."""
    line = _line(words) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"
