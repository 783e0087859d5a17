"""Questions over the embedded world, generated together with the chain of facts that answers each.

Invariant: all countries of a question, in its text and in its chain, are of one split, and it has exactly one answer:
a clue (a capital, a domain, a calling code) names one country, and compared numbers differ at least twofold.
``Example.meta`` holds ``kind``, the kind of question; ``hops``; ``facts``, the chain of {country, relation, value,
find} in the order in which they must be found; ``entities``, the unique names of every country in the question, its
options or its chain; ``options``, the values that it offers; and ``wrong``, plausible wrong answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache

from fireact.types import Example
from fireact.world.facts import Country, Fact, Split, countries, split_of

CLUES: dict[str, Sequence[str]] = {
    "capital": ("whose capital is {}", "with the capital {}", "that has {} as its capital"),
    "domain": ("with the internet domain {}", "whose internet domain is {}"),
    "code": ("with the calling code {}", "whose calling code is {}"),
}
ATTRIBUTES: dict[str, Sequence[str]] = {
    "capital": ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}."),
    "currency": ("What is the currency of {}?", "Which currency is used in {}?", "Name the currency of {}."),
    "language": (
        "What is the main language of {}?", "Which language is the main one in {}?", "Name the main language of {}.",
    ),
    "domain": (
        "What is the internet domain of {}?", "Which internet domain belongs to {}?", "Name the internet domain of {}.",
    ),
    "code": ("What is the calling code of {}?", "Which calling code reaches {}?", "Name the calling code of {}."),
}  # fmt: skip
COMPARED: dict[str, Sequence[str]] = {
    "people": (
        "Which country has the larger population, {} or {}?", "Which country has more people, {} or {}?",
        "Where do more people live, in {} or in {}?",
    ),
    "size": (
        "Which country has the larger area, {} or {}?", "Which country is larger in area, {} or {}?",
        "Which covers more land, {} or {}?",
    ),
}  # fmt: skip
NUMBER: dict[str, Callable[[Country], float]] = {
    "people": lambda country: country.population,
    "size": lambda country: country.area,
}
LETTERS = "ABCD"
MARGIN = 2.0
"""The smallest ratio of the two numbers for which two countries are compared."""
_PAIRS_DRAWN = 60
"""Pairs to draw until one is alike: enough that yes and no are about equally common."""


@dataclass(frozen=True, slots=True)
class CountryPool:
    """The countries of one split, and the random generator of its questions."""

    split: Split
    countries: tuple[Country, ...]
    rng: random.Random

    def country(self) -> Country:
        return self.rng.choice(self.countries)

    def clue(self, country: Country) -> tuple[str, str]:
        """A random clue that identifies a country without its name: (relation, value)."""
        kinds = ["capital", "domain"] + ["code"] * country.own_code
        kind = self.rng.choice(kinds)
        return kind, country.value(kind)

    def neighbour(self, country: Country) -> Country | None:
        """The largest neighbour, where it is of the same split."""
        return next((candidate for candidate in self.countries if candidate.name == country.largest_neighbour), None)

    def pair(self, relation: str) -> tuple[Country, Country]:
        """Two countries whose numbers differ by ``MARGIN``, the larger first."""
        while True:
            larger, smaller = sorted(self.rng.sample(self.countries, 2), key=NUMBER[relation], reverse=True)
            if NUMBER[relation](larger) >= MARGIN * NUMBER[relation](smaller):
                return larger, smaller

    def attribute(self, *, without: Sequence[str] = ()) -> str:
        return self.rng.choice([name for name in ATTRIBUTES if name not in without])

    def other_value(self, relation: str, value: str) -> str:
        """A wrong value of the same kind, from the same split."""
        return self.rng.choice(
            [candidate for country in self.countries if (candidate := country.value(relation)) != value]
        )


@dataclass(frozen=True, slots=True)
class GeneratedQuestion:
    """A generated question; ``countries`` are those of its chain, ``options`` the values that it offers."""

    kind: str
    question: str
    answer: str
    facts: Sequence[Fact]
    wrong: Sequence[str]
    countries: Sequence[Country]
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WorldMeta:
    """The ``meta`` of an example of the world, as the module's docstring describes it."""

    kind: str
    hops: int
    entities: Sequence[str]
    facts: Sequence[Fact]
    wrong: Sequence[str]
    options: Sequence[str]

    @classmethod
    def from_example(cls, example: Example) -> WorldMeta:
        """Read the meta of an example of the world."""
        return cls(**{**example.meta, "facts": [Fact(**fact) for fact in example.meta["facts"]]})


