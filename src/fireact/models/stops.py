"""Stop strings: where a text ends, and how much of one that is still written can be told already.

Invariant: what is told of a text never has to be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence


def before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string in it."""
    ends = [at for string in stop if (at := text.find(string)) >= 0]
    return text[: min(ends)] if ends else text


def held_back(text: str, stop: Sequence[str]) -> int:
    """How many letters at the end of a text may yet turn out to begin a stop string."""
    lengths = (n for string in stop for n in range(1, len(string)) if text.endswith(string[:n]))
    return max(lengths, default=0)
