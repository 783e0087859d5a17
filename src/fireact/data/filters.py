"""Filters: which trajectories pass, written as text or composed in Python.

    correct    steps<=6    method in {react,cot}    f1>=0.5 and not no_repairs    meta.hops=2    (a or b) and c

Invariant: a filter reads one trajectory and nothing else, and its name is text that parses to the same filter.
The text is parsed, never evaluated.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fireact.data.steps import find_faults, is_learnable
from fireact.errors import ConfigError
from fireact.types import Trajectory

Predicate = Callable[[Trajectory], bool]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_TOKEN = re.compile(r"\s*(?:(<=|>=|!=|=|<|>)|([{}(),])|\"([^\"]*)\"|'([^']*)'|([^\s<>=!{}(),\"'~]+))")
_META, _SCORE = "meta.", "scores."


def difficulty(trajectory: Trajectory) -> str:
    """How hard the question is: its task's ``level`` or ``hops``, else the number of steps."""
    meta = trajectory.example.meta
    if "level" in meta:
        return str(meta["level"])
    return f"{meta['hops']} hops" if "hops" in meta else f"{len(trajectory.steps)} steps"


def _has_no_repeats(trajectory: Trajectory) -> bool:
    thoughts = [step.thought for step in trajectory.steps if step.thought]
    return len(set(thoughts)) == len(thoughts) and "repeated action" not in find_faults(trajectory.steps)


def has_full_score(trajectory: Trajectory) -> bool:
    """Whether the answer has full score: exact match, or a reward of 1 where that was not scored."""
    scores = trajectory.scores
    return scores.get("em", scores.get("reward")) == 1.0


