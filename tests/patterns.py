"""All regular expressions of the package, and how the time of each grows with long repeated text."""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The parser of re, which its stubs do not show; its public name sre_parse is deprecated.
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import fireact

SOURCE = Path(fireact.__file__).parent
ANCHORED = {"match": "match", "fullmatch": "fullmatch"}
METHODS = ("search", "match", "fullmatch", "findall", "finditer", "sub", "subn", "split")
UNITS = (" ", "\n", "a", "A", "0", "<", "x y", "\n\n ", "\t", "é")
"""Text that is repeated for every pattern, besides what the pattern itself holds."""
SIZES = (120, 640)
SMALL_SIZES = (16, 24, 36, 54, 80)
"""Sizes for patterns with a repeat of repeats or of alternatives, whose time may double with each character."""
SUSPICIOUS = 40
"""A time that is so many times that of a plain scan is measured at a quarter of the length, too."""
GROWTH = 9.0
"""A linear pattern takes 4 times as long for 4 times the text, a quadratic one 16 times."""


@dataclass(frozen=True)
class Use:
    """A pattern and the way in which it is applied: search (also for findall, sub and split), match or fullmatch."""

    where: str
    pattern: Any
    method: str


def collect_uses() -> list[Use]:
    """Every pattern of the package, once for each way in which it is applied."""
    uses = [use for source in read_sources() for use in [*_literal_uses(source), *_compiled_uses(source)]]
    return list({(use.pattern, use.method): use for use in uses}.values())


def list_unknown_patterns() -> list[str]:
    """Calls of ``re`` whose pattern is only known when they run."""
    return [
        f"{source.name}: {ast.unparse(call)}"
        for source in read_sources()
        for call in source.calls_of_re
        if _evaluate(call.args[0]) is None
    ]


@dataclass(frozen=True)
class Source:
    """One file of the package: its calls of ``re`` in functions, and how it uses the names of variables."""

    name: str
    holds_patterns: bool
    calls_of_re: tuple[ast.Call, ...]
    methods: Mapping[str, list[str]]
    loads: Mapping[str, int]


@cache
def read_sources() -> list[Source]:
    return [_read_source(path) for path in sorted(SOURCE.rglob("*.py"))]


