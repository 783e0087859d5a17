"""Stop strings: where a text ends, and how much of an unfinished text can be sent already.

Invariant: text that was sent never has to be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string in it."""
    ends = [position for string in stop if (position := text.find(string)) >= 0]
    return text[: min(ends)] if ends else text


def held_back_length(text: str, stop: Sequence[str]) -> int:
    """The number of characters at the end of a text that may turn out to begin a stop string."""
    lengths = (
        length
        for string in stop
        for length in range(1, min(len(string), len(text) + 1))
        if text.endswith(string[:length])
    )
    return max(lengths, default=0)
