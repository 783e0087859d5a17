"""What a stage will take, before it is run, and which stages are complete already.

Invariant: nothing is called, bought or written. What cannot be known yet (a price, a rate that nobody measured) is
never guessed: it is left out of the sums and named. ``ASSUMED`` holds all assumptions. A rate is measured on complete
stages of the same kind; without one it comes from the study file. A machine without a price costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.base.cost import CostEstimate
from fireact.base.names import split_model_spec, split_urls
from fireact.base.run_directory import read_manifest, read_trajectories
from fireact.errors import FireactError
from fireact.evaluation.summary import read_summaries
from fireact.formats.read import read_any
from fireact.hosted.tune import is_provider_spec
from fireact.models.openai import DEFAULT_URL
from fireact.models.prices import find_price
from fireact.rollout.agents import build_agent
from fireact.rollout.episodes import Episode
from fireact.rollout.estimate import (
    CHARS_PER_TOKEN,
    SINGLE_STEP_METHODS,
    STEPS_PER_EPISODE,
    PromptProbe,
    estimate_episodes,
)
from fireact.rollout.loading import load_task
from fireact.rollout.models import Model
from fireact.study.cells import Cell
from fireact.study.file import StudyFile
from fireact.study.stages import Stage, find_for_stage, question_groups
from fireact.training.recipe import Recipe
from fireact.types import Example, Limits, Task, Trajectory

ASSUMED_TOKENS = 250
"""Tokens of a trajectory, as long as there is none to count."""
ASSUMED_RIGHT_SHARE = 0.85
"""The share of a scripted teacher's episodes that is right, before they are collected."""
ASSUMED_SEARCHES = STEPS_PER_EPISODE - 1
"""Searches of an episode of a method that searches: its last step answers."""
SCRIPTED_SECONDS = 0.01
"""Seconds of an episode of a scripted teacher."""
TEMPLATE_TOKENS = 12
"""Tokens that a chat template puts around a turn."""
ASSUMED = {
    "tokens_a_trajectory": ASSUMED_TOKENS, "share_right_of_a_script": ASSUMED_RIGHT_SHARE,
    "seconds_a_scripted_episode": SCRIPTED_SECONDS, "searches_an_episode": ASSUMED_SEARCHES,
}  # fmt: skip
MACHINE = "the machine for "
"""How the price of a machine begins, which is not known where the time is not."""
_QUESTION = (
    "A question of about twenty words, such as who directed the film in which the singer of the band first played?"
)


@dataclass
class Rates:
    """Known speeds, prices and shares of right episodes: measured on complete stages, else from the study file."""

    study: StudyFile
    measured: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def add_stage(self, stage: Stage, root: Path) -> None:
        """Take the rate of a complete stage."""
        manifest = read_manifest(stage.path(root))
        if stage.verb == "train":
            self.measured[_rate_key(stage)] = float(manifest["tokens_per_second"])
        elif stage.verb == "eval":
            summaries = read_summaries(manifest).values()
            seconds = sum(summary.n * (summary.seconds_per_question or 0.0) for summary in summaries)
            if seconds:
                self.measured[_rate_key(stage)] = sum(summary.n for summary in summaries) / seconds

    def estimate_seconds(self, stage: Stage, *, tokens: int | None = None, examples: int | None = None) -> float | None:
        """The seconds of a training on ``tokens`` or ``examples``, or of an evaluation; None if no rate is known.

        An evaluation's ``examples`` are its questions.
        """
        amounts = {"train_tokens": tokens, "train_examples": examples}
        if stage.verb == "eval":
            amounts = {"tuned_questions" if stage.dependencies else "prompted_questions": examples}
        if measured := self.measured.get(_rate_key(stage)):
            amount = tokens if stage.verb == "train" else examples
            return None if amount is None else amount / measured
        for name, amount in amounts.items():
            rate = find_for_stage(self.study.rates, name, stage)
            if rate and amount is not None:
                return amount / rate
        return None


