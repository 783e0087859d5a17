"""Facts on real countries, from the data of the package ``countryinfo`` (MIT), with names for its codes.

Invariant: a country's name, capital and internet domain are unique. A calling code or currency may be shared;
``own_code`` and ``own_currency`` say whether it identifies the country. Nothing here is fetched. Records that are out
of date or unclear are corrected or excluded below, each by name.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from fireact.world.names import CURRENCIES, LANGUAGES, SUBREGIONS

Split = Literal["train", "dev", "test"]

EXCLUDED = {
    "Serbia and Montenegro", "Western Sahara", "Hong Kong", "Puerto Rico", "French Polynesia", "New Caledonia",
    "Palestine", "Djibouti", "Luxembourg", "Singapore", "Israel", "Taiwan", "Guinea", "Republic of the Congo",
    "South Sudan",
}  # fmt: skip
"""Excluded: no longer or not clearly a state, named like its capital, or with a name inside another's name."""

CORRECTIONS: Mapping[str, Mapping[str, Any]] = {
    "Argentina": {"demonym": "Argentine"},
    "Belarus": {"currencies": ["BYN"]},
    "Bolivia": {"currencies": ["BOB"]},
    "Bosnia and Herzegovina": {"demonym": "Bosnian"},
    "Bulgaria": {"currencies": ["EUR"]},
    "Burundi": {"capital": "Gitega"},
    "Cameroon": {"languages": ["fr"]},
    "Cape Verde": {"demonym": "Cape Verdean"},
    "Chad": {"borders": ["CMR", "CAF", "LBY", "NER", "NGA", "SDN"]},
    "Chile": {"currencies": ["CLP"]},
    "China": {
        "borders": ["AFG", "BTN", "IND", "KAZ", "PRK", "KGZ", "LAO", "MNG", "MMR", "NPL", "PAK", "RUS", "TJK", "VNM"],
    },
    "Comoros": {"demonym": "Comorian"},
    "Croatia": {"currencies": ["EUR"]},
    "Cuba": {"currencies": ["CUP"]},
    "Cyprus": {"borders": []},
    "Ecuador": {"demonym": "Ecuadorian"},
    "El Salvador": {"currencies": ["USD"]},
    "Haiti": {"languages": ["ht"]},
    "Iceland": {"demonym": "Icelandic"},
    "India": {"borders": ["BGD", "BTN", "CHN", "MMR", "NPL", "PAK"]},
    "Ireland": {"population": 4609600, "languages": ["en"]},
    "Jamaica": {"callingCodes": ["1876"]},
    "Kazakhstan": {"capital": "Astana", "callingCodes": ["7"]},
    "Kuwait": {"borders": ["IRQ", "SAU"]},
    "Kyrgyzstan": {"demonym": "Kyrgyz"},
    "Malaysia": {"languages": ["ms"]},
    "Maldives": {"demonym": "Maldivian"},
    "Mauritania": {"currencies": ["MRU"]},
    "Montenegro": {"languages": ["cnr"]},
    "Myanmar": {"borders": ["BGD", "CHN", "IND", "LAO", "THA"]},
    "Norway": {"languages": ["no"]},
    "Pakistan": {"languages": ["ur"]},
    "Philippines": {"languages": ["fil"]},
    "Republic of Macedonia": {"name": "North Macedonia"},
    "Serbia": {"languages": ["sr"], "area": 77474, "borders": ["HUN", "ROU", "BGR", "MKD", "HRV", "BIH", "MNE"]},
    "South Africa": {"languages": ["zu"]},
    "Sri Lanka": {"capital": "Sri Jayawardenepura Kotte", "borders": []},
    "Suriname": {"demonym": "Surinamese", "borders": ["BRA", "GUY"]},
    "Swaziland": {"name": "Eswatini", "capital": "Mbabane"},
    "Switzerland": {"currencies": ["CHF"]},
    "Tajikistan": {"demonym": "Tajik"},
    "The Bahamas": {"name": "Bahamas"},
    "The Gambia": {"name": "Gambia"},
    "United States": {"capital": "Washington, D.C.", "currencies": ["USD"]},
    "Uruguay": {"currencies": ["UYU"]},
    "Venezuela": {"currencies": ["VES"]},
    "Zambia": {"currencies": ["ZMW"]},
}


