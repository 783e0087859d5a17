"""Questions over the embedded world, made by code together with the chain of facts that answers each.

Invariant: all countries of a question, on its way as well as in its text, are of one split, and the answer is the
only one: a clue (a capital, a domain, a calling code) names one country, and what is compared differs at least twofold.
``Example.meta`` holds ``kind``, the shape; ``hops``; ``facts``, the chain of {country, relation, value, find} in the
order in which they must be found; ``entities``, every country that the question, its options or its chain touch, with
all that is each one's own; ``options``, the values that it offers; and ``wrong``, plausible wrong answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fireact.types import Example
from fireact.world.facts import Country, Split, countries, split_of

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
NUMBER: dict[str, Callable[[Country], float]] = {"people": lambda c: c.population, "size": lambda c: c.area}
LETTERS = "ABCD"
MARGIN = 2.0
"""How many times the smaller the larger must be, for two countries to be compared."""
_TRIES = 60
"""Pairs drawn until two are alike: enough that yes and no are about as common."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The countries of one split, the draw that makes its questions, and the split's name."""

    split: Split
    countries: tuple[Country, ...]
    draw: random.Random

    def country(self) -> Country:
        return self.draw.choice(self.countries)

    def clue(self, country: Country) -> tuple[str, str]:
        """One of the ways to name a country without its name: (relation, value)."""
        kinds = ["capital", "domain"] + ["code"] * country.own_code
        kind = self.draw.choice(kinds)
        return kind, _value(country, kind)

    def neighbour(self, country: Country) -> Country | None:
        """The largest neighbour, where it is of this split too."""
        return next((other for other in self.countries if other.name == country.largest_neighbour), None)

    def pair(self, relation: str) -> tuple[Country, Country]:
        """Two countries that differ clearly: the one with more first."""
        while True:
            one, other = sorted(self.draw.sample(self.countries, 2), key=NUMBER[relation], reverse=True)
            if NUMBER[relation](one) >= MARGIN * NUMBER[relation](other):
                return one, other

    def attribute(self, *, without: Sequence[str] = ()) -> str:
        return self.draw.choice([name for name in ATTRIBUTES if name not in without])

    def other_value(self, relation: str, value: str) -> str:
        """A wrong value of the same kind, from the same split."""
        return self.draw.choice([v for c in self.countries if (v := _value(c, relation)) != value])


@dataclass(frozen=True, slots=True)
class Made:
    """A question as its shape makes it; ``countries`` are those on its way, ``options`` the values it offers."""

    kind: str
    question: str
    answer: str
    facts: Sequence[dict[str, str]]
    wrong: Sequence[str]
    countries: Sequence[Country]
    options: Sequence[str] = ()


def fact(country: Country, relation: str, *, find: str = "value") -> dict[str, str]:
    """A link of a chain. ``find`` says what is unknown when it is looked up: its value, or its country."""
    return {"country": country.name, "relation": relation, "value": _value(country, relation), "find": find}


def _value(country: Country, relation: str) -> str:
    return str(getattr(country, relation.replace(" ", "_")))


def described(pool: Pool, country: Country) -> tuple[str, dict[str, str]]:
    """A country named by a clue, and the fact that resolves it."""
    relation, value = pool.clue(country)
    text = "the country " + pool.draw.choice(CLUES[relation]).format(value)
    return text, fact(country, relation, find="country")


def two_hop(pool: Pool) -> Made:
    country = pool.country()
    text, clue = described(pool, country)
    relation = pool.attribute(without=[clue["relation"]])
    answer = _value(country, relation)
    question = pool.draw.choice(ATTRIBUTES[relation]).format(text)
    return Made(
        "2-hop",
        question,
        answer,
        [clue, fact(country, relation)],
        [pool.other_value(relation, answer), country.name],
        [country],
    )


def three_hop(pool: Pool) -> Made:
    country, near = _with_neighbour(pool)
    text, clue = described(pool, country)
    relation = pool.attribute()
    answer = _value(near, relation)
    question = pool.draw.choice(ATTRIBUTES[relation]).format(f"the largest neighbour of {text}")
    facts = [clue, fact(country, "largest neighbour"), fact(near, relation)]
    return Made("3-hop", question, answer, facts, [_value(country, relation), near.name], [country, near])


