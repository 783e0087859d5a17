"""What the stages of a study have cost: what an agent costs in the end, and what is left of the study's budget.

Invariant: all prices come from the study file, with their sources. Where tokens, jobs and searches were paid for, the
paid amount is used instead. A missing price is never guessed: the figures that need it are None. All stages together
stay within the budget: a stage gets what the others have left, including those of earlier runs and of other studies
that share them. The user's own machines take nothing of a budget. Nothing is run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base.cost import Cost
from fireact.base.run_directory import TRAJECTORIES, read_manifest, read_trajectories
from fireact.data import MixConfig
from fireact.data.filters import predicate
from fireact.errors import BudgetError, ConfigError
from fireact.evaluation.summary import read_summaries
from fireact.models.limits import BudgetAmount
from fireact.reporting.rows import CellCost
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import read_counts
from fireact.study.file import StudyPrice
from fireact.study.forecast import Rates, estimate_stage
from fireact.study.results import CellResult, count_tool_calls
from fireact.study.stages import Stage, find_for_stage
from fireact.types import Trajectory, Usage


def compute_cell_cost(cell_result: CellResult, prices: Mapping[str, StudyPrice]) -> CellCost:
    """Dollars and seconds of a cell on its first task.

    An episode that the mixture's filters leave out is waste: for ``n`` trajectories in training, ``n / passing share -
    n`` episodes were collected in vain. For data from a file this is not known. ``questions_to_break_even`` is the
    number of questions after which data, training and the student's own answers together have cost less than the
    teacher's answers.
    """
    evaluation, teacher_price = cell_result.stages[-1], prices.get("teacher_question")
    summary = next(iter(read_summaries(cell_result.manifest("eval") or {}).values()))
    episodes, seconds = next(iter(cell_result.episodes.values()), ()), summary.seconds_per_question or 0.0
    serving = _add(_model_cost(evaluation, episodes, seconds, prices), _search_cost(evaluation, episodes, prices))
    stage, mix_manifest = cell_result.stage("train", "tune"), cell_result.manifest("mix")
    if stage is None or mix_manifest is None:
        return CellCost(seconds, serving)
    mixed = read_counts(mix_manifest)
    count = sum(counts.n for counts in mixed.values())
    share = _passing_share(cell_result, mixed)
    # The episodes behind data from a file are not known, nor is what they took.
    episode_cost = Cost(None, math.nan, 1) if share is None else _episode_cost(cell_result, prices)
    teacher_usd = episode_cost.dollars or (None if teacher_price is None else teacher_price.value)
    training = Cost.from_manifest(read_manifest(stage.path(cell_result.root)))
    training_usd = training.dollars if stage.verb == "tune" else _machine_cost(stage, training.seconds, prices)
    wasted = None if share is None else count / share - count
    data_usd, waste_usd = _multiply(count, teacher_usd), _multiply(wasted, teacher_usd)
    fixed_usd = _add(_add(data_usd, waste_usd or 0.0), training_usd)
    number, note = _compute_break_even(fixed_usd, _add(teacher_usd, _multiply(-1, serving)), waste_usd)
    return CellCost(
        seconds,
        serving,
        trajectories=count,
        wasted_episodes=None if wasted is None else round(wasted, 1),
        data_usd=data_usd,
        waste_usd=waste_usd,
        data_seconds=None if share is None else count * episode_cost.seconds,
        waste_seconds=None if wasted is None else wasted * episode_cost.seconds,
        training_seconds=training.seconds,
        training_usd=training_usd,
        teacher_usd_per_question=teacher_usd,
        teacher_price="paid" if episode_cost.dollars else None if teacher_price is None else teacher_price.source,
        questions_to_break_even=number,
        break_even_note=note,
    )


def _compute_break_even(
    fixed_usd: float | None, saved_usd: float | None, waste_usd: float | None
) -> tuple[int | None, str]:
    """The number of questions, and a note: why there is no number, or what the number leaves out."""
    if fixed_usd is None or saved_usd is None:
        return None, "not known: a price is missing"
    if saved_usd <= 0:
        return None, "never: a question costs no less than the teacher's"
    return math.ceil(fixed_usd / saved_usd), "" if waste_usd is not None else "at least: what was wasted is not known"


def _episode_cost(cell_result: CellResult, prices: Mapping[str, StudyPrice]) -> Cost:
    """What one episode of a cell's collections cost, with its searches."""
    manifests = [read_manifest(stage.path(cell_result.root)) for stage in cell_result.collections]
    total = sum(map(Cost.from_manifest, manifests), Cost())
    dollars = None if total.dollars is None else total.dollars / total.episodes
    for stage in (stage for stage in cell_result.collections if stage.has_paid_searches):
        episodes = list(read_trajectories(stage.path(cell_result.root)))
        share = len(episodes) / total.episodes
        dollars = _add(dollars, _multiply(share, _search_cost(stage, episodes, prices)))
    return Cost(dollars, total.seconds / total.episodes, 1)


