"""Filters: which trajectories are wanted, written as text or composed in Python.

    correct    steps<=6    method in {react,cot}    f1>=0.5 and not no_repairs    meta.hops=2    (a or b) and c

Invariant: a filter looks at one trajectory and at nothing else, and its name is text that gives the same filter again.
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

from fireact.data.steps import faults, learnable
from fireact.errors import ConfigError
from fireact.types import Trajectory

Predicate = Callable[[Trajectory], bool]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_TOKEN = re.compile(r"\s*(?:(<=|>=|!=|=|<|>)|([{}(),])|\"([^\"]*)\"|'([^']*)'|([^\s<>=!{}(),\"'~]+))")
_META, _SCORE = "meta.", "scores."


def difficulty(trajectory: Trajectory) -> str:
    """How hard the question is: what its task says (``level``, or ``hops``), else how many steps it took."""
    meta = trajectory.example.meta
    if "level" in meta:
        return str(meta["level"])
    return f"{meta['hops']} hops" if "hops" in meta else f"{len(trajectory.steps)} steps"


def _no_repeats(trajectory: Trajectory) -> bool:
    thoughts = [step.thought for step in trajectory.steps if step.thought]
    return len(set(thoughts)) == len(thoughts) and "repeated action" not in faults(trajectory.steps)


def is_right(trajectory: Trajectory) -> bool:
    """Whether the answer is right: exact match, or where there is none the full reward."""
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
    "correct": is_right,
    "finished": lambda trajectory: trajectory.stop == "finish",
    "no_repeats": _no_repeats,
    "no_repairs": lambda trajectory: not any(step.repairs for step in trajectory.steps),
    "undisturbed": lambda trajectory: all(step.noise is None for step in trajectory.steps),
    "learnable": learnable,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """A test of one trajectory with a name; ``a & b``, ``a | b`` and ``~a`` make new ones."""

    name: str
    test: Predicate

    def __call__(self, trajectory: Trajectory) -> bool:
        return self.test(trajectory)

    def __and__(self, other: Filter) -> Filter:
        return Filter(f"{_whole(self)} and {_whole(other)}", lambda trajectory: self(trajectory) and other(trajectory))

    def __or__(self, other: Filter) -> Filter:
        return Filter(f"{_whole(self)} or {_whole(other)}", lambda trajectory: self(trajectory) or other(trajectory))

    def __invert__(self) -> Filter:
        return Filter(f"not {_whole(self)}", lambda trajectory: not self(trajectory))


def _whole(part: Filter) -> str:
    """The name of a part within a larger one: in brackets where it has parts of its own."""
    return f"({part.name})" if re.search(r"\b(and|or)\b", part.name) else part.name


def predicate(text: str) -> Filter:
    """The filter that a text names, compares or composes (see the module). Raises ConfigError that lists what there is."""
    try:
        return Filter(text, _Parser(text).whole())
    except RecursionError as error:
        raise ConfigError(f"filter {text[:60]!r}...: too many brackets.") from error


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens: list[tuple[str, str]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.wrong(f"{text[position : position + 10]!r} is out of place")
            position = match.end()
            kind = ("compare", "mark", "quoted", "quoted", "word")[(match.lastindex or 1) - 1]
            self.tokens.append((kind, match[match.lastindex or 0]))

    def wrong(self, why: str) -> ConfigError:
        known = f"Known: {', '.join(_NAMED)}; {', '.join([*_NUMBERS, *_TEXTS])}, meta.NAME or scores.NAME with =, !=, <=, in {{a,b}}"
        return ConfigError(f"unknown filter {self.text!r}: {why}. {known}; and, or, not and brackets join them.")

    def no(self, word: str) -> ConfigError:
        """The error for a word that is no name, or not in this place."""
        if word in _NAMED:
            return self.wrong(f"{word!r} holds or does not, and has nothing to compare: write it alone")
        if word in (*_NUMBERS, *_TEXTS) or word.startswith((_META, _SCORE)):
            return self.wrong(f"{word!r} has a value: compare it, as in steps<=6 or method=react")
        close = difflib.get_close_matches(word, [*_NAMED, *_NUMBERS, *_TEXTS], n=1, cutoff=0.5)
        return self.wrong(f"there is no {word!r}{f', but {close[0]!r}' if close else ''}")

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def next(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def expect(self, *marks: str) -> str:
        kind, found = self.next()
        if kind != "mark" or found not in marks:
            raise self.wrong(f"{' or '.join(marks)} is missing")
        return found

    def whole(self) -> Predicate:
        found = self.either()
        if self.peek()[0] != "end":
            raise self.wrong(f"{self.peek()[1]!r} is out of place")
        return found

    def either(self) -> Predicate:
        found = self.both()
        while self.peek() == ("word", "or"):
            self.next()
            found = _or(found, self.both())
        return found

    def both(self) -> Predicate:
        found = self.one()
        while self.peek() == ("word", "and"):
            self.next()
            found = _and(found, self.one())
        return found

    def one(self) -> Predicate:
        kind, word = self.next()
        if (kind, word) == ("word", "not"):
            refused = self.one()
            return lambda trajectory: not refused(trajectory)
        if (kind, word) == ("mark", "("):
            found = self.either()
            self.expect(")")
            return found
        if kind != "word":
            raise self.wrong("a name is missing")
        if self.peek()[0] == "compare":
            return self.comparison(word, self.next()[1])
        if self.peek() == ("word", "in"):
            self.next()
            return self.membership(word)
        if word not in _NAMED:
            raise self.no(word)
        return _NAMED[word]

    def comparison(self, name: str, sign: str) -> Predicate:
        read, wanted, compare = self.reader(name), self.value(name), _COMPARE[sign]
        return lambda trajectory: _compared(compare, read(trajectory), wanted)

    def membership(self, name: str) -> Predicate:
        read = self.reader(name)
        self.expect("{")
        wanted = [self.value(name)]
        while self.expect(",", "}") == ",":
            wanted.append(self.value(name))
        return lambda trajectory: any(_compared(operator.eq, read(trajectory), one) for one in wanted)

    def reader(self, name: str) -> Callable[[Trajectory], Any]:
        if name in _NUMBERS or name in _TEXTS:
            return _NUMBERS.get(name) or _TEXTS[name]
        if name.startswith(_SCORE):
            score = name.removeprefix(_SCORE)
            return lambda trajectory: trajectory.scores.get(score)
        if not name.startswith(_META):
            raise self.no(name)
        key = name.removeprefix(_META)
        return lambda trajectory: trajectory.example.meta.get(key)

    def value(self, name: str) -> float | str:
        kind, word = self.next()
        if kind not in ("word", "quoted"):
            raise self.wrong(f"a value for {name} is missing")
        if name in _TEXTS or kind == "quoted":
            return word
        try:
            if math.isfinite(number := float(word)):
                return number
            raise self.wrong(f"{word!r} is no number to compare with")
        except ValueError:
            if name.startswith(_META):
                return word
            raise self.wrong(f"{word!r} is not a number") from None


def _and(one: Predicate, other: Predicate) -> Predicate:
    return lambda trajectory: one(trajectory) and other(trajectory)


def _or(one: Predicate, other: Predicate) -> Predicate:
    return lambda trajectory: one(trajectory) or other(trajectory)


def _compared(compare: Callable[[Any, Any], bool], value: Any, wanted: float | str) -> bool:
    """Numbers compare with numbers; anything else as text; what a question does not say fits nothing."""
    if value is None:
        return False
    if isinstance(wanted, float) and isinstance(value, int | float):
        return compare(value, wanted)
    return compare(str(value), f"{wanted:g}" if isinstance(wanted, float) else wanted)
