"""What a stage will take before it is run: episodes, tokens, dollars, seconds; and which stages are there already.

Invariant: nothing is called, bought or written. What cannot be known yet (a price, a rate that nobody measured) is None and
never a guess; what is assumed stands in ``ASSUMED``. Rates are those of stages of the same kind that are complete, else
those that the study file says were measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.agents import Model, build, load_task
from fireact.collection import CollectConfig
from fireact.episodes import Episode
from fireact.errors import FireactError
from fireact.estimate import Probe, estimate
from fireact.evaluation.run import EvalConfig
from fireact.formats.read import read_any
from fireact.models.openai import DEFAULT_URL
from fireact.models.prices import price_of
from fireact.store import read_manifest, read_trajectories
from fireact.study.stages import Stage
from fireact.training.recipe import Recipe
from fireact.types import Example, Limits, Task, Trajectory

TOKENS = 250
"""Tokens of a trajectory, before there is one to count."""
PASSED = 0.85
"""The share of a collection that is right, before it is collected."""
SCRIPTED = 0.01
"""Seconds of an episode of a script."""
LETTERS, FRAME = 4, 12
"""Letters a token, and tokens that a chat template puts around a turn."""
ASSUMED = {"tokens_a_trajectory": TOKENS, "share_right": PASSED, "seconds_a_scripted_episode": SCRIPTED}
_QUESTION = (
    "A question of about twenty words, such as who directed the film in which the singer of the band first played?"
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a stage takes; ``dollars`` is 0 for a model of one's own, None where a price is not known."""

    stage: Stage
    done: bool
    episodes: int = 0
    tokens: int | None = 0
    dollars: float | None = 0.0
    seconds: float | None = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": f"{self.stage.verb}/{self.stage.key}", "done": self.done, "episodes": self.episodes,
            "training_tokens": self.tokens, "usd": self.dollars, "seconds": self.seconds,
        }  # fmt: skip


@dataclass
class Rates:
    """How fast stages went: training tokens and evaluated questions a second, by what they depend on."""

    shipped: Mapping[str, float] = field(default_factory=dict)
    measured: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def learn(self, stage: Stage, root: Path) -> None:
        """Take the rate of a complete stage."""
        manifest = read_manifest(stage.path(root))
        if stage.verb == "train":
            self.measured[_kind(stage)] = float(manifest["tokens_per_second"])
        elif stage.verb == "eval":
            asked = [(one["n"], one["seconds_per_question"]) for one in manifest["results"].values()]
            seconds = sum(n * each for n, each in asked)
            if seconds:
                self.measured[_kind(stage)] = sum(n for n, _ in asked) / seconds

    def of(self, stage: Stage) -> float | None:
        """Tokens or questions a second, or None where neither is known."""
        name = "train_tokens" if stage.verb == "train" else "tuned_questions" if stage.needs else "prompted_questions"
        return self.measured.get(_kind(stage)) or self.shipped.get(name)


def _kind(stage: Stage) -> tuple[Any, ...]:
    """What the rate of a stage depends on."""
    if stage.verb == "train":
        recipe: Recipe = stage.values["recipe"]
        return "train", stage.values["student"], recipe.kind, recipe.blocks, recipe.train_on
    model = stage.needs[0].values["student"] if stage.needs else stage.inputs["agent"][0]
    return "eval", model, bool(stage.needs), stage.values.get("method", "react")


def forecast(stage: Stage, root: Path, rates: Rates) -> Forecast:
    """What a stage will take; one that is complete takes nothing."""
    if stage.done(root):
        return Forecast(stage, done=True)
    return {"collect": _collect, "mix": _mix, "train": _train, "eval": _eval}[stage.verb](stage, root, rates)


def _collect(stage: Stage, root: Path, rates: Rates) -> Forecast:
    config: CollectConfig = stage.config(root)
    asked = [(*name.rpartition("/")[::2], count) for name, count in config.plan.items()]
    episodes = sum(config.plan.values())
    scripted = config.teacher.startswith("scripted:")
    dollars = hosted_cost(config.teacher, asked, native=config.native)
    return Forecast(stage, False, episodes, 0, dollars, SCRIPTED * episodes if scripted else None)


def _mix(stage: Stage, root: Path, rates: Rates) -> Forecast:
    return Forecast(stage, done=False)