def _read_source(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    calls, methods, loads = [], defaultdict[str, list[str]](list), Counter[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            methods[node.value.id].append(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loads[node.id] += 1
        elif id(node) in inside and _is_call_of_re(node):
            calls.append(node)
    name = path.relative_to(SOURCE).as_posix()
    return Source(name, "re.compile(" in text, tuple(calls), methods, loads)


def _is_call_of_re(node: ast.AST) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and bool(node.args)
    return is_call and ast.unparse(node.func.value) == "re" and node.func.attr in (*METHODS, "compile")


def _evaluate(node: ast.expr) -> Any:
    """The value of a pattern's expression; None where it depends on values."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _literal_uses(source: Source) -> Iterator[Use]:
    """Patterns that are written in a call of ``re`` within a function."""
    for call in source.calls_of_re:
        assert isinstance(call.func, ast.Attribute)  # of re
        pattern, name = _evaluate(call.args[0]), call.func.attr
        if pattern is None:
            continue
        flags = [item.value for item in call.keywords if item.arg == "flags"]
        flags += [item for item in call.args[1:] if re.match(r"re\.[A-Z]", ast.unparse(item))]
        value = eval(ast.unparse(flags[0]), {"re": re}) if flags else 0
        yield Use(f"{source.name}:{call.lineno}", re.compile(pattern, value), ANCHORED.get(name, "search"))


def _compiled_uses(source: Source) -> Iterator[Use]:
    """Patterns that a module holds in its variables, as they are applied in any module that names them."""
    if not source.holds_patterns:
        return
    module = importlib.import_module(f"fireact.{source.name.removesuffix('.py').replace('/', '.')}")
    for name, value in vars(module).items():
        for pattern in _patterns_in(value):
            for method in _applied(source, name):
                yield Use(f"{source.name}: {name}", pattern, method)


def _patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, Mapping):
        yield from _patterns_in(list(value.values()))
    elif isinstance(value, list | tuple):
        yield from (pattern for item in value for pattern in _patterns_in(item))


def _applied(source: Source, name: str) -> set[str]:
    """How a variable's pattern is applied; by search where it is handed to another function."""
    methods: set[str] = set()
    for reader in [source] if name.startswith("_") else read_sources():
        calls = reader.methods.get(name, [])
        methods |= {ANCHORED.get(call, "search") for call in calls if call in METHODS}
        methods |= {"search"} if reader.loads[name] > len(calls) else set()
    return methods or {"search"}


# --- text that is made of a pattern ---


def adverse_texts(pattern: re.Pattern[Any], size: int) -> Iterator[Any]:
    """Long texts: each beginning of a match, then one piece of the pattern repeated, then nothing that it wants."""
    tree = parser.parse(pattern.pattern, pattern.flags)
    units = list(dict.fromkeys([*_pieces(tree), *UNITS]))
    heads = list(dict.fromkeys(["", *_beginnings(tree)]))
    for head in heads:
        for unit in units:
            text = head + unit * max(1, size // max(len(unit), 1)) + "\x01"
            yield text.encode("utf-8", "replace") if isinstance(pattern.pattern, bytes) else text


def _pieces(tree: Iterable[Any]) -> list[str]:
    """One text for each class and run of literals in a pattern, for each repeated part, and for all of it."""
    pieces: list[str] = []
    for code, value in tree:
        pieces += [_sample([(code, value)])]
        for inner in _inner(code, value):
            pieces += [_sample(inner), *_pieces(inner)]
    return [piece for piece in dict.fromkeys([*pieces, _sample(tree)]) if piece]


def _beginnings(tree: Any) -> list[str]:
    """The shortest matches of what stands before each repeated part."""
    beginnings: list[str] = []
    before = ""
    for code, value in tree:
        for inner in _inner(code, value):
            beginnings += [before + beginning for beginning in ["", *_beginnings(inner)]]
        before += _sample([(code, value)])
    return [*beginnings, before]


def _inner(code: Any, value: Any) -> list[Any]:
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        return [value[2]]
    if code is codes.SUBPATTERN:
        return [value[3]]
    if code is codes.BRANCH:
        return list(value[1])
    if code is codes.ATOMIC_GROUP:
        return [value]
    return [value[1]] if code in (codes.ASSERT, codes.ASSERT_NOT) else []


def _sample(tree: Iterable[Any]) -> str:
    """A short text that a parsed pattern matches, but for what stands around it."""
    text = ""
    for code, value in tree:
        if code is codes.LITERAL:
            text += chr(value)
        elif code is codes.NOT_LITERAL:
            text += "b" if value == ord("a") else "a"
        elif code is codes.ANY:
            text += "a"
        elif code is codes.IN:
            text += _member(value)
        elif code is codes.BRANCH:
            text += _sample(value[1][0])
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            text += _sample(value[2]) * min(max(value[0], 1), 3)
        elif code is codes.SUBPATTERN:
            text += _sample(value[3])
    return text


CATEGORIES = {
    codes.CATEGORY_SPACE: " ",
    codes.CATEGORY_DIGIT: "0",
    codes.CATEGORY_WORD: "a",
    codes.CATEGORY_NOT_SPACE: "a",
    codes.CATEGORY_NOT_DIGIT: "a",
    codes.CATEGORY_NOT_WORD: " ",
}


def _member(items: list[Any]) -> str:
    """A character of a class."""
    if items[0][0] is codes.NEGATE:
        excluded = re.compile("[" + "".join(map(_class_text, items[1:])) + "]")
        return next(character for character in "a0 \n<é-." + chr(0x2603) if not excluded.match(character))
    code, value = items[0]
    if code is codes.CATEGORY:
        return CATEGORIES[value]
    return chr(value if code is codes.LITERAL else value[0])


CLASSES = {
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_NOT_WORD: r"\W",
}


def _class_text(item: Any) -> str:
    code, value = item
    if code is codes.CATEGORY:
        return CLASSES[value]
    if code is codes.RANGE:
        return f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
    return re.escape(chr(value))


# --- how time grows ---


def find_slow_text(use: Use, clock: Callable[[], float] = time.thread_time) -> str | None:
    """The beginning of a text for which a pattern takes more than linear time; None where there is none.

    Texts become longer step by step, so that no pattern runs for ever. At each step the slowest ones are measured.
    """
    tree = parser.parse(use.pattern.pattern, use.pattern.flags)
    bound, run = max(_finite_bounds(tree), default=1), _runner(use)
    for size in (*SMALL_SIZES, *SIZES) if _is_nested(tree, within=False) else SIZES:
        texts = list(adverse_texts(use.pattern, size))
        seconds = [_seconds(run, text, clock) / _scan_seconds(len(text), clock) for text in texts]
        for index in sorted(range(len(texts)), key=seconds.__getitem__)[-3:]:
            if seconds[index] > SUSPICIOUS and _grows(run, texts[index], clock, bound):
                return repr(texts[index][:80])
    return None


def _runner(use: Use) -> Callable[[Any], object]:
    if use.method == "search":  # findall, sub and split go on after each match
        return lambda text: deque(use.pattern.finditer(text), maxlen=0)
    return getattr(use.pattern, use.method)


def _seconds(run: Callable[[Any], object], text: Any, clock: Callable[[], float]) -> float:
    started = clock()
    run(text)
    return clock() - started


SCAN = re.compile("[bc]")


@cache
def _scan_seconds(length: int, clock: Callable[[], float]) -> float:
    """The time of a plain scan of a text of such a length."""
    text = "a" * length
    return min(_seconds(SCAN.search, text, clock) for _ in range(20)) + 1e-6


def _grows(run: Callable[[Any], object], text: Any, clock: Callable[[], float], bound: int) -> bool:
    """Whether the time grows faster than the text, in the best of several tries.

    A repeat with an upper bound grows until its bound is reached, so the text is made as long as that.
    """
    end = text[-1:]
    while len(text) < 8 * min(bound, 4000) if bound > 1 else False:
        text = text[:-1] + text[len(text) // 2 : -1] * 2 + end
    quarter = text[: len(text) // 4] + end
    for _ in range(5):
        short = min(_seconds(run, quarter, clock) for _ in range(3))
        long = min(_seconds(run, text, clock) for _ in range(2))
        if long < GROWTH * max(short, 1e-7):
            return False
    return True


def _is_nested(tree: Iterable[Any], *, within: bool) -> bool:
    """Whether a repeat without a bound holds another repeat, or alternatives."""
    for code, value in tree:
        is_repeat = code in (codes.MAX_REPEAT, codes.MIN_REPEAT)
        if within and (is_repeat or code is codes.BRANCH):
            return True
        is_unbounded = is_repeat and value[1] is codes.MAXREPEAT
        if any(_is_nested(inner, within=within or is_unbounded) for inner in _inner(code, value)):
            return True
    return False


def _finite_bounds(tree: Iterable[Any]) -> Iterator[int]:
    for code, value in tree:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT) and value[1] is not codes.MAXREPEAT:
            yield int(value[1])
        for inner in _inner(code, value):
            yield from _finite_bounds(inner)
