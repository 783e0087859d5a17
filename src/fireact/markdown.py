"""Text in Markdown files. Invariant: it shows as it is; nothing in it becomes a heading, a link, a picture, a formula or HTML."""

from __future__ import annotations

import re

_ACTIVE = re.compile(r"([\\`*_\[\]|]|<(?=[A-Za-z/!?])|&(?=[#\w]))")
_PAIRS = "$~"
"""What begins a formula or crosses out, up to the next one."""
_AT_START = re.compile(r"^(\d+(?=[.)])|(?=[#+\-=:>]))(.)")


def inline(words: str) -> str:
    """Any text as Markdown within a line or a cell of a table, line breaks as spaces."""
    line = _ACTIVE.sub(r"\\\1", " ".join(words.split()))
    for mark in _PAIRS:
        line = line.replace(mark, f"\\{mark}") if line.count(mark) > 1 else line
    return line


def text(words: str) -> str:
    """Any text as one line of Markdown, line breaks as spaces."""
    return _AT_START.sub(r"\1\\\2", inline(words))


def code(words: str) -> str:
    """Any text as a code span on one line."""
    line = " ".join(words.split()) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"
