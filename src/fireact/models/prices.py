"""What a call costs: the user's own table first, then the prices that the package ``genai-prices`` carries.

Invariant: a price that is in neither is not known, and is never guessed: not by the model's name at another endpoint's
address, nor as free because the address is one's own. Reads no network.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError
from fireact.types import Usage

VARIABLE = "FIREACT_PRICES"
FORM = '[prices."MODEL"] with input_per_million, output_per_million and, where it differs, cached_per_million'


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars of a number of tokens at one model, read off a table or a package."""

    dollars: Callable[[Usage], float | None]

    def cost(self, usage: Usage) -> float | None:
        """Of these tokens, or None where the price is not known."""
        return self.dollars(usage)

    @property
    def known(self) -> bool:
        return self.cost(Usage(1, 1000, 0, 1000)) is not None


def price_of(model: str, base_url: str, *, table: Path | None = None) -> Price:
    """The price of a model at an address. Raises ConfigError for a table that cannot be read."""
    path = table or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    own = _read(path).get(model) if path is not None else None
    return Price(_from_table(own) if own is not None else _from_package(model, base_url))


def _from_table(row: Mapping[str, float]) -> Callable[[Usage], float]:
    fresh, written = row["input_per_million"], row["output_per_million"]
    cached = row.get("cached_per_million", fresh)

    def dollars(usage: Usage) -> float:
        read = (usage.prompt_tokens - usage.cached_tokens) * fresh + usage.cached_tokens * cached
        return (read + usage.completion_tokens * written) / 1e6

    return dollars


def _from_package(model: str, base_url: str) -> Callable[[Usage], float | None]:
    def dollars(usage: Usage) -> float | None:
        import genai_prices

        counted = genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
        )
        try:
            return float(genai_prices.calc_price(counted, model, provider_api_url=base_url).total_price)
        except LookupError:
            return None

    return dollars


def _read(path: Path) -> Mapping[str, Mapping[str, float]]:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the prices in {path}: {error}. Give {FORM}.") from error
    if other := [name for name in data if name != "prices"]:
        raise ConfigError(f"{path} has {', '.join(map(repr, other))}, of which nothing would be read. Give {FORM}.")
    rows: dict[str, dict[str, float]] = data.get("prices", {})
    for model, row in rows.items() if isinstance(rows, dict) else [("prices", rows)]:
        numbers = isinstance(row, dict) and all(type(value) in (int, float) and value >= 0 for value in row.values())
        wanted = {"input_per_million", "output_per_million"}
        if not numbers or not wanted <= set(row) <= wanted | {"cached_per_million"}:
            raise ConfigError(f"the price of {model!r} in {path} is {row!r}. Give {FORM}, each a number of dollars.")
    return rows