@dataclass(frozen=True, slots=True)
class Country:
    """The facts about a country; ``population`` in people, ``area`` in square kilometres."""

    name: str
    capital: str
    subregion: str
    currency: str
    language: str
    domain: str
    code: str
    population: int
    area: int
    demonym: str
    neighbours: tuple[str, ...]
    largest_neighbour: str | None
    own_code: bool
    own_currency: bool

    @property
    def people(self) -> str:
        """The population in millions."""
        return f"{self.population / 1e6:.{0 if self.population >= 1e8 else 1}f} million"

    @property
    def size(self) -> str:
        """The area in square kilometres, to three figures."""
        digits = max(0, len(str(self.area)) - 3)
        return f"{round(self.area, -digits):,}"

    def value(self, relation: str) -> str:
        """The value of a relation of ``NOUNS``, or of "name", as texts write it."""
        return str(getattr(self, relation.replace(" ", "_")))


NOUNS = {
    "capital": "capital", "currency": "currency", "language": "main language", "domain": "internet domain",
    "code": "calling code", "people": "population", "size": "area", "largest neighbour": "largest neighbour",
}  # fmt: skip
"""The relations of facts, and the nouns of texts for them."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of a chain. ``find`` says what must be looked up: its "value", or its "country"."""

    country: str
    relation: str
    value: str
    find: str = "value"

    @property
    def finds_country(self) -> bool:
        return self.find == "country"

    @property
    def noun(self) -> str:
        return NOUNS[self.relation]


@cache
def countries() -> tuple[Country, ...]:
    """All countries of the world, by name."""
    records = _read_records()
    by_code = {record["ISO"]["alpha3"]: record for record in records}
    shared = Counter(code for record in records for code in record["callingCodes"])
    used = Counter(record["currencies"][0] for record in records)
    world_countries = []
    for record in records:
        if record["name"] in EXCLUDED:
            continue
        neighbours = [by_code[code] for code in record.get("borders") or () if code in by_code]
        largest = max(neighbours, key=lambda neighbour: neighbour["area"], default=None)
        code = record["callingCodes"][0]
        world_countries.append(
            Country(
                name=record["name"],
                capital=record["capital"],
                subregion=SUBREGIONS.get(record["subregion"], record["subregion"]),
                currency=CURRENCIES[record["currencies"][0]],
                language=LANGUAGES[record["languages"][0]],
                domain=record["tld"][0],
                code=f"+{code}",
                population=record["population"],
                area=int(record["area"]),
                demonym=record["demonym"],
                neighbours=tuple(sorted(neighbour["name"] for neighbour in neighbours)),
                largest_neighbour=largest["name"] if largest and largest["name"] not in EXCLUDED else None,
                own_code=shared[code] == 1 and len(record["callingCodes"]) == 1,
                own_currency=used[record["currencies"][0]] == 1,
            )
        )
    return tuple(sorted(world_countries, key=lambda country: country.name))


def _read_records() -> list[dict[str, Any]]:
    needed = ("capital", "currencies", "callingCodes", "tld", "population", "area", "languages", "region", "demonym")
    records = []
    for file in sorted(files("countryinfo").joinpath("data").iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".json"):
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        record |= CORRECTIONS.get(record.get("name", ""), {})
        if all(record.get(key) for key in needed) and record["population"] > 250_000:
            records.append(record)
    return records


def split_of(country: Country) -> Split:
    """The split of a country and of all its unique names, by a hash of its name: 55 % train, 10 % dev, 35 % test."""
    draw = int(hashlib.sha256(f"fireact split {country.name}".encode()).hexdigest(), 16) % 100
    return "train" if draw < 55 else "dev" if draw < 65 else "test"
