"""What a stage will take, before it is run: episodes, tokens, dollars, seconds; and which stages are complete already.

Invariant: nothing is called, bought or written. What cannot be known yet (a price, a rate that nobody measured) is
never guessed: it is left out of the sums and named. ``ASSUMED`` holds all assumptions. A rate is measured on complete
stages of the same kind; without one it comes from the study file. A machine without a price costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.base.names import split_model_spec
from fireact.base.run_directory import read_manifest, read_trajectories
from fireact.errors import FireactError
from fireact.evaluation.evaluate import EvalConfig
from fireact.formats.read import read_any
from fireact.hosted.tune import is_provider_spec
from fireact.models.openai import DEFAULT_URL
from fireact.models.prices import find_price
from fireact.rollout.agents import Model, build_agent, load_task
from fireact.rollout.collection import CollectConfig
from fireact.rollout.episodes import Episode
from fireact.rollout.estimate import SINGLE_STEP_METHODS, STEPS_PER_EPISODE, PromptProbe, estimate_episodes
from fireact.study.file import StudyFile
from fireact.study.stages import Stage, find_for_stage
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
CHARS_PER_TOKEN, TEMPLATE_TOKENS = 4, 12
"""Characters of a token, and tokens that a chat template puts around a turn."""
ASSUMED = {
    "tokens_a_trajectory": ASSUMED_TOKENS, "share_right_of_a_script": ASSUMED_RIGHT_SHARE,
    "seconds_a_scripted_episode": SCRIPTED_SECONDS, "searches_an_episode": ASSUMED_SEARCHES,
}  # fmt: skip
_QUESTION = (
    "A question of about twenty words, such as who directed the film in which the singer of the band first played?"
)


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What a stage takes, as far as it is known; ``unpriced`` and ``untimed`` name what the sums leave out."""

    stage: Stage
    is_complete: bool
    episodes: int = 0
    searches: int = 0
    tokens: int | None = 0
    dollars: float = 0.0
    seconds: float | None = 0.0
    unpriced: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": f"{self.stage.verb}/{self.stage.key}", "done": self.is_complete, "episodes": self.episodes,
            "searches": self.searches, "training_tokens": self.tokens, "usd": self.dollars, "seconds": self.seconds,
            "unpriced": list(self.unpriced), "untimed": list(self.untimed),
        }  # fmt: skip


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
            timings = [(result["n"], result["seconds_per_question"]) for result in manifest["results"].values()]
            seconds = sum(n * seconds_per_question for n, seconds_per_question in timings)
            if seconds:
                self.measured[_rate_key(stage)] = sum(n for n, _ in timings) / seconds

    def estimate_seconds(self, stage: Stage, *, tokens: int | None = None, examples: int | None = None) -> float | None:
        """The seconds of a training on ``tokens`` or ``examples``, or of an evaluation; None if no rate is known.

        An evaluation's ``examples`` are its questions.
        """
        measured = self.measured.get(_rate_key(stage))
        amounts = {"train_tokens": tokens, "train_examples": examples}
        if stage.verb == "eval":
            amounts = {"tuned_questions" if stage.dependencies else "prompted_questions": examples}
        if measured:
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
    model = stage.dependencies[0].student if stage.dependencies else stage.inputs["agent"][0]
    return "eval", model, bool(stage.dependencies), stage.values.get("method", "react")


def estimate_stage(stage: Stage, root: Path, rates: Rates) -> StageEstimate:
    """What a stage will take; a complete stage takes nothing."""
    if stage.is_complete(root):
        return StageEstimate(stage, is_complete=True)
    by_verb = {
        "collect": _estimate_collect,
        "mix": _estimate_mix,
        "train": _estimate_train,
        "tune": _estimate_tune,
        "eval": _estimate_eval,
    }
    return by_verb[stage.verb](stage, root, rates)


def _estimate_collect(stage: Stage, root: Path, rates: Rates) -> StageEstimate:
    config: CollectConfig = stage.config(root)
    episode_counts = [(*name.rpartition("/")[::2], count) for name, count in config.plan.items()]
    scripted = config.teacher.startswith("scripted:")
    searches = _count_searches(stage, ((method, count) for _, method, count in episode_counts))
    costs = {
        f"the price of a token of {config.teacher}": estimate_hosted_cost(
            config.teacher, episode_counts, native=config.native
        ),
        **_price_searches(searches, rates),
    }
    episodes = sum(config.plan.values())
    seconds = SCRIPTED_SECONDS * episodes if scripted else None
    return _build_estimate(
        stage, costs, seconds, f"collecting from {config.teacher}", episodes=episodes, searches=searches
    )