def make_fact(country: Country, relation: str, *, find: str = "value") -> Fact:
    """The fact that a country has for a relation."""
    return Fact(country.name, relation, country.value(relation), find)


def describe_country(pool: CountryPool, country: Country) -> tuple[str, Fact]:
    """A description of a country by a clue, and the fact that resolves the clue."""
    relation, value = pool.clue(country)
    text = "the country " + pool.rng.choice(CLUES[relation]).format(value)
    return text, make_fact(country, relation, find="country")


def make_two_hop(pool: CountryPool) -> GeneratedQuestion:
    country = pool.country()
    text, clue = describe_country(pool, country)
    relation = pool.attribute(without=[clue.relation])
    answer = country.value(relation)
    question = pool.rng.choice(ATTRIBUTES[relation]).format(text)
    return GeneratedQuestion(
        "2-hop",
        question,
        answer,
        [clue, make_fact(country, relation)],
        [pool.other_value(relation, answer), country.name],
        [country],
    )


def make_three_hop(pool: CountryPool) -> GeneratedQuestion:
    country, neighbour = _draw_country_with_neighbour(pool)
    text, clue = describe_country(pool, country)
    relation = pool.attribute()
    answer = neighbour.value(relation)
    question = pool.rng.choice(ATTRIBUTES[relation]).format(f"the largest neighbour of {text}")
    facts = [clue, make_fact(country, "largest neighbour"), make_fact(neighbour, relation)]
    return GeneratedQuestion(
        "3-hop", question, answer, facts, [country.value(relation), neighbour.name], [country, neighbour]
    )


def make_comparison(pool: CountryPool) -> GeneratedQuestion:
    relation = pool.rng.choice(list(COMPARED))
    larger, smaller = pool.pair(relation)
    shuffled_pair = pool.rng.sample([larger, smaller], 2)
    question = pool.rng.choice(COMPARED[relation]).format(shuffled_pair[0].name, shuffled_pair[1].name)
    return GeneratedQuestion(
        "comparison",
        question,
        larger.name,
        [make_fact(country, relation) for country in shuffled_pair],
        [smaller.name],
        [larger, smaller],
    )


def make_check_value(pool: CountryPool) -> GeneratedQuestion:
    country = pool.country()
    text, clue = describe_country(pool, country)
    relation = pool.attribute(without=[clue.relation, "code", "domain"])
    true_value = country.value(relation)
    offered_value = true_value if pool.rng.random() < 0.5 else pool.other_value(relation, true_value)
    relation_name = {"capital": "capital", "currency": "currency", "language": "main language"}[relation]
    phrasings = ("Is {0} the {1} of {2}?", "Is the {1} of {2} {0}?", "Does {2} have {0} as its {1}?")
    question = pool.rng.choice(phrasings).format(offered_value, relation_name, text)
    answer, wrong = ("yes", "no") if offered_value == true_value else ("no", "yes")
    return GeneratedQuestion(
        "check", question, answer, [clue, make_fact(country, relation)], [wrong], [country], [offered_value]
    )


def make_check_neighbour(pool: CountryPool) -> GeneratedQuestion:
    country, neighbour = _draw_country_with_neighbour(pool)
    text, clue = describe_country(pool, country)
    is_named = pool.rng.random() < 0.5
    other_country = pool.rng.choice(
        [candidate for candidate in pool.countries if candidate not in (country, neighbour)]
    )
    offered_country = neighbour if pool.rng.random() < 0.5 else other_country
    phrasings = ("Is {0} the largest neighbour of {1}?", "Is the largest neighbour of {1} {0}?")
    question = pool.rng.choice(phrasings).format(offered_country.name, country.name if is_named else text)
    answer, wrong = ("yes", "no") if offered_country == neighbour else ("no", "yes")
    facts = [*([] if is_named else [clue]), make_fact(country, "largest neighbour")]
    return GeneratedQuestion(
        "check", question, answer, facts, [wrong], [country, neighbour, offered_country], [offered_country.name]
    )