def _passing_share(cell_result: CellResult, groups: Mapping[str, Any]) -> float | None:
    """The share of the collected episodes of a mixture's tasks and methods that passes its filters."""
    mixture = next(stage for stage in cell_result.stages if stage.verb == "mix")
    config: MixConfig = mixture.config(cell_result.root)
    filters = [predicate(text) for text in (*config.where, *(["learnable"] if config.weigh_bad == 0 else []))]
    passed = [
        all(is_kept(episode) for is_kept in filters)
        for stage in cell_result.collections
        for episode in read_trajectories(stage.path(cell_result.root))
        if f"{episode.task}/{episode.method}" in groups
    ]
    return sum(passed) / len(passed) if any(passed) else None


def _model_cost(
    evaluation: Stage, episodes: Sequence[Trajectory], seconds: float, prices: Mapping[str, StudyPrice]
) -> float | None:
    """What the model costs a question: for a hosted model what was paid, for a local one the machine's time."""
    if not evaluation.has_paid_model:
        return _machine_cost(evaluation, seconds, prices)
    total = sum((episode.usage for episode in episodes), Usage()).cost
    return total / len(episodes) if total is not None and episodes else None


def _machine_cost(stage: Stage, seconds: float, prices: Mapping[str, StudyPrice]) -> float | None:
    """What the machine of a stage costs for a number of seconds."""
    price = find_for_stage(prices, "machine_hour", stage)
    return None if price is None else price.value * seconds / 3600


def _search_cost(stage: Stage, episodes: Sequence[Trajectory], prices: Mapping[str, StudyPrice]) -> float | None:
    """What the searches of one episode cost: nothing if they are free, None if they have no price."""
    if not stage.has_paid_searches or not episodes:
        return 0.0
    price = prices.get("search")
    return None if price is None else price.value * sum(map(count_tool_calls, episodes)) / len(episodes)


def _add(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _multiply(amount: float | None, each: float | None) -> float | None:
    return None if amount is None or each is None else amount * each


def parse_usd_budget(text: str) -> BudgetAmount:
    """The budget of a study. Raises ConfigError for one in tokens, because its models differ in their token prices."""
    amount = BudgetAmount.parse(text)
    if amount.unit != "usd":
        raise ConfigError(f"the budget of a study is {text!r}; it must be in dollars, such as 50usd.")
    return amount


@dataclass(frozen=True, slots=True)
class StudyBudget:
    """The budget of a study (None: no limit) for all of its ``stages``, whose directories lie in ``root``.

    Searches count at the study file's price; those of the next stage are estimated.
    """

    budget: BudgetAmount | None
    stages: Sequence[Stage]
    root: Path
    rates: Rates

    def config_within_budget(self, stage: Stage) -> Any:
        """The config of a stage with the remaining budget as its budget. Raises BudgetError if nothing remains."""
        config = stage.config(self.root)
        searches = estimate_stage(stage, self.root, self.rates).searches * self._search_price
        if self.budget is None or not (stage.has_paid_model or searches):
            return config
        spent = sum(self._spent_by(other_stage) for other_stage in self.stages if other_stage.key != stage.key)
        remaining = self.budget.value - spent - searches
        if remaining <= 0:
            searches_note = f", and the searches of {stage.verb}/{stage.key} are expected to take ${searches:.2f}"
            raise BudgetError(
                f"too little of the budget of {self.budget} is left: ${spent:.4f} are spent"
                f"{searches_note if searches else ''}. Resume with a larger --budget; all paid results are kept."
            )
        if not stage.has_paid_model:
            return config
        limits = [remaining, *([parse_usd_budget(config.budget).value] if config.budget is not None else [])]
        return replace(config, budget=f"{min(limits):.6f}usd")

    @property
    def _search_price(self) -> float:
        price = self.rates.study.prices.get("search")
        return 0.0 if price is None else price.value

    def _spent_by(self, stage: Stage) -> float:
        """What a stage has cost so far, complete or not: its calls, its job and its searches."""
        path = stage.path(self.root)
        spent = CallCache(path / CALLS, "record").total_usage().cost or 0.0
        if stage.verb == "tune" and stage.is_complete(self.root):
            spent += Cost.from_manifest(read_manifest(path)).dollars or 0.0
        if stage.has_paid_searches and self._search_price and (path / TRAJECTORIES).is_file():
            spent += self._search_price * sum(map(count_tool_calls, read_trajectories(path)))
        return spent
