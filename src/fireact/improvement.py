"""The verb ``improve``: rounds of rejection sampling, in which a student learns from its own successes.

    round-1/collect   the student tries questions it was not trained on, at a temperature
    round-1/mix       the data so far, and its successes
    round-1/train     the base student, trained anew on all of it
    round-1/eval      questions of the dev split, greedily

Invariant: a round sees new training questions: none that the data of the run holds, nor those of an earlier round; and the
questions that it is measured on are in none of them. It stops when a round does not raise EM over the best so far, or when
no try of it succeeded; the best round is named in the manifest. Every stage is a verb of its own.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fireact.agents import load_task, tuned_directory
from fireact.collection import CollectConfig, collect
from fireact.data import HELD_OUT, MixConfig, mix
from fireact.data.filters import is_right
from fireact.errors import ConfigError
from fireact.evaluation.run import EvalConfig, evaluate
from fireact.progress import SILENT, Progress
from fireact.store import RunDir, absolute, read_config, read_trajectories, settings_from
from fireact.training.recipe import Recipe
from fireact.training.run import TrainConfig, learnable, need_data, train
from fireact.types import Example


@dataclass(frozen=True, slots=True)
class ImproveConfig:
    """Settings of ``improve``: the run of ``train`` to begin with, the tasks that are tried, and how much of them.

    ``start`` is the first training question that is tried (None: the first from which on none is in the run's data); a round takes
    ``n`` questions of each task, tries each ``tries`` times, and is measured on ``validate`` dev questions of each.
    ``recipe`` and ``tools`` are the run's where they are None.
    """

    run: str
    tasks: Sequence[str] = ("geo-hop",)
    tools: Sequence[str] | None = None
    start: int | None = None
    n: int = 100
    tries: int = 2
    rounds: int = 3
    validate: int = 60
    temperature: float = 0.8
    recipe: Recipe | None = None
    workers: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", absolute(self.run))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.tools is not None:
            object.__setattr__(self, "tools", tuple(self.tools))
        if isinstance(self.recipe, Mapping):  # as a file of settings holds it
            object.__setattr__(self, "recipe", Recipe(**self.recipe))
        for name in ("n", "tries", "rounds", "validate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.start is not None and self.start < 0:
            raise ConfigError(f"start is {self.start}; it must be 0 or more.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature is {self.temperature}; it must be a number of 0 or more.")
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks are {', '.join(self.tasks)}; name each once.")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the rounds are made of: the run they begin with, how it was trained, and the questions."""

    config: ImproveConfig
    first: Path
    trained: TrainConfig
    tools: Sequence[str]
    start: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run directory, with all that the run decides."""
        resolved = replace(self.config, recipe=self.trained.recipe, tools=self.tools, start=self.start)
        return asdict(resolved)


def improve(config: ImproveConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Run rounds until one brings nothing, and return the manifest with each round's scores and data."""
    plan = _planned(config)
    with RunDir(out, verb="improve", settings=plan.settings, force=force, free=("workers",)) as run:
        if run.complete:
            return run.manifest
        rounds, stopped = _rounds(plan, out, progress)
        best = max(range(len(rounds)), key=lambda at: float(rounds[at]["em"]))
        scores = ", ".join(f"{one['em']:.0%}" for one in rounds)
        progress.say(f"improve: {stopped}. EM by round {scores}; the best is round {best}")
        agent = str(plan.first) if best == 0 else str((out / f"round-{best}" / "train").absolute())
        return run.finish(rounds=rounds, best=best, agent=agent, stopped=stopped)


def _rounds(plan: _Plan, out: Path, progress: Progress) -> tuple[list[dict[str, Any]], str]:
    """What each round measured, and why there is no further one."""
    rounds = [_measured(plan, plan.first, out / "round-0", progress)]
    data, student = [plan.trained.data], plan.first
    for number in range(1, plan.config.rounds + 1):
        here = out / f"round-{number}"
        tried = [_tried(plan, student, here, number, again, progress) for again in range(plan.config.tries)]
        if not any(is_right(one) for path in tried for one in read_trajectories(Path(path))):
            return rounds, f"no try of round {number} succeeded, so there is nothing new to learn"
        data = [*data, *tried]
        kept = mix(MixConfig(sources=data), here / "mix", progress=progress)
        held_out = Path(plan.trained.data) / HELD_OUT
        if held_out.is_file():  # what the run was measured on measures each round
            shutil.copyfile(held_out, here / "mix" / HELD_OUT)
        train(replace(plan.trained, data=str(here / "mix")), here / "train", progress=progress)
        student = here / "train"
        rounds.append(_measured(plan, student, here, progress) | {"counts": kept["counts"]})
        if rounds[-1]["em"] <= max(one["em"] for one in rounds[:-1]):
            return rounds, f"round {number} gained nothing"
    return rounds, f"all {plan.config.rounds} rounds are done"


def expected(config: ImproveConfig) -> dict[str, Any]:
    """What ``improve`` would do at most, and from which question on."""
    plan = _planned(config)
    questions = config.n * len(config.tasks)
    return {
        "start": plan.start,
        "questions_a_round": questions,
        "tries_a_round": questions * config.tries,
        "measured_on": config.validate * len(config.tasks),
        "rounds": config.rounds,
        "recipe": asdict(plan.trained.recipe),
    }


def _planned(config: ImproveConfig) -> _Plan:
    """Raises ConfigError or DataError for what cannot be improved, before anything is run."""
    first = tuned_directory(config.run)
    if first is None:
        raise ConfigError(f"{config.run} is no directory of 'fireact train'. Train by imitation first.")
    before = read_config(first)
    if (verb := before.pop("verb")) != "train":
        raise ConfigError(
            f"{config.run} was made by {verb}, not by imitation alone: rounds train the base student anew. Give the "
            "directory of 'fireact train' that it began with."
        )
    as_before: TrainConfig = settings_from(TrainConfig, before, first)
    need_data(Path(as_before.data))
    _refuse_data_that_is_not_right(Path(as_before.data))
    tools = as_before.tools if config.tools is None else config.tools
    trained = replace(as_before, recipe=config.recipe or as_before.recipe, tools=tools)
    return _Plan(config, first, trained, tools, _start(config, Path(as_before.data)))


def _refuse_data_that_is_not_right(data: Path) -> None:
    """Raises ConfigError where a round, which mixes what is right, would lose some of what the run was trained on."""
    found = learnable(data)
    lost = sum(not is_right(one) for one in found)
    if lost:
        raise ConfigError(
            f"{lost} of the {len(found)} trajectories that the run was trained on are not right by their scores, or have none, and "
            "rounds keep right ones only. Score them (fireact score), or train on a mix of right ones first."
        )


def _start(config: ImproveConfig, data: Path) -> int:
    """The first question that is tried. Raises ConfigError where questions are too few or not new."""
    files = [data, *([data / HELD_OUT] if (data / HELD_OUT).is_file() else [])]
    learnt = {_worded(one.example) for file in files for one in read_trajectories(file)}
    known = {task: _indices(task, "train", learnt) for task in config.tasks}
    count = config.n * config.rounds
    start = (
        _first_free({at for found in known.values() for at in found}, count) if config.start is None else config.start
    )
    _enough_questions(config, start)
    tried = range(start, start + count)
    for task, found in known.items():
        old = [at for at in found if at in tried]
        if old:
            raise ConfigError(
                f"start is {start}, but the run was trained on {len(old)} of the questions of {task} from there on, the last of "
                f"them number {old[-1]}. Leave --start out, or give one of {max(found) + 1} or more."
            )
        measured = [at for at in _indices(task, "dev", learnt) if at < config.validate]
        if measured:
            raise ConfigError(
                f"the run was trained on {len(measured)} of the {config.validate} dev questions of {task} that rounds are measured "
                "on. Begin with a run whose data has none of them."
            )
    return start


def _indices(task: str, split: str, learnt: set[str]) -> list[int]:
    """Which questions of a split are among those that were learnt."""
    return [at for at, one in enumerate(load_task(task).examples(split)) if _worded(one) in learnt]


def _worded(example: Example) -> str:
    """A question, whatever its id: files give it other ones."""
    return " ".join(example.question.casefold().split())


def _first_free(known: set[int], count: int) -> int:
    """The first of ``count`` questions in a row of which none is known."""
    starts = sorted({0, *(at + 1 for at in known)})
    return next(start for start in starts if known.isdisjoint(range(start, start + count)))


def _enough_questions(config: ImproveConfig, start: int) -> None:
    wanted = {"train": start + config.n * config.rounds, "dev": config.validate}
    for name in config.tasks:
        for split, count in wanted.items():
            there = len(load_task(name).examples(split))
            if count > there:
                raise ConfigError(
                    f"{name} has {there} {split} questions; {config.rounds} rounds of {config.n} from {start} on, "
                    f"measured on {config.validate}, need {count}. Lower --n, --rounds or --validate."
                )


def _tried(plan: _Plan, student: Path, here: Path, number: int, again: int, progress: Progress) -> str:
    """What the student made of this round's questions, one try of each."""
    config = plan.config
    settings = CollectConfig(
        plan={f"{task}/react": config.n for task in config.tasks},
        teacher=str(student),
        tools=tuple(plan.tools),
        start=plan.start + (number - 1) * config.n,
        seed=again,
        temperature=config.temperature,
        repairs=0,
        workers=config.workers,
    )
    collect(settings, here / f"collect-{again}", progress=progress)
    return str((here / f"collect-{again}").absolute())


def _measured(plan: _Plan, student: Path, here: Path, progress: Progress) -> dict[str, Any]:
    """EM over all dev questions, and by task with intervals."""
    config = plan.config
    settings = EvalConfig(
        agent=str(student),
        tasks=tuple(config.tasks),
        n=config.validate,
        tools=tuple(plan.tools),
        split="dev",
        workers=config.workers,
    )
    results = evaluate(settings, here / "eval", progress=progress)["results"]
    by_task = {name: {"em": one["em"], "em_interval": one["em_interval"]} for name, one in results.items()}
    return {"em": sum(one["em"] for one in by_task.values()) / len(by_task), "tasks": by_task}