def _estimate_mix(stage: Stage, root: Path, rates: Rates) -> StageEstimate:
    return StageEstimate(stage, is_complete=False)


def _estimate_train(stage: Stage, root: Path, rates: Rates) -> StageEstimate:
    (mixture,) = stage.dependencies
    count = estimate_trajectories(mixture, root, rates.study.right)
    tokens = estimate_training_tokens(stage, root, rates.study.right)
    examples = None if count is None else count * stage.epochs
    seconds = rates.estimate_seconds(stage, tokens=tokens, examples=examples)
    description = f"training {stage.student}"
    return _build_estimate(
        stage, _price_machine(stage, seconds, description, rates), seconds, description, tokens=tokens
    )


def _estimate_tune(stage: Stage, root: Path, rates: Rates) -> StageEstimate:
    tokens, price = estimate_training_tokens(stage, root, rates.study.right), stage.values.get("price")
    dollars = None if tokens is None or price is None else tokens * price / 1e6
    costs = {f"the price of a trained token of {stage.student}": dollars}
    return _build_estimate(stage, costs, None, f"training {stage.student}", tokens=tokens)


def _estimate_eval(stage: Stage, root: Path, rates: Rates) -> StageEstimate:
    config: EvalConfig = stage.config(root)
    questions = config.n * len(config.tasks)
    searches = _count_searches(stage, [(config.method, questions)])
    seconds = rates.estimate_seconds(stage, examples=questions)
    tuned = bool(stage.dependencies)
    model = stage.dependencies[0].student if tuned else config.agent
    description = f"evaluating {model}{', fine-tuned' if tuned else ''}"
    costs = _price_searches(searches, rates)
    if is_provider_spec(model):
        question_counts = [(task, config.method, config.n) for task in config.tasks]
        cost = estimate_hosted_cost(model, question_counts, native=config.native, tuned=tuned, examples=config.examples)
        costs |= {f"the price of a token of {model}{', fine-tuned' if tuned else ''}": cost}
    else:
        costs |= _price_machine(stage, seconds, description, rates)
    return _build_estimate(stage, costs, seconds, description, episodes=questions, searches=searches)


def _build_estimate(
    stage: Stage, costs: Mapping[str, float | None], seconds: float | None, description: str, **amounts: Any
) -> StageEstimate:
    """The estimate of a stage; its dollars are the sum of the costs that are known."""
    dollars, _ = sum_known(costs.values())
    unpriced = tuple(name for name, cost in costs.items() if cost is None)
    return StageEstimate(
        stage, False, dollars=dollars, seconds=seconds, unpriced=unpriced,
        untimed=(description,) if seconds is None else (), **amounts,
    )  # fmt: skip


def _count_searches(stage: Stage, method_counts: Iterable[tuple[str, int]]) -> int:
    """About how many paid searches the episodes of some methods make."""
    if not stage.has_paid_searches:
        return 0
    return sum(ASSUMED_SEARCHES * count for method, count in method_counts if method not in SINGLE_STEP_METHODS)


def _price_searches(searches: int, rates: Rates) -> dict[str, float | None]:
    """What paid searches cost."""
    price = rates.study.prices.get("search")
    return {"the price of a search": None if price is None else price.value * searches} if searches else {}


def _price_machine(stage: Stage, seconds: float | None, description: str, rates: Rates) -> dict[str, float | None]:
    """What the machine costs, if the study file has a price for it."""
    price = find_for_stage(rates.study.prices, "machine_hour", stage)
    if price is None:
        return {}
    return {f"the machine for {description}": None if seconds is None else price.value * seconds / 3600}


def estimate_training_tokens(stage: Stage, root: Path, shares: Mapping[str, float]) -> int | None:
    """Tokens of all epochs of a training stage: counted if its data exists already, else assumed."""
    (mixture,) = stage.dependencies
    if mixture.is_complete(root):
        mixed_trajectories = list(read_trajectories(mixture.path(root)))
        return stage.epochs * sum(map(_count_tokens, mixed_trajectories))
    count, tokens_each = estimate_trajectories(mixture, root, shares), ASSUMED_TOKENS
    source_files = [
        source for source in mixture.inputs["sources"] if isinstance(source, str) and Path(source).is_file()
    ]
    if source_files:
        file_trajectories = [trajectory for file in source_files for trajectory in read_any(Path(file))]
        tokens_each = round(sum(map(_count_tokens, file_trajectories)) / max(1, len(file_trajectories)))
    return None if count is None else stage.epochs * count * tokens_each


