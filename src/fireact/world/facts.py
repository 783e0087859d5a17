"""Facts on real countries, from the data of the package ``countryinfo`` (MIT), with names for its codes.

Invariant: a country's name, capital and internet domain are its own alone; a calling code or currency that is shared
is given, but ``own_code`` says whether it identifies the country. Nothing here is fetched; records known to be out of
date or unclear are mended or left out below, each by name.
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

LEFT_OUT = {
    "Serbia and Montenegro", "Western Sahara", "Hong Kong", "Puerto Rico", "French Polynesia", "New Caledonia", "Palestine",
    "Djibouti", "Luxembourg", "Singapore", "Israel", "Taiwan", "Guinea", "Republic of the Congo", "Dominican Republic",
    "Niger", "South Sudan",
}  # fmt: skip
"""No longer or not clearly a state; named like its capital; or its name is part of another country's name."""

MENDED: Mapping[str, Mapping[str, Any]] = {
    "Belarus": {"currencies": ["BYN"]},
    "Bolivia": {"currencies": ["BOB"]},
    "Bulgaria": {"currencies": ["EUR"]},
    "Burundi": {"capital": "Gitega"},
    "Chile": {"currencies": ["CLP"]},
    "Croatia": {"currencies": ["EUR"]},
    "Cuba": {"currencies": ["CUP"]},
    "El Salvador": {"currencies": ["USD"]},
    "French Polynesia": {"capital": "Papeete"},
    "Kazakhstan": {"capital": "Astana", "callingCodes": ["7"]},
    "Mauritania": {"currencies": ["MRU"]},
    "Montenegro": {"languages": ["cnr"]},
    "Norway": {"languages": ["no"]},
    "Republic of Macedonia": {"name": "North Macedonia"},
    "Serbia": {"languages": ["sr"]},
    "Swaziland": {"name": "Eswatini", "capital": "Mbabane"},
    "Switzerland": {"currencies": ["CHF"]},
    "United States": {"capital": "Washington, D.C.", "currencies": ["USD"]},
    "Uruguay": {"currencies": ["UYU"]},
    "Venezuela": {"currencies": ["VES"]},
    "Zambia": {"currencies": ["ZMW"]},
    "Jamaica": {"callingCodes": ["1876"]},
    "The Bahamas": {"name": "Bahamas"},
    "The Gambia": {"name": "Gambia"},
    "Ireland": {"population": 4609600, "languages": ["en"]},
    "Kyrgyzstan": {"demonym": "Kyrgyz"},
    "Philippines": {"languages": ["fil"]},
    "Pakistan": {"languages": ["ur"]},
    "South Africa": {"languages": ["zu"]},
}


@dataclass(frozen=True, slots=True)
class Country:
    """What the world knows of a country; ``population`` in people, ``area`` in square kilometres."""

    name: str
    capital: str
    subregion: str
    currency: str
    language: str
    domain: str
    code: str
    population: int
    area: int
    neighbours: tuple[str, ...]
    largest_neighbour: str | None
    own_code: bool

    @property
    def people(self) -> str:
        return f"{self.population / 1e6:.1f} million" if self.population < 1e8 else f"{self.population / 1e6:.0f} million"

    @property
    def size(self) -> str:
        """The area in square kilometres, to three figures."""
        digits = max(0, len(str(self.area)) - 3)
        return f"{round(self.area, -digits):,}"


@cache
def countries() -> tuple[Country, ...]:
    """All countries of the world, by name."""
    records = _records()
    by_code = {record["ISO"]["alpha3"]: record for record in records}
    shared = Counter(code for record in records for code in record["callingCodes"])
    found = []
    for record in records:
        if record["name"] in LEFT_OUT:
            continue
        near = [by_code[code] for code in record.get("borders") or () if code in by_code]
        largest = max(near, key=lambda other: other["area"], default=None)
        code = record["callingCodes"][0]
        found.append(
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
                neighbours=tuple(sorted(other["name"] for other in near)),
                largest_neighbour=largest["name"] if largest and largest["name"] not in LEFT_OUT else None,
                own_code=shared[code] == 1 and len(record["callingCodes"]) == 1,
            )
        )
    return tuple(sorted(found, key=lambda country: country.name))


def _records() -> list[dict[str, Any]]:
    needed = ("capital", "currencies", "callingCodes", "tld", "population", "area", "languages", "region")
    records = []
    for file in sorted(files("countryinfo").joinpath("data").iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".json"):
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        record |= MENDED.get(record.get("name", ""), {})
        if all(record.get(key) for key in needed) and record["population"] > 250_000:
            records.append(record)
    return records


def split_of(country: Country) -> Split:
    """The split of a country and of everything that is its own: 55 % train, 10 % dev, 35 % test, drawn by its name."""
    draw = int(hashlib.sha256(f"fireact split {country.name}".encode()).hexdigest(), 16) % 100
    return "train" if draw < 55 else "dev" if draw < 65 else "test"
