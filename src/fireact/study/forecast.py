"""What a stage will take before it is run: episodes, tokens, dollars, seconds; and which stages are there already.

Invariant: nothing is called, bought or written. What cannot be known yet (a price, a rate that nobody measured) is never a
guess: it is left out of the sums and named; what is assumed stands in ``ASSUMED``. Rates are those of stages of the same
kind that are complete, else those that the study file says were measured. A machine without a price is one's own.
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
from fireact.estimate import ALONE, ROUNDS, Probe, estimate
from fireact.evaluation.run import EvalConfig
from fireact.formats.read import read_any
from fireact.hosted.run import KINDS as PROVIDERS
from fireact.models.openai import DEFAULT_URL
from fireact.models.prices import price_of
from fireact.store import read_manifest, read_trajectories
from fireact.study.file import StudyFile
from fireact.study.stages import Stage, specific
from fireact.training.recipe import Recipe
from fireact.types import Example, Limits, Task, Trajectory

TOKENS = 250
"""Tokens of a trajectory, before there is one to count."""
PASSED = 0.85
"""The share of a script's episodes that is right, before it is collected."""
SEARCHES = ROUNDS - 1
"""Searches of an episode that searches: its last round answers."""
SCRIPTED = 0.01
"""Seconds of an episode of a script."""
LETTERS, FRAME = 4, 12
"""Letters a token, and tokens that a chat template puts around a turn."""
ASSUMED = {
    "tokens_a_trajectory": TOKENS, "share_right_of_a_script": PASSED, "seconds_a_scripted_episode": SCRIPTED,
    "searches_an_episode": SEARCHES,
}  # fmt: skip
_QUESTION = (
    "A question of about twenty words, such as who directed the film in which the singer of the band first played?"
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a stage takes, as far as it is known; ``unpriced`` and ``untimed`` name the parts that are not in the sums."""

    stage: Stage
    done: bool
    episodes: int = 0
    searches: int = 0
    tokens: int | None = 0
    dollars: float = 0.0
    seconds: float | None = 0.0
    unpriced: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": f"{self.stage.verb}/{self.stage.key}", "done": self.done, "episodes": self.episodes,
            "searches": self.searches, "training_tokens": self.tokens, "usd": self.dollars, "seconds": self.seconds,
            "unpriced": list(self.unpriced), "untimed": list(self.untimed),
        }  # fmt: skip


@dataclass
class Rates:
    """What is known of speed, prices and teachers: of stages that are complete, and what the study file says."""

    study: StudyFile
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

    def seconds(self, stage: Stage, *, tokens: int | None = None, examples: int | None = None) -> float | None:
        """What a training (of so many tokens, or examples) or an evaluation (of so many questions) takes, if that is known."""
        measured = self.measured.get(_kind(stage))
        known = {"train_tokens": tokens, "train_examples": examples}
        if stage.verb == "eval":
            known = {"tuned_questions" if stage.needs else "prompted_questions": examples}
        if measured:
            amount = tokens if stage.verb == "train" else examples
            return None if amount is None else amount / measured
        for name, amount in known.items():
            rate = specific(self.study.rates, name, stage)
            if rate and amount is not None:
                return amount / rate
        return None


def _kind(stage: Stage) -> tuple[Any, ...]:
    """What the rate of a stage depends on."""
    if stage.verb == "train":
        recipe: Recipe = stage.values["recipe"]
        return "train", stage.student, recipe.kind, recipe.blocks, recipe.train_on
    model = stage.needs[0].student if stage.needs else stage.inputs["agent"][0]
    return "eval", model, bool(stage.needs), stage.values.get("method", "react")


def forecast(stage: Stage, root: Path, rates: Rates) -> Forecast:
    """What a stage will take; one that is complete takes nothing."""
    if stage.done(root):
        return Forecast(stage, done=True)
    by_verb = {"collect": _collect, "mix": _mix, "train": _train, "tune": _tune, "eval": _eval}
    return by_verb[stage.verb](stage, root, rates)


def _collect(stage: Stage, root: Path, rates: Rates) -> Forecast:
    config: CollectConfig = stage.config(root)
    asked = [(*name.rpartition("/")[::2], count) for name, count in config.plan.items()]
    scripted = config.teacher.startswith("scripted:")
    searches = _searches(stage, ((method, count) for _, method, count in asked))
    parts = {
        f"what {config.teacher} takes a token": hosted_cost(config.teacher, asked, native=config.native),
        **_searched(searches, rates),
    }
    episodes = sum(config.plan.values())
    seconds = SCRIPTED * episodes if scripted else None
    return _forecast(stage, parts, seconds, f"collecting from {config.teacher}", episodes=episodes, searches=searches)


def _mix(stage: Stage, root: Path, rates: Rates) -> Forecast:
    return Forecast(stage, done=False)


def _train(stage: Stage, root: Path, rates: Rates) -> Forecast:
    (mixture,) = stage.needs
    count, tokens = trajectories(mixture, root, rates.study.right), training_tokens(stage, root, rates.study.right)
    examples = None if count is None else count * stage.epochs
    seconds = rates.seconds(stage, tokens=tokens, examples=examples)
    what = f"training {stage.student}"
    return _forecast(stage, _hours(stage, seconds, what, rates), seconds, what, tokens=tokens)


def _tune(stage: Stage, root: Path, rates: Rates) -> Forecast:
    tokens, price = training_tokens(stage, root, rates.study.right), stage.values.get("price")
    dollars = None if tokens is None or price is None else tokens * price / 1e6
    parts = {f"what {stage.student} takes a trained token": dollars}
    return _forecast(stage, parts, None, f"training {stage.student}", tokens=tokens)


def _eval(stage: Stage, root: Path, rates: Rates) -> Forecast:
    config: EvalConfig = stage.config(root)
    questions = config.n * len(config.tasks)
    searches = _searches(stage, [(config.method, questions)])
    seconds = rates.seconds(stage, examples=questions)
    tuned = bool(stage.needs)
    model = stage.needs[0].student if tuned else config.agent
    what = f"evaluating {model}{', fine-tuned' if tuned else ''}"
    parts = _searched(searches, rates)
    if model.partition(":")[0] in PROVIDERS:
        asked = [(task, config.method, config.n) for task in config.tasks]
        cost = hosted_cost(model, asked, native=config.native, tuned=tuned, examples=config.examples)
        parts |= {f"what {model}{', fine-tuned,' if tuned else ''} takes a token": cost}
    else:
        parts |= _hours(stage, seconds, what, rates)
    return _forecast(stage, parts, seconds, what, episodes=questions, searches=searches)


def _forecast(
    stage: Stage, parts: Mapping[str, float | None], seconds: float | None, what: str, **amounts: Any
) -> Forecast:
    """The forecast whose dollars are the parts that are known."""
    dollars, _ = at_least(parts.values())
    unpriced = tuple(name for name, part in parts.items() if part is None)
    return Forecast(
        stage, False, dollars=dollars, seconds=seconds, unpriced=unpriced,
        untimed=(what,) if seconds is None else (), **amounts,
    )  # fmt: skip


def _searches(stage: Stage, asked: Iterable[tuple[str, int]]) -> int:
    """About how many paid searches the episodes of some methods make."""
    return sum(SEARCHES * count for method, count in asked if method not in ALONE) if stage.pays_searches else 0


def _searched(searches: int, rates: Rates) -> dict[str, float | None]:
    """What paid searches cost."""
    price = rates.study.prices.get("search")
    return {"what a search costs": None if price is None else price.value * searches} if searches else {}


def _hours(stage: Stage, seconds: float | None, what: str, rates: Rates) -> dict[str, float | None]:
    """What the machine costs, where the file has a price of it."""
    price = specific(rates.study.prices, "machine_hour", stage)
    if price is None:
        return {}
    return {f"the machine for {what}": None if seconds is None else price.value * seconds / 3600}


def training_tokens(stage: Stage, root: Path, shares: Mapping[str, float]) -> int | None:
    """Tokens of all epochs of a training stage; counted where the data is there, else assumed."""
    (mixture,) = stage.needs
    if mixture.done(root):
        found = list(read_trajectories(mixture.path(root)))
        return stage.epochs * sum(map(_tokens, found))
    count, each = trajectories(mixture, root, shares), TOKENS
    known = [one for one in mixture.inputs["sources"] if isinstance(one, str) and Path(one).is_file()]
    if known:
        held = [trajectory for file in known for trajectory in read_any(Path(file))]
        each = round(sum(map(_tokens, held)) / max(1, len(held)))
    return None if count is None else stage.epochs * count * each


def trajectories(mixture: Stage, root: Path, shares: Mapping[str, float]) -> int | None:
    """How many trajectories a mixture has, or will have; None where its files are not there, or nothing is known of a teacher.

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
            right = list(expected_right(source, shares).values())
            if any(one is None for one in right):
                return None
            total += sum(one for one in right if one is not None)
        elif Path(source).is_file():
            total += sum(1 for _ in read_any(Path(source)))
        else:
            return None
    return round(total)


def expected_right(collection: Stage, shares: Mapping[str, float]) -> dict[str, float | None]:
    """By "task/method": how many episodes of a collection will be right, or None where nobody has measured its teacher."""
    scripted = str(collection.values.get("teacher", "scripted:")).startswith("scripted:")
    found: dict[str, float | None] = {}
    for name, count in collection.values["plan"].items():
        share = PASSED if scripted else shares.get(name)
        found[name] = None if share is None else share * count
    return found


def short(mixture: Stage, root: Path, shares: Mapping[str, float]) -> list[str]:
    """What a mixture is expected to lack, in words: it takes more than will be right of what is collected for it."""
    if mixture.done(root) or not all(isinstance(one, Stage) for one in mixture.inputs["sources"]):
        return []
    there: dict[str, float | None] = {}
    for one in mixture.needs:
        for name, count in expected_right(one, shares).items():
            before = there.get(name, 0.0)
            there[name] = None if count is None or before is None else before + count
    wanted = dict(mixture.values.get("take", {}))
    if mixture.values.get("n"):
        wanted, there = {"all": mixture.values["n"]}, {"all": total(there.values())}
    return [
        f"{name}: {count:,} are wanted, and about {expected:,.0f} will be right"
        for name, count in wanted.items()
        if (expected := there.get(name)) is not None and expected < count
    ]


def _tokens(trajectory: Trajectory) -> int:
    letters = len(trajectory.example.question)
    letters += sum(len(step.text or step.thought) + len(step.observation or "") for step in trajectory.steps)
    return letters // LETTERS + FRAME * (2 * len(trajectory.steps) + 1)


def hosted_cost(
    model: str,
    asked: Iterable[tuple[str, str, int]],
    *,
    native: bool = False,
    tuned: bool = False,
    examples: int | None = None,
) -> float | None:
    """Dollars that a hosted model takes for (task, method, questions); 0 for one of one's own, None for an unknown price.

    Prompts are the real ones, but for the descriptions of tools and the question, which is one of a usual length. One that
    was ``tuned`` has a price of its own, which is known of OpenAI's.
    """
    kind, _, rest = model.partition(":")
    if kind != "openai":
        return None if kind in PROVIDERS else 0.0
    name, _, url = rest.partition("@")
    name = f"ft:{name}" if tuned else name
    price = price_of(name, (url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/"))
    probe = Model(lm=Probe(), tuned=tuned, description=name)
    episodes: list[Episode] = []
    for spec, method, count in asked:
        task = _known_task(spec)
        agent = build(probe, task, method=method, tools={}, native=native, examples=examples)
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
