"""No regular expression takes more than linear time, whatever text it is given."""

import re
from typing import Any

import pytest

from patterns import Use, collect_uses, find_slow_text, list_unknown_patterns

OWN_PATTERNS = {
    "models/grammar.py": "names of special tokens, escaped",
    "models/scripted.py": "a name of the world, escaped",
    "render/chat.py": "names of special tokens, escaped",
    "render/composed.py": "characters of special tokens, escaped",
    "reporting/plots.py": "colours",
    "tasks/paper.py": "names of released files",
}
"""Where a pattern is put together as the program runs, and of what."""


def test_every_pattern_is_known_here() -> None:
    assert {text.partition(":")[0] for text in list_unknown_patterns()} == set(OWN_PATTERNS)


@pytest.mark.slow
def test_no_pattern_takes_more_than_linear_time() -> None:
    uses = collect_uses()
    assert len(uses) > 100
    slow = {f"{use.where}, {use.method}": text for use in uses if (text := find_slow_text(use)) is not None}
    assert not slow


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"\n\s*(?:Thought|Action)\Z", "search"),
        (r"\s*# Tools", "search"),
        (r"[A-Za-z_][\w.-]*\[", "search"),
        (r"<tools>\s*(.*?)\s*</tools>", "search"),
        (r"\s*(\$?)\s*\d", "match"),
        (r"(a+)+b", "match"),
        (r"(?:a|b|ab)*c", "fullmatch"),
        (rb"x*y*x*z", "search"),
        (r"Name:[ \t]*([^\n]+)\nValue", "search"),
    ],
)
def test_slow_patterns_are_found(pattern: Any, method: str) -> None:
    assert find_slow_text(Use("", re.compile(pattern, re.DOTALL), method)) is not None


@pytest.mark.parametrize(
    ("pattern", "method"),
    [(r"\s*# Tools", "match"), (r"<[^<>]*>", "search"), (r"(?<!\w)\w{1,500}@", "search"), (r"(?:a|b)*+c", "match")],
)
def test_linear_patterns_are_not(pattern: str, method: str) -> None:
    assert find_slow_text(Use("", re.compile(pattern), method)) is None
