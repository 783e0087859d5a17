"""The search corpus: six short articles on each country, every kind of fact in several phrasings.

Invariant: each fact that a question needs stands in one sentence of one article, next to the name of its country.
The phrasing for a country is drawn with its name as the seed, so the corpus is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from fireact.world.facts import Country, countries

CAPITAL = (
    "{capital} is the capital of {name}.",
    "{capital} is the capital city of {name}.",
    "The capital of {name} is {capital}.",
    "{capital}, the capital of {name}, is where its government sits.",
    "The government of {name} sits in its capital, {capital}.",
    "{name} has its capital in {capital}.",
)
CURRENCY = (
    "The currency of {name} is the {currency}.",
    "In {name} the currency is the {currency}.",
    "The {currency} is the currency of {name}.",
    "{name} uses the {currency} as its currency.",
    "Prices in {name} are given in its currency, the {currency}.",
)
LANGUAGE = (
    "The main language of {name} is {language}.",
    "{language} is the main language of {name}.",
    "In {name}, the main language is {language}.",
    "{name} has {language} as its main language.",
    "The main language spoken in {name} is {language}.",
)
DOMAIN = (
    "The internet domain of {name} is {domain} on the web.",
    "Web sites of {name} have the internet domain {domain} in their address.",
    "{domain} is the internet domain of {name}.",
    "On the web, {name} has the internet domain {domain} to itself.",
    "{name} was given the internet domain {domain} for its sites.",
)
CODE = (
    "The calling code of {name} is {code}.",
    "To phone {name} from abroad, dial the calling code {code}.",
    "{code} is the calling code of {name}.",
    "{name} has the calling code {code}.",
    "Phone numbers in {name} begin with the calling code {code}.",
)
PEOPLE = (
    "The population of {name} is {people}.",
    "{name} has a population of {people}.",
    "About {people} people make up the population of {name}.",
    "With a population of {people}, {name} is home to many families.",
    "The last count put the population of {name} at {people}.",
)
AREA = (
    "The area of {name} is {size} square kilometres.",
    "{name} covers an area of {size} square kilometres.",
    "With an area of {size} square kilometres, {name} has varied land.",
    "{name} has an area of {size} square kilometres.",
    "The area of {name}, lakes included, comes to {size} square kilometres.",
)
LARGEST = (
    "The largest neighbour of {name} is {largest_neighbour}.",
    "{largest_neighbour} is the largest neighbour of {name}.",
    "{name} has {largest_neighbour} as its largest neighbour.",
    "Of the countries around it, the largest neighbour of {name} is {largest_neighbour}.",
    "{name} lies next to {largest_neighbour}, its largest neighbour.",
)
BORDERS = (
    "{name} borders {around}.",
    "On land, {name} meets {around}.",
    "The land borders of {name} are with {around}.",
    "Around {name} lie {around}.",
)
REGION = (
    "{name} is a country in {subregion}.",
    "{name} lies in {subregion}.",
    "The country of {name} is part of {subregion}.",
    "In {subregion} lies the country of {name}.",
)
ISLAND = (
    "{name} has no neighbour on land.",
    "No land border joins {name} to a neighbour.",
    "{name} shares no land border with anyone.",
    "The sea lies on every side of {name}.",
)
DEMONYM = (
    "The people of {name} are known by the demonym {demonym}.",
    "The demonym of {name} is {demonym}.",
    "{demonym} is the demonym for what comes from {name}.",
    "What belongs to {name} is called {demonym}.",
)


@dataclass(frozen=True, slots=True)
class Article:
    """A title and a text of a few sentences."""

    title: str
    text: str


@cache
def articles() -> tuple[Article, ...]:
    """All articles, country by country."""
    return tuple(article for country in countries() for article in _articles_about(country))


def _articles_about(country: Country) -> Iterator[Article]:
    rng = random.Random(f"fireact corpus {country.name}")
    name, land = country.name, [AREA, *_border_phrasings(country)]
    yield Article(name, _compose_text(country, rng, (REGION, CAPITAL, DEMONYM)))
    yield Article(country.capital, _compose_text(country, rng, (CAPITAL, REGION)))
    yield Article(f"Economy of {name}", _compose_text(country, rng, (CURRENCY,)))
    yield Article(f"Communications in {name}", _compose_text(country, rng, _shuffle(rng, (DOMAIN, CODE))))
    yield Article(f"People of {name}", _compose_text(country, rng, _shuffle(rng, (PEOPLE, LANGUAGE))))
    yield Article(f"Geography of {name}", _compose_text(country, rng, _shuffle(rng, land)))


def _border_phrasings(country: Country) -> Iterator[Sequence[str]]:
    if not country.neighbours:
        yield ISLAND
        return
    yield BORDERS
    if country.largest_neighbour:
        yield LARGEST


def _shuffle(rng: random.Random, kinds: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    return rng.sample(kinds, len(kinds))


def _compose_text(country: Country, rng: random.Random, kinds: Sequence[Sequence[str]]) -> str:
    values = {key: getattr(country, key) for key in (*Country.__slots__, "people", "size")}
    values["around"] = _join_names(country.neighbours)
    return " ".join(rng.choice(phrasings).format(**values) for phrasings in kinds)


def _join_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
