"""What the stages of a study have spent on hosted models and providers, and how much of its budget the next may spend.

Invariant: a stage gets what the other stages have left of the budget, including the stages of earlier runs and of
other studies that share them. So all stages together stay within the budget. Searches cost the study file's price;
those of the next stage are estimated. The user's own machines cost nothing. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base.run_directory import TRAJECTORIES, read_manifest, read_trajectories
from fireact.errors import BudgetError, ConfigError
from fireact.models.limits import BudgetAmount
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.study.forecast import Rates, estimate_stage
from fireact.study.results import count_tool_calls
from fireact.study.stages import Stage


def parse_usd_budget(text: str) -> BudgetAmount:
    """The budget of a study. Raises ConfigError for one in tokens, because its models differ in their token prices."""
    amount = BudgetAmount.parse(text)
    if amount.unit != "usd":
        raise ConfigError(f"the budget of a study is {text!r}; it must be in dollars, such as 50usd.")
    return amount


@dataclass(frozen=True, slots=True)
class StudyBudget:
    """The budget of a study (None: no limit) for all of its ``stages``, whose directories lie in ``root``."""

    budget: BudgetAmount | None
    stages: Sequence[Stage]
    root: Path
    rates: Rates

    def config_within_budget(self, stage: Stage) -> Any:
        """The config of a stage with the remaining budget as its budget. Raises BudgetError if nothing remains."""
        config = stage.config(self.root)
        searches = (
            estimate_stage(stage, self.root, self.rates).searches * self._search_price
            if stage.has_paid_searches
            else 0.0
        )
        if self.budget is None or not (_is_hosted(stage) or searches):
            return config
        spent = sum(self._spent_by(other_stage) for other_stage in self.stages if other_stage.key != stage.key)
        remaining = self.budget.value - spent - searches
        if remaining <= 0:
            searches_note = (
                f", and the searches of {stage.verb}/{stage.key} are expected to take ${searches:.2f}"
                if searches
                else ""
            )
            raise BudgetError(
                f"too little of the budget of {self.budget} is left: ${spent:.4f} are spent{searches_note}. "
                "Resume with a larger --budget; all paid results are kept."
            )
        return replace(config, budget=_smaller_budget(config.budget, remaining)) if _is_hosted(stage) else config

    @property
    def _search_price(self) -> float:
        price = self.rates.study.prices.get("search")
        return 0.0 if price is None else price.value

    def _spent_by(self, stage: Stage) -> float:
        """What a stage has cost so far, complete or not."""
        path = stage.path(self.root)
        if stage.verb == "tune":
            return float(read_manifest(path)["cost_usd"] or 0.0) if stage.is_complete(self.root) else 0.0
        if stage.verb not in ("collect", "eval"):
            return 0.0
        cost = CallCache(path / CALLS, "record").total_usage().cost or 0.0
        has_searched = stage.has_paid_searches and self._search_price and (path / TRAJECTORIES).is_file()
        return cost + (
            self._search_price * sum(map(count_tool_calls, read_trajectories(path))) if has_searched else 0.0
        )


def _is_hosted(stage: Stage) -> bool:
    """Whether a stage pays for a model or a job."""
    if stage.verb == "eval" and stage.dependencies:
        return stage.dependencies[0].verb == "tune"
    models = [stage.values.get("teacher", ""), *stage.inputs.get("agent", ())]
    return stage.verb == "tune" or any(isinstance(model, str) and model.startswith("openai:") for model in models)


def _smaller_budget(stage_budget: str | None, remaining: float) -> str:
    """The smaller of a stage's own budget and what remains. Raises ConfigError if the stage's is not in dollars."""
    if stage_budget is None:
        return f"{remaining:.6f}usd"
    return f"{min(remaining, parse_usd_budget(stage_budget).value):.6f}usd"