def estimate_trajectories(mixture: Stage, root: Path, shares: Mapping[str, float]) -> int | None:
    """How many trajectories a mixture has, or will have; None if a file is missing or a teacher's share is not known.

    ``shares`` are the shares of a hosted teacher's episodes that are right, by "task/method".
    """
    values = mixture.values
    if values.get("n"):
        return int(values["n"])
    if values.get("take"):
        return int(sum(values["take"].values()))
    total = 0.0
    for source in mixture.inputs["sources"]:
        if isinstance(source, Stage):
            right_counts = list(estimate_right(source, shares).values())
            if any(count is None for count in right_counts):
                return None
            total += sum(count for count in right_counts if count is not None)
        elif Path(source).is_file():
            total += sum(1 for _ in read_any(Path(source)))
        else:
            return None
    return round(total)


def estimate_right(collection: Stage, shares: Mapping[str, float]) -> dict[str, float | None]:
    """How many episodes of a collection will be right, by "task/method"; None if nobody has measured its teacher."""
    scripted = str(collection.values.get("teacher", "scripted:")).startswith("scripted:")
    right_counts: dict[str, float | None] = {}
    for name, count in collection.values["plan"].items():
        share = ASSUMED_RIGHT_SHARE if scripted else shares.get(name)
        right_counts[name] = None if share is None else share * count
    return right_counts


def describe_shortages(mixture: Stage, root: Path, shares: Mapping[str, float]) -> list[str]:
    """Describe what a mixture is expected to lack: where it takes more than its collections will have right."""
    if mixture.is_complete(root) or not all(isinstance(source, Stage) for source in mixture.inputs["sources"]):
        return []
    expected_counts: dict[str, float | None] = {}
    for collection in mixture.dependencies:
        for name, count in estimate_right(collection, shares).items():
            earlier_count = expected_counts.get(name, 0.0)
            expected_counts[name] = None if count is None or earlier_count is None else earlier_count + count
    selected_counts = dict(mixture.values.get("take", {}))
    if mixture.values.get("n"):
        selected_counts, expected_counts = {"all": mixture.values["n"]}, {"all": sum_if_known(expected_counts.values())}
    return [
        f"{name}: {selected_count:,} are wanted, and about {expected_count:,.0f} will be right"
        for name, selected_count in selected_counts.items()
        if (expected_count := expected_counts.get(name)) is not None and expected_count < selected_count
    ]


def _count_tokens(trajectory: Trajectory) -> int:
    char_count = len(trajectory.example.question)
    char_count += sum(len(step.text or step.thought) + len(step.observation or "") for step in trajectory.steps)
    return char_count // CHARS_PER_TOKEN + TEMPLATE_TOKENS * (2 * len(trajectory.steps) + 1)


def estimate_hosted_cost(
    model: str,
    question_counts: Iterable[tuple[str, str, int]],
    *,
    native: bool = False,
    tuned: bool = False,
    examples: int | None = None,
) -> float | None:
    """Dollars that a hosted model costs for (task, method, questions); 0 for a local model, None for an unknown price.

    Prompts are the real ones, but without descriptions of tools, and with one question of a usual length. A ``tuned``
    model has a price of its own, which is known for OpenAI's models.
    """
    provider, name, url = split_model_spec(model)
    if provider != "openai":
        return None if is_provider_spec(model) else 0.0
    name = f"ft:{name}" if tuned else name
    price = find_price(name, (url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/"))
    probe = Model(lm=PromptProbe(), tuned=tuned, description=name)
    episodes: list[Episode] = []
    for spec, method, count in question_counts:
        task = _load_task_or_placeholder(spec)
        agent = build_agent(probe, task, method=method, tools={}, native=native, examples=examples)
        example = Example("0", _QUESTION, "x")
        episodes += [Episode(task=task, example=example, agent=agent)] * count
    return estimate_episodes(episodes, price=price)["cost_usd"]  # type: ignore[no-any-return]


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


def sum_if_known(amounts: Iterable[float | None]) -> float | None:
    """The sum, or None if an amount is not known."""
    total, is_complete = sum_known(amounts)
    return total if is_complete else None


def sum_known(amounts: Iterable[float | None]) -> tuple[float, bool]:
    """The sum of the known amounts, and whether all are known."""
    amount_list = list(amounts)
    known_amounts = [amount for amount in amount_list if amount is not None]
    return sum(known_amounts), len(known_amounts) == len(amount_list)


def unique_stages(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Each stage once, in the order in which they come."""
    seen_keys: set[str] = set()
    for stage in stages:
        if stage.key not in seen_keys:
            seen_keys.add(stage.key)
            yield stage