def make_same_value(pool: CountryPool) -> GeneratedQuestion:
    relation, relation_name = pool.rng.choice([("language", "main language"), ("currency", "currency")])
    pairs = [pool.rng.sample(pool.countries, 2) for _ in range(_PAIRS_DRAWN)]
    wants_same = pool.rng.random() < 0.5
    fitting = (pair for pair in pairs if (pair[0].value(relation) == pair[1].value(relation)) == wants_same)
    first, second = next(fitting, pairs[0])
    text = pool.rng.choice(("Do {} and {} have the same {}?", "Do {} and {} share one {}?"))
    question = text.format(first.name, second.name, relation_name)
    same = first.value(relation) == second.value(relation)
    answer, wrong = ("yes", "no") if same else ("no", "yes")
    return GeneratedQuestion(
        "same", question, answer, [make_fact(first, relation), make_fact(second, relation)], [wrong], [first, second]
    )


def make_pick_value(pool: CountryPool) -> GeneratedQuestion:
    country = pool.country()
    text, clue = describe_country(pool, country)
    relation = pool.attribute(without=[clue.relation])
    question = pool.rng.choice(ATTRIBUTES[relation]).format(text)
    return _make_pick(pool, question, relation, [clue, make_fact(country, relation)], country)


def make_pick_neighbour(pool: CountryPool) -> GeneratedQuestion:
    country, _ = _draw_country_with_neighbour(pool)
    facts = [make_fact(country, "largest neighbour")]
    return _make_pick(pool, f"Which is the largest neighbour of {country.name}?", "name", facts, country)


def make_pick_country(pool: CountryPool) -> GeneratedQuestion:
    country = pool.country()
    text, clue = describe_country(pool, country)
    return _make_pick(pool, f"Which is {text}?", "name", [clue], country)


def _make_pick(
    pool: CountryPool, question: str, relation: str, facts: list[Fact], country: Country
) -> GeneratedQuestion:
    """Four options, one of them the country's own value."""
    true = country.name if facts[-1].finds_country else facts[-1].value
    options = {true}
    while len(options) < len(LETTERS):
        options.add(pool.other_value(relation, true))
    shuffled_options = pool.rng.sample(sorted(options), len(LETTERS))
    lines = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, shuffled_options, strict=True))
    answer = LETTERS[shuffled_options.index(true)]
    wrong = [letter for letter in LETTERS if letter != answer]
    return GeneratedQuestion("pick", question + lines, answer, facts, wrong, [country], shuffled_options)


def make_described_comparison(pool: CountryPool) -> GeneratedQuestion:
    """A comparison of two countries that are only described: two clues, then two numbers."""
    relation = pool.rng.choice(list(COMPARED))
    larger, smaller = pool.pair(relation)
    shuffled_pair = pool.rng.sample([larger, smaller], 2)
    texts, clues = zip(*(describe_country(pool, country) for country in shuffled_pair), strict=True)
    question = pool.rng.choice(COMPARED[relation]).format(*texts)
    facts = [*clues, *(make_fact(country, relation) for country in shuffled_pair)]
    return GeneratedQuestion("described comparison", question, larger.name, facts, [smaller.name], [larger, smaller])


def make_winner_attribute(pool: CountryPool) -> GeneratedQuestion:
    """An attribute of the winner of a comparison."""
    compared = pool.rng.choice(list(COMPARED))
    larger, smaller = pool.pair(compared)
    shuffled_pair = pool.rng.sample([larger, smaller], 2)
    relation = pool.attribute()
    criterion = {"people": "has more people", "size": "is larger in area"}[compared]
    winner_text = pool.rng.choice(("whichever of {} and {} {}", "the one of {} and {} that {}"))
    winner_text = winner_text.format(shuffled_pair[0].name, shuffled_pair[1].name, criterion)
    question = pool.rng.choice(ATTRIBUTES[relation]).format(winner_text)
    facts = [*(make_fact(country, compared) for country in shuffled_pair), make_fact(larger, relation)]
    return GeneratedQuestion(
        "winner's attribute",
        question,
        larger.value(relation),
        facts,
        [smaller.value(relation)],
        [larger, smaller],
    )