def comparison(pool: Pool) -> Made:
    relation = pool.draw.choice(list(COMPARED))
    more, less = pool.pair(relation)
    shown = pool.draw.sample([more, less], 2)
    question = pool.draw.choice(COMPARED[relation]).format(shown[0].name, shown[1].name)
    return Made("comparison", question, more.name, [fact(c, relation) for c in shown], [less.name], [more, less])


def check_value(pool: Pool) -> Made:
    country = pool.country()
    text, clue = described(pool, country)
    relation = pool.attribute(without=[clue["relation"], "code", "domain"])
    true = _value(country, relation)
    said = true if pool.draw.random() < 0.5 else pool.other_value(relation, true)
    named = {"capital": "capital", "currency": "currency", "language": "main language"}[relation]
    asked = ("Is {0} the {1} of {2}?", "Is the {1} of {2} {0}?", "Does {2} have {0} as its {1}?")
    question = pool.draw.choice(asked).format(said, named, text)
    answer, wrong = ("yes", "no") if said == true else ("no", "yes")
    return Made("check", question, answer, [clue, fact(country, relation)], [wrong], [country], [said])


def check_neighbour(pool: Pool) -> Made:
    country, near = _with_neighbour(pool)
    text, clue = described(pool, country)
    named = pool.draw.random() < 0.5
    other = pool.draw.choice([c for c in pool.countries if c not in (country, near)])
    said = near if pool.draw.random() < 0.5 else other
    asked = ("Is {0} the largest neighbour of {1}?", "Is the largest neighbour of {1} {0}?")
    question = pool.draw.choice(asked).format(said.name, country.name if named else text)
    answer, wrong = ("yes", "no") if said == near else ("no", "yes")
    facts = [*([] if named else [clue]), fact(country, "largest neighbour")]
    return Made("check", question, answer, facts, [wrong], [country, near, said], [said.name])


def same_value(pool: Pool) -> Made:
    relation, named = pool.draw.choice([("language", "main language"), ("currency", "currency")])
    pairs = [pool.draw.sample(pool.countries, 2) for _ in range(_TRIES)]
    want = pool.draw.random() < 0.5
    fitting = (pair for pair in pairs if (_value(pair[0], relation) == _value(pair[1], relation)) == want)
    one, other = next(fitting, pairs[0])
    text = pool.draw.choice(("Do {} and {} have the same {}?", "Do {} and {} share one {}?"))
    question = text.format(one.name, other.name, named)
    same = _value(one, relation) == _value(other, relation)
    answer, wrong = ("yes", "no") if same else ("no", "yes")
    return Made("same", question, answer, [fact(one, relation), fact(other, relation)], [wrong], [one, other])


def pick_value(pool: Pool) -> Made:
    country = pool.country()
    text, clue = described(pool, country)
    relation = pool.attribute(without=[clue["relation"]])
    question = pool.draw.choice(ATTRIBUTES[relation]).format(text)
    return _pick(pool, question, relation, [clue, fact(country, relation)], country)


def pick_neighbour(pool: Pool) -> Made:
    country, _ = _with_neighbour(pool)
    facts = [fact(country, "largest neighbour")]
    return _pick(pool, f"Which is the largest neighbour of {country.name}?", "name", facts, country)


def pick_country(pool: Pool) -> Made:
    country = pool.country()
    text, clue = described(pool, country)
    return _pick(pool, f"Which is {text}?", "name", [clue], country)


def _pick(pool: Pool, question: str, relation: str, facts: list[dict[str, str]], country: Country) -> Made:
    """Four options, one of them the country's own value."""
    true = facts[-1]["value"] if facts[-1]["find"] == "value" else country.name
    options = {true}
    while len(options) < len(LETTERS):
        options.add(pool.other_value(relation, true))
    shown = pool.draw.sample(sorted(options), len(LETTERS))
    lines = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, shown, strict=True))
    answer = LETTERS[shown.index(true)]
    wrong = [letter for letter in LETTERS if letter != answer]
    return Made("pick", question + lines, answer, facts, wrong, [country], shown)


def described_comparison(pool: Pool) -> Made:
    """Two countries that are only described, compared: two clues, then two numbers."""
    relation = pool.draw.choice(list(COMPARED))
    more, less = pool.pair(relation)
    shown = pool.draw.sample([more, less], 2)
    texts, clues = zip(*(described(pool, country) for country in shown), strict=True)
    question = pool.draw.choice(COMPARED[relation]).format(*texts)
    facts = [*clues, *(fact(country, relation) for country in shown)]
    return Made("described comparison", question, more.name, facts, [less.name], [more, less])


