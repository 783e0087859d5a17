"""Prices of calls: from the user's own table first, then from the package ``genai-prices``.

Invariant: a price in neither is unknown and never guessed. A model's name at another endpoint gets no known price, and
a local address is not taken to be free. This module uses no network.
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
class TokenPrice:
    """The price of one model's tokens in US dollars, from a table or a package."""

    dollars: Callable[[Usage], float | None]

    def cost(self, usage: Usage) -> float | None:
        """The cost of a usage, or None where the price is not known."""
        return self.dollars(usage)

    @property
    def is_known(self) -> bool:
        return self.cost(Usage(1, 1000, 0, 1000)) is not None


def find_price(model: str, base_url: str, *, table: Path | None = None) -> TokenPrice:
    """The price of a model at an address. Raises ConfigError for a table that cannot be read."""
    path = table or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    table_row = _read_table(path).get(model) if path is not None else None
    return TokenPrice(_from_table(table_row) if table_row is not None else _from_package(model, base_url))


def _from_table(row: Mapping[str, float]) -> Callable[[Usage], float]:
    input_price, output_price = row["input_per_million"], row["output_per_million"]
    cached_price = row.get("cached_per_million", input_price)

    def dollars(usage: Usage) -> float:
        input_cost = (usage.prompt_tokens - usage.cached_tokens) * input_price + usage.cached_tokens * cached_price
        return (input_cost + usage.completion_tokens * output_price) / 1e6

    return dollars


def _from_package(model: str, base_url: str) -> Callable[[Usage], float | None]:
    def dollars(usage: Usage) -> float | None:
        import genai_prices

        package_usage = genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
        )
        try:
            return float(genai_prices.calc_price(package_usage, model, provider_api_url=base_url).total_price)
        except LookupError:
            return None

    return dollars


def _read_table(path: Path) -> Mapping[str, Mapping[str, float]]:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the prices in {path}: {error}. Give {FORM}.") from error
    if unknown_tables := [name for name in data if name != "prices"]:
        raise ConfigError(f"{path} has {', '.join(map(repr, unknown_tables))}, which would be ignored. Give {FORM}.")
    rows: dict[str, dict[str, float]] = data.get("prices", {})
    for model, row in rows.items() if isinstance(rows, dict) else [("prices", rows)]:
        has_prices = isinstance(row, dict) and all(type(value) in (int, float) and value >= 0 for value in row.values())
        required = {"input_per_million", "output_per_million"}
        if not has_prices or not required <= set(row) <= required | {"cached_per_million"}:
            raise ConfigError(f"the price of {model!r} in {path} is {row!r}. Give {FORM}, each a number of dollars.")
    return rows