def _train(stage: Stage, root: Path, rates: Rates) -> Forecast:
    tokens = training_tokens(stage, root)
    rate = rates.of(stage)
    return Forecast(stage, False, 0, tokens, 0.0, tokens / rate if rate and tokens is not None else None)


def _eval(stage: Stage, root: Path, rates: Rates) -> Forecast:
    config: EvalConfig = stage.config(root)
    questions = config.n * len(config.tasks)
    asked = [(task, config.method, config.n) for task in config.tasks]
    dollars = 0.0 if stage.needs else hosted_cost(config.agent, asked, native=config.native)
    rate = rates.of(stage)
    return Forecast(stage, False, questions, 0, dollars, questions / rate if rate else None)


def training_tokens(stage: Stage, root: Path) -> int | None:
    """Tokens of all epochs of a training stage; counted where the data is there, else assumed."""
    (mixture,) = stage.needs
    recipe: Recipe = stage.values["recipe"]
    if mixture.done(root):
        found = list(read_trajectories(mixture.path(root)))
        return recipe.epochs * sum(map(_tokens, found))
    count, each = trajectories(mixture, root), TOKENS
    known = [one for one in mixture.inputs["sources"] if isinstance(one, str) and Path(one).is_file()]
    if known:
        held = [trajectory for file in known for trajectory in read_any(Path(file))]
        each = round(sum(map(_tokens, held)) / max(1, len(held)))
    return None if count is None else recipe.epochs * count * each


def trajectories(mixture: Stage, root: Path) -> int | None:
    """How many trajectories a mixture has, or will have; None where its files are not there."""
    values = mixture.values
    if values.get("n"):
        return int(values["n"])
    if values.get("take"):
        return int(sum(values["take"].values()))
    total = 0.0
    for source in mixture.inputs["sources"]:
        if isinstance(source, Stage):
            total += PASSED * sum(source.values["plan"].values())
        elif Path(source).is_file():
            total += sum(1 for _ in read_any(Path(source)))
        else:
            return None
    return round(total)


def _tokens(trajectory: Trajectory) -> int:
    letters = len(trajectory.example.question)
    letters += sum(len(step.text or step.thought) + len(step.observation or "") for step in trajectory.steps)
    return letters // LETTERS + FRAME * (2 * len(trajectory.steps) + 1)


def hosted_cost(model: str, asked: Iterable[tuple[str, str, int]], *, native: bool = False) -> float | None:
    """Dollars that a hosted model takes for (task, method, questions); 0 for one of one's own, None for an unknown price.

    Prompts are the real ones, but for the descriptions of tools and the question, which is one of a usual length.
    """
    kind, _, rest = model.partition(":")
    if kind != "openai":
        return 0.0
    name, _, url = rest.partition("@")
    price = price_of(name, (url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/"))
    probe = Model(lm=Probe(), tuned=False, description=name)
    episodes: list[Episode] = []
    for spec, method, count in asked:
        task = _known_task(spec)
        agent = build(probe, task, method=method, tools={}, native=native)
        example = Example("0", _QUESTION, "x")
        episodes += [Episode(task=task, example=example, agent=agent)] * count
    return estimate(episodes, price=price)["cost_usd"]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _StandIn:
    """A task whose questions are not there: it has a name, a prompt and limits."""

    name: str
    prompts: str = "hotpotqa"
    limits: Limits = field(default_factory=Limits)

    def examples(self, split: str) -> Sequence[Example]:
        return ()

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return {"em": 0.0, "f1": 0.0}


def _known_task(spec: str) -> Task:
    try:
        return load_task(spec)
    except FireactError:
        return _StandIn(Path(spec.partition(":")[0]).stem)


def total(parts: Iterable[float | None]) -> float | None:
    """The sum, or None where a part is not known."""
    found = list(parts)
    return None if any(one is None for one in found) else sum(one for one in found if one is not None)


def at_least(parts: Iterable[float | None]) -> tuple[float, bool]:
    """The sum of what is known, and whether that is all."""
    found = list(parts)
    return sum(one for one in found if one is not None), all(one is not None for one in found)


def distinct(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Each stage once, in the order in which they come."""
    seen: set[str] = set()
    for stage in stages:
        if stage.key not in seen:
            seen.add(stage.key)
            yield stage