def winner_attribute(pool: Pool) -> Made:
    """An attribute of the winner of a comparison."""
    compared = pool.draw.choice(list(COMPARED))
    more, less = pool.pair(compared)
    shown = pool.draw.sample([more, less], 2)
    relation = pool.attribute()
    by = {"people": "has more people", "size": "is larger in area"}[compared]
    whole = pool.draw.choice(("whichever of {} and {} {}", "the one of {} and {} that {}"))
    whole = whole.format(shown[0].name, shown[1].name, by)
    question = pool.draw.choice(ATTRIBUTES[relation]).format(whole)
    facts = [*(fact(country, compared) for country in shown), fact(more, relation)]
    return Made("winner's attribute", question, _value(more, relation), facts, [_value(less, relation)], [more, less])


def named_neighbour(pool: Pool) -> Made:
    """An attribute of the largest neighbour of a country that is named."""
    country, near = _with_neighbour(pool)
    relation = pool.attribute()
    question = pool.draw.choice(ATTRIBUTES[relation]).format(f"the largest neighbour of {country.name}")
    facts = [fact(country, "largest neighbour"), fact(near, relation)]
    return Made(
        "neighbour's attribute", question, _value(near, relation), facts, [_value(country, relation)], [country, near]
    )


def neighbour_of_neighbour(pool: Pool) -> Made:
    """Which country: the largest neighbour of a country that is only described."""
    country, near = _with_neighbour(pool)
    text, clue = described(pool, country)
    asked = ("Which country is the largest neighbour of {}?", "Name the largest neighbour of {}.")
    question = pool.draw.choice(asked).format(text)
    return Made(
        "described neighbour",
        question,
        near.name,
        [clue, fact(country, "largest neighbour")],
        [country.name],
        [country, near],
    )


def _with_neighbour(pool: Pool) -> tuple[Country, Country]:
    while True:
        country = pool.country()
        near = pool.neighbour(country)
        if near is not None:
            return country, near


SHAPES: dict[str, Sequence[tuple[Callable[[Pool], Made], int]]] = {
    "geo-hop": ((two_hop, 10), (three_hop, 5), (comparison, 5)),
    "geo-yesno": ((check_value, 2), (check_neighbour, 1), (same_value, 2)),
    "geo-choice": ((pick_value, 2), (pick_neighbour, 1), (pick_country, 1)),
    "geo-compose": (
        (described_comparison, 1),
        (winner_attribute, 1),
        (named_neighbour, 1),
        (neighbour_of_neighbour, 1),
    ),
}
"""The shapes of each task with their weights; ``geo-compose`` shares none with the others."""
SIZES: dict[Split, int] = {"train": 600, "dev": 60, "test": 200}


@cache
def examples(task: str, split: Split) -> tuple[Example, ...]:
    """The questions of a task and split, in their fixed random order."""
    own = tuple(country for country in countries() if split_of(country) == split)
    pool = Pool(split, own, random.Random(f"fireact questions {task} {split}"))
    return tuple(_distinct(task, pool))


def _distinct(task: str, pool: Pool) -> Iterator[Example]:
    makers = [make for make, weight in SHAPES[task] for _ in range(weight)]
    seen: set[str] = set()
    while len(seen) < SIZES[pool.split]:
        made = pool.draw.choice(makers)(pool)
        if made.question in seen or made.answer in made.wrong:
            continue  # asked already, or a way that misses a hop gives the same answer
        meta: dict[str, Any] = {
            "kind": made.kind,
            "hops": len(made.facts),
            "entities": sorted({name for country in _touched(made) for name in own_names(country)}),
            "facts": list(made.facts),
            "wrong": list(made.wrong),
            "options": list(made.options),
        }
        yield Example(f"{pool.split}-{len(seen):03d}", made.question, made.answer, meta)
        seen.add(made.question)


def _touched(made: Made) -> list[Country]:
    """The countries on the way, and those that an offered value belongs to alone."""
    return [*made.countries, *(country for country in countries() if own_names(country) & set(made.options))]


def own_names(country: Country) -> frozenset[str]:
    """What is this country's alone: name, capital and domain; calling code and currency where they are not shared."""
    names = {country.name, country.capital, country.domain}
    names |= {country.code} if country.own_code else set()
    names |= {country.currency} if country.own_currency else set()
    return frozenset(names)