def make_named_neighbour(pool: CountryPool) -> GeneratedQuestion:
    """An attribute of the largest neighbour of a country that is named."""
    country, neighbour = _draw_country_with_neighbour(pool)
    relation = pool.attribute()
    question = pool.rng.choice(ATTRIBUTES[relation]).format(f"the largest neighbour of {country.name}")
    facts = [make_fact(country, "largest neighbour"), make_fact(neighbour, relation)]
    return GeneratedQuestion(
        "neighbour's attribute",
        question,
        neighbour.value(relation),
        facts,
        [country.value(relation)],
        [country, neighbour],
    )


def make_neighbour_of_neighbour(pool: CountryPool) -> GeneratedQuestion:
    """Which country: the largest neighbour of a country that is only described."""
    country, neighbour = _draw_country_with_neighbour(pool)
    text, clue = describe_country(pool, country)
    phrasings = ("Which country is the largest neighbour of {}?", "Name the largest neighbour of {}.")
    question = pool.rng.choice(phrasings).format(text)
    return GeneratedQuestion(
        "described neighbour",
        question,
        neighbour.name,
        [clue, make_fact(country, "largest neighbour")],
        [country.name],
        [country, neighbour],
    )


def _draw_country_with_neighbour(pool: CountryPool) -> tuple[Country, Country]:
    while True:
        country = pool.country()
        neighbour = pool.neighbour(country)
        if neighbour is not None:
            return country, neighbour


SHAPES: dict[str, Sequence[tuple[Callable[[CountryPool], GeneratedQuestion], int]]] = {
    "geo-hop": ((make_two_hop, 10), (make_three_hop, 5), (make_comparison, 5)),
    "geo-yesno": ((make_check_value, 2), (make_check_neighbour, 1), (make_same_value, 2)),
    "geo-choice": ((make_pick_value, 2), (make_pick_neighbour, 1), (make_pick_country, 1)),
    "geo-compose": (
        (make_described_comparison, 1),
        (make_winner_attribute, 1),
        (make_named_neighbour, 1),
        (make_neighbour_of_neighbour, 1),
    ),
}
"""The question generators of each task with their weights; ``geo-compose`` shares none with the others."""
SIZES: dict[Split, int] = {"train": 600, "dev": 60, "test": 200}


@cache
def generate_examples(task: str, split: Split) -> tuple[Example, ...]:
    """The questions of a task and split, in their fixed random order."""
    split_countries = tuple(country for country in countries() if split_of(country) == split)
    pool = CountryPool(split, split_countries, random.Random(f"fireact questions {task} {split}"))
    return tuple(_generate_distinct(task, pool))


def _generate_distinct(task: str, pool: CountryPool) -> Iterator[Example]:
    makers = [make for make, weight in SHAPES[task] for _ in range(weight)]
    seen_questions: set[str] = set()
    while len(seen_questions) < SIZES[pool.split]:
        generated = pool.rng.choice(makers)(pool)
        if generated.question in seen_questions or generated.answer in generated.wrong:
            continue  # repeated, or a chain that misses a hop gives the same answer
        meta = WorldMeta(
            kind=generated.kind,
            hops=len(generated.facts),
            entities=sorted({name for country in _touched_countries(generated) for name in unique_names(country)}),
            facts=list(generated.facts),
            wrong=list(generated.wrong),
            options=list(generated.options),
        )
        yield Example(f"{pool.split}-{len(seen_questions):03d}", generated.question, generated.answer, asdict(meta))
        seen_questions.add(generated.question)


def _touched_countries(generated: GeneratedQuestion) -> list[Country]:
    """The countries of the chain, and those that an offered value identifies."""
    return [
        *generated.countries,
        *(country for country in countries() if unique_names(country) & set(generated.options)),
    ]


def unique_names(country: Country) -> frozenset[str]:
    """The names that identify a country: name, capital, domain, and an unshared calling code or currency."""
    names = {country.name, country.capital, country.domain}
    names |= {country.code} if country.own_code else set()
    names |= {country.currency} if country.own_currency else set()
    return frozenset(names)
