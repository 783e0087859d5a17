"""What the stages of a study have spent at hosted models and providers, and what of its budget the next one may spend.

Invariant: a stage is handed what the others have left, those of earlier runs and of other studies that share it counted, so
all together stay within the budget. Searches count at the study file's price: made ones as they were, those of the stage to
come as they are expected. Machines of one's own do not count. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fireact.cache import FILE as CALLS
from fireact.cache import CallCache
from fireact.errors import BudgetError, ConfigError
from fireact.models.limits import Amount
from fireact.store import TRAJECTORIES, read_manifest, read_trajectories
from fireact.study.forecast import Rates, forecast
from fireact.study.results import calls_of_tools
from fireact.study.stages import Stage


def dollars(text: str) -> Amount:
    """The budget of a study. Raises ConfigError for one that is not in dollars: its models differ in what a token costs."""
    amount = Amount.parse(text)
    if amount.unit != "usd":
        raise ConfigError(f"the budget of a study is {text!r}; it must be in dollars, such as 50usd.")
    return amount


@dataclass(frozen=True, slots=True)
class Purse:
    """The budget of a study (None: no limit) over all of its ``stages``, which lie in ``root``."""

    budget: Amount | None
    stages: Sequence[Stage]
    root: Path
    rates: Rates

    def config(self, stage: Stage) -> Any:
        """The settings of a stage, with what is left as its budget. Raises BudgetError where nothing is."""
        config = stage.config(self.root)
        searches = forecast(stage, self.root, self.rates).searches * self._search if stage.pays_searches else 0.0
        if self.budget is None or not (_hosted(stage) or searches):
            return config
        spent = sum(self._spent(one) for one in self.stages if one.key != stage.key)
        left = self.budget.value - spent - searches
        if left <= 0:
            coming = (
                f", and the searches of {stage.verb}/{stage.key} are expected to take ${searches:.2f}"
                if searches
                else ""
            )
            raise BudgetError(
                f"the budget of {self.budget} is spent as far as it goes: ${spent:.4f} so far{coming}. "
                "Go on with a larger --budget; what was paid for is kept."
            )
        return replace(config, budget=_least(config.budget, left)) if _hosted(stage) else config

    @property
    def _search(self) -> float:
        price = self.rates.study.prices.get("search")
        return 0.0 if price is None else price.value

    def _spent(self, stage: Stage) -> float:
        """What a stage has taken so far, complete or not."""
        path = stage.path(self.root)
        if stage.verb == "tune":
            return float(read_manifest(path)["cost_usd"] or 0.0) if stage.done(self.root) else 0.0
        if stage.verb not in ("collect", "eval"):
            return 0.0
        paid = CallCache(path / CALLS, "record").spent().cost or 0.0
        searched = stage.pays_searches and self._search and (path / TRAJECTORIES).is_file()
        return paid + (self._search * sum(map(calls_of_tools, read_trajectories(path))) if searched else 0.0)


def _hosted(stage: Stage) -> bool:
    """Whether a stage pays for a model or a job."""
    if stage.verb == "eval" and stage.needs:
        return stage.needs[0].verb == "tune"
    named = [stage.values.get("teacher", ""), *stage.inputs.get("agent", ())]
    return stage.verb == "tune" or any(isinstance(one, str) and one.startswith("openai:") for one in named)


def _least(own: str | None, left: float) -> str:
    """The smaller of a stage's own budget and what is left. Raises ConfigError where the two do not compare."""
    if own is None:
        return f"{left:.6f}usd"
    return f"{min(left, dollars(own).value):.6f}usd"