_NUMBERS: dict[str, Callable[[Trajectory], float | None]] = {
    "steps": lambda trajectory: len(trajectory.steps),
    "max_steps": lambda trajectory: len(trajectory.steps),
    "em": lambda trajectory: trajectory.scores.get("em"),
    "f1": lambda trajectory: trajectory.scores.get("f1"),
    "reward": lambda trajectory: trajectory.scores.get("reward"),
    "seed": lambda trajectory: trajectory.seed,
    "repairs": lambda trajectory: sum(step.repairs for step in trajectory.steps),
    "noise": lambda trajectory: sum(step.noise is not None for step in trajectory.steps),
}
_TEXTS: dict[str, Callable[[Trajectory], str]] = {
    "task": lambda trajectory: trajectory.task,
    "method": lambda trajectory: trajectory.method,
    "model": lambda trajectory: trajectory.model,
    "stop": lambda trajectory: trajectory.stop,
    "difficulty": difficulty,
}
_NAMED: dict[str, Predicate] = {
    "correct": has_full_score,
    "finished": lambda trajectory: trajectory.stop == "finish",
    "no_repeats": _has_no_repeats,
    "no_repairs": lambda trajectory: not any(step.repairs for step in trajectory.steps),
    "undisturbed": lambda trajectory: all(step.noise is None for step in trajectory.steps),
    "learnable": is_learnable,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """A test of one trajectory with a name; ``a & b``, ``a | b`` and ``~a`` make new ones."""

    name: str
    test: Predicate

    def __call__(self, trajectory: Trajectory) -> bool:
        return self.test(trajectory)

    def __and__(self, other: Filter) -> Filter:
        return Filter(
            f"{_name_in_brackets(self)} and {_name_in_brackets(other)}",
            lambda trajectory: self(trajectory) and other(trajectory),
        )

    def __or__(self, other: Filter) -> Filter:
        return Filter(
            f"{_name_in_brackets(self)} or {_name_in_brackets(other)}",
            lambda trajectory: self(trajectory) or other(trajectory),
        )

    def __invert__(self) -> Filter:
        return Filter(f"not {_name_in_brackets(self)}", lambda trajectory: not self(trajectory))


def _name_in_brackets(operand: Filter) -> str:
    """A filter's name as an operand of a larger one: in brackets if it is composed itself."""
    return f"({operand.name})" if re.search(r"\b(and|or)\b", operand.name) else operand.name


def predicate(text: str) -> Filter:
    """The filter that a text describes (see the module). Raises ConfigError that lists the known names."""
    try:
        return Filter(text, _Parser(text).parse_filter())
    except RecursionError as error:
        raise ConfigError(f"filter {text[:60]!r}...: too many brackets.") from error


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.tokens: list[tuple[str, str]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.error(f"{text[position : position + 10]!r} is out of place")
            position = match.end()
            kind = ("compare", "mark", "quoted", "quoted", "word")[(match.lastindex or 1) - 1]
            self.tokens.append((kind, match[match.lastindex or 0]))

    def error(self, why: str) -> ConfigError:
        names = f"{', '.join(_NAMED)}; {', '.join([*_NUMBERS, *_TEXTS])}, meta.NAME or scores.NAME"
        return ConfigError(
            f"unknown filter {self.text!r}: {why}. Known: {names} with =, !=, <=, in {{a,b}}; "
            "and, or, not and brackets join them."
        )

    def word_error(self, word: str) -> ConfigError:
        """The error for a word that is not a name, or is not allowed here."""
        if word in _NAMED:
            return self.error(f"{word!r} is true or false: write it alone, without a comparison")
        if word in (*_NUMBERS, *_TEXTS) or word.startswith((_META, _SCORE)):
            return self.error(f"{word!r} has a value: compare it, as in steps<=6 or method=react")
        close = difflib.get_close_matches(word, [*_NAMED, *_NUMBERS, *_TEXTS], n=1, cutoff=0.5)
        return self.error(f"there is no {word!r}{f', but {close[0]!r}' if close else ''}")

    def peek_token(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def next_token(self) -> tuple[str, str]:
        token = self.peek_token()
        self.position += 1
        return token

    def expect_mark(self, *marks: str) -> str:
        kind, mark = self.next_token()
        if kind != "mark" or mark not in marks:
            raise self.error(f"{' or '.join(marks)} is missing")
        return mark

    def parse_filter(self) -> Predicate:
        condition = self.parse_or()
        if self.peek_token()[0] != "end":
            raise self.error(f"{self.peek_token()[1]!r} is out of place")
        return condition

    def parse_or(self) -> Predicate:
        condition = self.parse_and()
        while self.peek_token() == ("word", "or"):
            self.next_token()
            condition = _either_holds(condition, self.parse_and())
        return condition

    def parse_and(self) -> Predicate:
        condition = self.parse_term()
        while self.peek_token() == ("word", "and"):
            self.next_token()
            condition = _both_hold(condition, self.parse_term())
        return condition

    def parse_term(self) -> Predicate:
        kind, word = self.next_token()
        if (kind, word) == ("word", "not"):
            negated = self.parse_term()
            return lambda trajectory: not negated(trajectory)
        if (kind, word) == ("mark", "("):
            condition = self.parse_or()
            self.expect_mark(")")
            return condition
        if kind != "word":
            raise self.error("a name is missing")
        if self.peek_token()[0] == "compare":
            return self.parse_comparison(word, self.next_token()[1])
        if self.peek_token() == ("word", "in"):
            self.next_token()
            return self.parse_membership(word)
        if word not in _NAMED:
            raise self.word_error(word)
        return _NAMED[word]

    def parse_comparison(self, name: str, sign: str) -> Predicate:
        read_value, expected, compare = self.find_value_reader(name), self.parse_value(name), _COMPARE[sign]
        return lambda trajectory: _compare_value(compare, read_value(trajectory), expected)

    def parse_membership(self, name: str) -> Predicate:
        read_value = self.find_value_reader(name)
        self.expect_mark("{")
        expected_values = [self.parse_value(name)]
        while self.expect_mark(",", "}") == ",":
            expected_values.append(self.parse_value(name))
        return lambda trajectory: any(
            _compare_value(operator.eq, read_value(trajectory), expected) for expected in expected_values
        )

    def find_value_reader(self, name: str) -> Callable[[Trajectory], Any]:
        if name in _NUMBERS or name in _TEXTS:
            return _NUMBERS.get(name) or _TEXTS[name]
        if name.startswith(_SCORE):
            score = name.removeprefix(_SCORE)
            return lambda trajectory: trajectory.scores.get(score)
        if not name.startswith(_META):
            raise self.word_error(name)
        key = name.removeprefix(_META)
        return lambda trajectory: trajectory.example.meta.get(key)

    def parse_value(self, name: str) -> float | str:
        kind, word = self.next_token()
        if kind not in ("word", "quoted"):
            raise self.error(f"a value for {name} is missing")
        if name in _TEXTS or kind == "quoted":
            return word
        try:
            if math.isfinite(number := float(word)):
                return number
            raise self.error(f"{word!r} is not a finite number")
        except ValueError:
            if name.startswith(_META):
                return word
            raise self.error(f"{word!r} is not a number") from None


def _both_hold(first: Predicate, second: Predicate) -> Predicate:
    return lambda trajectory: first(trajectory) and second(trajectory)


def _either_holds(first: Predicate, second: Predicate) -> Predicate:
    return lambda trajectory: first(trajectory) or second(trajectory)


def _compare_value(compare: Callable[[Any, Any], bool], value: Any, expected: float | str) -> bool:
    """Compare numbers as numbers and anything else as text; a missing value never matches."""
    if value is None:
        return False
    if isinstance(expected, float) and isinstance(value, int | float):
        return compare(value, expected)
    return compare(str(value), f"{expected:g}" if isinstance(expected, float) else expected)
