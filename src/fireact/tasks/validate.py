"""Proves that a task is sound, with no model: scoring, answerability, one answer only, no leak between splits.

Any Task is checked for its scoring and for leaks of questions and of ``meta["entities"]``. Examples whose ``meta``
holds the ``facts`` of the embedded world are solved again from the country table, by code that did not make them, and
each of their facts must be found by the search tool. This module repairs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise

from fireact.errors import ConfigError
from fireact.models.scripted import NOUN, queries, shows
from fireact.tasks.scoring import golds
from fireact.tools.search import geo_search
from fireact.types import Example, Task
from fireact.world.corpus import articles
from fireact.world.facts import Country, countries, split_of
from fireact.world.questions import LETTERS, MARGIN, NUMBER

SPLITS = ("train", "dev", "test")
MAX_QUERIES = 3
"""Queries within which a fact must be found."""

Fact = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found: questions by split and kind, and every problem in words; sound when there is none."""

    task: str
    counts: Mapping[str, Mapping[str, int]]
    problems: tuple[str, ...]


def validate(task: Task, search: Callable[..., str] | None = None) -> Validation:
    """Check every example of every split that the task has; ``search`` is by default that of the embedded world."""
    splits = _splits(task)
    counts = {split: Counter(map(_kind, examples)) for split, examples in splits.items()}
    problems = [] if splits else [f"the task has no example in any of the splits {', '.join(SPLITS)}"]
    for split, examples in splits.items():
        for example in examples:
            found = [*_scoring(task, example), *_world(split, example, search)]
            problems += [f"{split}/{example.id}: {problem}" for problem in found]
    return Validation(task.name, counts, (*problems, *_repeats(splits), *_leaks(splits)))


def _splits(task: Task) -> dict[str, Sequence[Example]]:
    """The examples by split, empty splits left out. Raises ConfigError where no split can be read at all."""
    found, refused = {}, []
    for split in getattr(task, "splits", SPLITS):
        try:
            found[split] = task.examples(split)
        except ConfigError as error:  # a task need not have every split, or answers in every one
            refused.append(error)
    if refused and not found:
        raise refused[0]
    return {split: examples for split, examples in found.items() if examples}


def _kind(example: Example) -> str:
    meta = example.meta
    return str(meta.get("kind") or meta.get("type") or meta.get("subject") or "?")


def _scoring(task: Task, example: Example) -> Iterator[str]:
    for gold in golds(example):
        if task.score(example, gold)["em"] != 1:
            yield f"the gold answer {gold!r} does not score 1"
    for answer in (None, "", " "):
        if any(task.score(example, answer).values()):
            yield f"the answer {answer!r} does not score 0"
    for answer in example.meta.get("wrong", ()):
        if task.score(example, answer)["em"] != 0:
            yield f"the wrong answer {answer!r} does not score 0"


def _repeats(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    for split, examples in splits.items():
        for kind, values in (("id", [e.id for e in examples]), ("question", [e.question for e in examples])):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                yield f"{split} has the {kind} {twice[0]!r} more than once ({len(twice)} such)"


def _leaks(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    questions = {split: {example.question for example in examples} for split, examples in splits.items()}
    entities = {split: {e for x in examples for e in x.meta.get("entities", ())} for split, examples in splits.items()}
    for one, other in combinations(splits, 2):
        for kind, sets in (("question", questions), ("entity", entities)):
            shared = sorted(sets[one] & sets[other])
            if shared:
                yield f"{one} and {other} share the {kind} {shared[0]!r} ({len(shared)} such)"


def _world(split: str, example: Example, search: Callable[..., str] | None) -> Iterator[str]:
    facts: Sequence[Fact] = example.meta.get("facts", ())
    if not facts or not isinstance(facts[0], Mapping):  # StrategyQA's facts are sentences
        return
    yield from (problem for fact in facts for problem in _fact(fact, search or _search()))
    known = _table()
    strays = [name for name in example.meta["entities"] if name in known and split_of(known[name]) != split]
    if strays:
        yield f"the countries {strays} are of another split"
    if missing := {fact["country"] for fact in facts} - set(example.meta["entities"]):
        yield f"the countries {sorted(missing)} are on its way but not among its entities"
    solved = solve(example) if all(fact["country"] in known for fact in facts) else set()
    if solved != {example.answer}:
        yield f"the answer {example.answer!r} is not the only one: the facts give {sorted(solved)}"


def _fact(fact: Fact, search: Callable[..., str]) -> Iterator[str]:
    country = _table().get(fact["country"])
    if country is None or _value(country, fact["relation"]) != fact["value"]:
        yield f"the table does not hold {dict(fact)}"
    elif not any(shows(text, fact) for text in _texts(country.name)):
        yield f"no article holds {dict(fact)}"
    elif not any(shows(search(query=query), fact) for query in queries(fact)[:MAX_QUERIES]):
        yield f"the search does not find {dict(fact)} within {MAX_QUERIES} queries"


def solve(example: Example) -> set[str]:
    """Every answer that the country table allows: more than one, or none, means a bad question."""
    facts, kind = example.meta["facts"], example.meta["kind"]
    clues = [fact for fact in facts if fact["find"] == "country"]
    if any(_holders(clue) != [clue["country"]] for clue in clues) or not _connected(facts):
        return set()
    if kind in ("comparison", "described comparison", "winner's attribute"):
        return _compared(example)
    values = {fact["value"] for fact in facts if fact["find"] == "value"}
    if kind == "same":
        return {"yes" if len(values) == 1 else "no"}
    country = _table()[facts[-1]["country"]]
    last = country.name if facts[-1]["find"] == "country" else _value(country, facts[-1]["relation"])
    if kind == "check":
        return {"yes" if example.meta["options"] == [last] else "no"}
    if kind == "pick":
        shown = [line.partition(". ")[2] for line in example.question.split("\n")[1:]]
        return {letter for letter, option in zip(LETTERS, shown, strict=True) if option == last}
    return {last}


def _compared(example: Example) -> set[str]:
    """The countries that lead by the margin, or what is asked of them."""
    pair = [fact for fact in example.meta["facts"] if fact["relation"] in NUMBER]
    size = NUMBER[pair[0]["relation"]]
    less, more = sorted((_table()[fact["country"]] for fact in pair), key=size)
    if size(more) < MARGIN * size(less):
        return set()
    last = example.meta["facts"][-1]
    if last in pair:
        return {more.name}
    return {_value(more, last["relation"])} if last["country"] == more.name else set()


def _connected(facts: Sequence[Fact]) -> bool:
    """Whether a fact after a neighbour is about that neighbour, so that no hop can be left out."""
    links = (pair for pair in pairwise(facts) if pair[0]["relation"] == "largest neighbour")
    return all(after["country"] == fact["value"] for fact, after in links)


def _holders(fact: Fact) -> list[str]:
    return [country.name for country in countries() if _value(country, fact["relation"]) == fact["value"]]


def _value(country: Country, relation: str) -> str:
    if relation not in NOUN:
        return ""
    return str(getattr(country, relation.replace(" ", "_")))


@cache
def _table() -> Mapping[str, Country]:
    return {country.name: country for country in countries()}


@cache
def _texts(name: str) -> tuple[str, ...]:
    return tuple(
        f"{article.title}: {article.text}" for article in articles() if name in f"{article.title} {article.text}"
    )


@cache
def _search() -> Callable[..., str]:
    return geo_search()
