"""Proves without a model that a task is sound: scoring, answerability, one answer only, no leak between splits.

For any Task the checks cover its scoring and leaks of questions and of ``meta["entities"]``. Examples with ``facts`` of
the embedded world in ``meta`` are also solved again from the country table, by code that did not make them, and the
search tool must find each of their facts. This module repairs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations, pairwise

from fireact.errors import ConfigError
from fireact.models.scripted import list_queries, observation_holds
from fireact.tasks.scoring import gold_answers
from fireact.tools.search import build_geo_search
from fireact.types import Example, Task
from fireact.world.corpus import articles
from fireact.world.facts import NOUNS, Country, Fact, countries, split_of
from fireact.world.questions import LETTERS, MARGIN, NUMBER, WorldMeta

SPLITS = ("train", "dev", "test")
NO_KIND = "?"
"""The kind of a question whose task tells none."""
MAX_QUERIES = 3
"""Queries within which a fact must be found."""


@dataclass(frozen=True, slots=True)
class TaskValidation:
    """The result of the checks: questions by split and kind, and every problem; a sound task has none."""

    task: str
    counts: Mapping[str, Mapping[str, int]]
    problems: tuple[str, ...]


def validate_task(task: Task, search: Callable[..., str] | None = None) -> TaskValidation:
    """Check every example of every split that the task has; ``search`` is by default that of the embedded world."""
    splits = _read_splits(task)
    counts = {split: dict(Counter(map(_kind_of, examples))) for split, examples in splits.items()}
    problems = [] if splits else [f"the task has no example in any of the splits {', '.join(SPLITS)}"]
    for split, examples in splits.items():
        for example in examples:
            example_problems = [*_scoring_problems(task, example), *_world_problems(split, example, search)]
            problems += [f"{split}/{example.id}: {problem}" for problem in example_problems]
    return TaskValidation(task.name, counts, (*problems, *_repeat_problems(splits), *_leak_problems(splits)))


def _read_splits(task: Task) -> dict[str, Sequence[Example]]:
    """The examples by split, empty splits left out. Raises ConfigError where no split can be read at all."""
    examples_by_split, refused = {}, []
    for split in getattr(task, "splits", SPLITS):
        try:
            examples_by_split[split] = task.examples(split)
        except ConfigError as error:  # a task may lack a split, or the answers of one
            refused.append(error)
    if refused and not examples_by_split:
        raise refused[0]
    return {split: examples for split, examples in examples_by_split.items() if examples}


def _kind_of(example: Example) -> str:
    meta = example.meta
    return str(meta.get("kind") or meta.get("type") or meta.get("subject") or NO_KIND)


def _scoring_problems(task: Task, example: Example) -> Iterator[str]:
    for gold in gold_answers(example):
        if task.score(example, gold)["em"] != 1:
            yield f"the gold answer {gold!r} does not score 1"
    for answer in (None, "", " "):
        if any(task.score(example, answer).values()):
            yield f"the answer {answer!r} does not score 0"
    for answer in example.meta.get("wrong", ()):
        if task.score(example, answer)["em"] != 0:
            yield f"the wrong answer {answer!r} does not score 0"


def _repeat_problems(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    for split, examples in splits.items():
        for kind, values in (
            ("id", [example.id for example in examples]),
            ("question", [example.question for example in examples]),
        ):
            repeated_values = [value for value, count in Counter(values).items() if count > 1]
            if repeated_values:
                yield f"{split} has the {kind} {repeated_values[0]!r} more than once ({len(repeated_values)} such)"


def _leak_problems(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    questions = {split: {example.question for example in examples} for split, examples in splits.items()}
    entities = {
        split: {entity for example in examples for entity in example.meta.get("entities", ())}
        for split, examples in splits.items()
    }
    for first_split, second_split in combinations(splits, 2):
        for kind, sets in (("question", questions), ("entity", entities)):
            shared = sorted(sets[first_split] & sets[second_split])
            if shared:
                yield f"{first_split} and {second_split} share the {kind} {shared[0]!r} ({len(shared)} such)"


def _world_problems(split: str, example: Example, search: Callable[..., str] | None) -> Iterator[str]:
    rows = example.meta.get("facts")
    if not rows or not isinstance(rows[0], Mapping) or set(rows[0]) != set(Fact.__slots__):  # StrategyQA has sentences
        return
    meta = WorldMeta.from_example(example)
    facts = meta.facts
    yield from (problem for fact in facts for problem in _fact_problems(fact, search or _default_search()))
    country_table = _countries_by_name()
    strays = [name for name in meta.entities if name in country_table and split_of(country_table[name]) != split]
    if strays:
        yield f"the countries {strays} are of another split"
    if missing := {fact.country for fact in facts} - set(meta.entities):
        yield f"the countries {sorted(missing)} are on its way but not among its entities"
    are_in_world = all(fact.country in country_table and fact.relation in NOUNS for fact in facts)
    solved = solve_question(example.question, meta) if are_in_world else set()
    if solved != {example.answer}:
        yield f"the answer {example.answer!r} is not the only one: the facts give {sorted(solved)}"


def _fact_problems(fact: Fact, search: Callable[..., str]) -> Iterator[str]:
    country = _countries_by_name().get(fact.country)
    if country is None or fact.relation not in NOUNS or country.value(fact.relation) != fact.value:
        yield f"the table does not hold {asdict(fact)}"
    elif not any(observation_holds(text, fact) for text in _articles_naming(country.name)):
        yield f"no article holds {asdict(fact)}"
    elif not any(observation_holds(search(query=query), fact) for query in list_queries(fact)[:MAX_QUERIES]):
        yield f"the search does not find {asdict(fact)} within {MAX_QUERIES} queries"


def solve_question(question: str, meta: WorldMeta) -> set[str]:
    """Every answer that the country table allows: a question with none or more than one is bad."""
    facts, kind = meta.facts, meta.kind
    clues = [fact for fact in facts if fact.finds_country]
    if any(_countries_with(clue) != [clue.country] for clue in clues) or not _is_connected(facts):
        return set()
    if kind in ("comparison", "described comparison", "winner's attribute"):
        return _solve_comparison(facts)
    values = {fact.value for fact in facts if fact.find == "value"}
    if kind == "same":
        return {"yes" if len(values) == 1 else "no"}
    country = _countries_by_name()[facts[-1].country]
    last_value = country.name if facts[-1].finds_country else country.value(facts[-1].relation)
    if kind == "check":
        return {"yes" if list(meta.options) == [last_value] else "no"}
    if kind == "pick":
        offered_values = [line.partition(". ")[2] for line in question.split("\n")[1:]]
        return {letter for letter, option in zip(LETTERS, offered_values, strict=True) if option == last_value}
    return {last_value}


def _solve_comparison(facts: Sequence[Fact]) -> set[str]:
    """The answer of a comparison: the country that leads by the margin, or an attribute of it."""
    pair = [fact for fact in facts if fact.relation in NUMBER]
    size = NUMBER[pair[0].relation]
    smaller, larger = sorted((_countries_by_name()[fact.country] for fact in pair), key=size)
    if size(larger) < MARGIN * size(smaller):
        return set()
    last_fact = facts[-1]
    if last_fact in pair:
        return {larger.name}
    return {larger.value(last_fact.relation)} if last_fact.country == larger.name else set()


def _is_connected(facts: Sequence[Fact]) -> bool:
    """Whether the fact after a neighbour is about that neighbour, so that no hop can be skipped."""
    links = (pair for pair in pairwise(facts) if pair[0].relation == "largest neighbour")
    return all(next_fact.country == fact.value for fact, next_fact in links)


def _countries_with(fact: Fact) -> list[str]:
    return [country.name for country in countries() if country.value(fact.relation) == fact.value]


@cache
def _countries_by_name() -> Mapping[str, Country]:
    return {country.name: country for country in countries()}


@cache
def _articles_naming(name: str) -> tuple[str, ...]:
    return tuple(
        f"{article.title}: {article.text}" for article in articles() if name in f"{article.title} {article.text}"
    )


@cache
def _default_search() -> Callable[..., str]:
    return build_geo_search()