def _rate_key(stage: Stage) -> tuple[Any, ...]:
    """What the rate of a stage depends on."""
    if stage.verb == "train":
        recipe: Recipe = stage.values["recipe"]
        return "train", stage.student, recipe.kind, recipe.blocks, recipe.train_on
    return "eval", stage.model, bool(stage.dependencies), stage.values.get("method", "react")


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage of a plan, and what it will take."""

    stage: Stage
    is_complete: bool
    cost: CostEstimate

    def to_dict(self) -> dict[str, Any]:
        cost = self.cost
        return {
            "stage": f"{self.stage.verb}/{self.stage.key}", "done": self.is_complete, "episodes": cost.episodes,
            "searches": cost.searches, "training_tokens": None if cost.uncounted else cost.tokens,
            "usd": cost.dollars, "seconds": None if cost.untimed else cost.seconds,
            "unpriced": list(cost.unpriced), "untimed": list(cost.untimed),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What a study would do: its cells with their stages, all stages once, values that it needs, mixtures too small."""

    study: StudyFile
    cells: Mapping[str, tuple[Cell, Sequence[PlannedStage]]]
    stages: Sequence[PlannedStage]
    needs: Mapping[str, str]
    shortages: Sequence[str]

    @property
    def cost(self) -> CostEstimate:
        """What all stages together take."""
        return sum((planned.cost for planned in self.stages), CostEstimate())

    @property
    def complete_stages(self) -> int:
        return sum(planned.is_complete for planned in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``whole`` says whether a sum has all its terms."""
        cost = self.cost
        return {
            "study": self.study.name,
            "title": self.study.title,
            "size": self.study.size,
            "needs": dict(self.needs),
            "cells": [
                {"cell": name, "axes": dict(cell.axes), "stages": [planned.to_dict() for planned in stages]}
                for name, (cell, stages) in self.cells.items()
            ],
            "stages": len(self.stages),
            "there": self.complete_stages,
            "episodes": cost.episodes,
            "training_tokens": {"known": cost.tokens, "whole": not cost.uncounted},
            "searches": cost.searches,
            "usd": {"known": round(cost.dollars, 2), "whole": not cost.unpriced, "unknown": list(cost.unpriced)},
            "seconds": {"known": round(cost.seconds), "whole": not cost.untimed, "unknown": list(cost.untimed)},
            "short": list(self.shortages),
            "assumed": ASSUMED,
        }


def estimate_stage(stage: Stage, root: Path, rates: Rates) -> CostEstimate:
    """What a stage will take; a complete stage takes nothing."""
    if stage.is_complete(root):
        return CostEstimate()
    if stage.is_rollout:
        return _estimate_rollout(stage, root, rates)
    return _estimate_training_stage(stage, root, rates) if stage.student else CostEstimate()


def _estimate_rollout(stage: Stage, root: Path, rates: Rates) -> CostEstimate:
    """Episodes of a collection or an evaluation: their model, their searches, their machine."""
    groups = question_groups(stage.config(root))
    episodes, machine = sum(count for _, _, count in groups), dict[str, float | None]()
    if stage.verb == "collect":
        is_script = stage.model.startswith("scripted:")
        seconds = {f"collecting from {stage.model}": SCRIPTED_SECONDS * episodes if is_script else None}
    else:
        seconds = {f"evaluating {_label_model(stage)}": rates.estimate_seconds(stage, examples=episodes)}
        if not is_provider_spec(stage.model):
            machine = _price_machine(stage, seconds, rates)
    model = _estimate_model(stage, groups, native=stage.values.get("native", False))
    return model + _estimate_searches(stage, groups, rates) + CostEstimate.from_terms(dollars=machine, seconds=seconds)


def _label_model(stage: Stage) -> str:
    return f"{stage.model}, fine-tuned" if stage.dependencies else stage.model


def _estimate_training_stage(stage: Stage, root: Path, rates: Rates) -> CostEstimate:
    """Tokens of a training: here by the machine's time, at a provider by the price of a token."""
    tokens, activity = estimate_training_tokens(stage, root, rates.study.right), f"training {stage.student}"
    seconds: dict[str, float | None] = {activity: None}
    if stage.verb == "train":
        (mixture,) = stage.dependencies
        count = estimate_trajectories(mixture, rates.study.right)
        examples = None if count is None else count * stage.epochs
        seconds = {activity: rates.estimate_seconds(stage, tokens=tokens, examples=examples)}
        dollars = _price_machine(stage, seconds, rates)
    else:
        price = stage.values.get("price")
        cost = None if tokens is None or price is None else tokens * price / 1e6
        dollars = {f"the price of a trained token of {stage.student}": cost}
    return CostEstimate.from_terms(tokens={activity: tokens}, dollars=dollars, seconds=seconds)


def _estimate_searches(stage: Stage, groups: Iterable[tuple[str, str, int]], rates: Rates) -> CostEstimate:
    """About how many paid searches the episodes make, and what they cost."""
    if not stage.has_paid_searches:
        return CostEstimate()
    searches = sum(ASSUMED_SEARCHES * count for _, method, count in groups if method not in SINGLE_STEP_METHODS)
    price = rates.study.prices.get("search")
    costs = {"the price of a search": None if price is None else price.value * searches} if searches else {}
    return CostEstimate.from_terms(dollars=costs, searches=searches)


def _price_machine(stage: Stage, seconds: Mapping[str, float | None], rates: Rates) -> dict[str, float | None]:
    """What the machine of some activities costs, if the study file has a price for it."""
    price = find_for_stage(rates.study.prices, "machine_hour", stage)
    if price is None:
        return {}
    return {
        f"{MACHINE}{activity}": None if amount is None else price.value * amount / 3600
        for activity, amount in seconds.items()
    }


def estimate_training_tokens(stage: Stage, root: Path, shares: Mapping[str, float]) -> int | None:
    """Tokens of all epochs of a training stage: counted if its data exists already, else assumed."""
    (mixture,) = stage.dependencies
    if mixture.is_complete(root):
        mixed_trajectories = list(read_trajectories(mixture.path(root)))
        return stage.epochs * sum(map(_count_tokens, mixed_trajectories))
    count, tokens_each = estimate_trajectories(mixture, shares), ASSUMED_TOKENS
    source_files = [source for source in mixture.sources if isinstance(source, str) and Path(source).is_file()]
    if source_files:
        file_trajectories = [trajectory for file in source_files for trajectory in read_any(Path(file))]
        tokens_each = round(sum(map(_count_tokens, file_trajectories)) / max(1, len(file_trajectories)))
    return None if count is None else stage.epochs * count * tokens_each


def estimate_trajectories(mixture: Stage, shares: Mapping[str, float]) -> int | None:
    """How many trajectories a mixture has, or will have; None if that is not known."""
    if n := mixture.values.get("n"):
        return int(n)
    if take := mixture.values.get("take"):
        return int(sum(take.values()))
    total = _sum_if_known(estimate_right(mixture, shares))
    return None if total is None else round(total)


def estimate_right(mixture: Stage, shares: Mapping[str, float]) -> dict[str, float | None]:
    """How many trajectories of a mixture's sources will be right, by "task/method" and by file.

    ``shares`` are the shares of a hosted teacher's episodes that are right, by "task/method". None means that nobody
    has measured the teacher, or that a file is missing.
    """
    right_counts: dict[str, float | None] = {}
    for source in mixture.sources:
        if isinstance(source, str):
            right_counts[source] = sum(1 for _ in read_any(Path(source))) if Path(source).is_file() else None
            continue
        for task, method, count in question_groups(source.config(Path())):
            name = f"{task}/{method}"
            share = ASSUMED_RIGHT_SHARE if source.model.startswith("scripted:") else shares.get(name)
            earlier_count = right_counts.get(name, 0.0)
            right_counts[name] = None if share is None or earlier_count is None else earlier_count + share * count
    return right_counts


def _sum_if_known(counts: Mapping[str, float | None]) -> float | None:
    known_counts = [count for count in counts.values() if count is not None]
    return sum(known_counts) if len(known_counts) == len(counts) else None


def describe_shortages(mixture: Stage, root: Path, shares: Mapping[str, float]) -> list[str]:
    """Describe what a mixture is expected to lack: where it takes more than its collections will have right."""
    if mixture.is_complete(root) or len(mixture.dependencies) < len(mixture.sources):
        return []
    right_counts, taken_counts = estimate_right(mixture, shares), mixture.values.get("take", {})
    if total := mixture.values.get("n"):
        right_counts, taken_counts = {"all": _sum_if_known(right_counts)}, {"all": total}
    return [
        f"{name}: {count:,} are wanted, and about {right_count:,.0f} will be right"
        for name, count in taken_counts.items()
        if (right_count := right_counts.get(name)) is not None and right_count < count
    ]


def _count_tokens(trajectory: Trajectory) -> int:
    char_count = len(trajectory.example.question)
    char_count += sum(len(step.text or step.thought) + len(step.observation or "") for step in trajectory.steps)
    return char_count // CHARS_PER_TOKEN + TEMPLATE_TOKENS * (2 * len(trajectory.steps) + 1)


def _estimate_model(stage: Stage, groups: Iterable[tuple[str, str, int]], *, native: bool) -> CostEstimate:
    """Episodes of (task, method, questions), and what their model costs: nothing if it is local.

    Prompts are the real ones, but without descriptions of tools, and with one question of a usual length. A fine-tuned
    model has a price of its own, which is known for OpenAI's models.
    """
    (provider, name, url), label, is_tuned = (
        split_model_spec(stage.model),
        _label_model(stage),
        bool(stage.dependencies),
    )
    if provider != "openai":
        costs: dict[str, float | None] = (
            {f"the price of a token of {label}": None} if is_provider_spec(stage.model) else {}
        )
        return CostEstimate.from_terms(dollars=costs, episodes=sum(count for _, _, count in groups))
    name = f"ft:{name}" if is_tuned else name
    price = find_price(
        name, (next(iter(split_urls(url)), None) or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
    )
    probe = Model(lm=PromptProbe(), tuned=is_tuned, description=name)
    episodes: list[Episode] = []
    for spec, method, count in groups:
        task = _load_task_or_placeholder(spec)
        agent = build_agent(probe, task, method=method, tools={}, native=native, examples=stage.values.get("examples"))
        episodes += [Episode(task=task, example=Example("0", _QUESTION, "x"), agent=agent)] * count
    return estimate_episodes(episodes, price=price, model=label)


@dataclass(frozen=True, slots=True)
class _PlaceholderTask:
    """Stands in for a task that cannot be loaded: it has a name, prompts and limits, but no questions."""

    name: str
    prompts: str = "hotpotqa"
    limits: Limits = field(default_factory=Limits)

    def examples(self, split: str) -> Sequence[Example]:
        return ()

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return {"em": 0.0, "f1": 0.0}


def _load_task_or_placeholder(spec: str) -> Task:
    try:
        return load_task(spec)
    except FireactError:
        return _PlaceholderTask(Path(spec.partition(":")[0]).stem)
