"""The verb ``improve``: rounds of rejection sampling, in which a student learns from its own successes.

    round-1/collect   the student tries questions it was not trained on, at a temperature
    round-1/mix       the data so far, and its successes
    round-1/train     the base student, trained anew on all of it
    round-1/eval      questions of the dev split, greedily

Invariant: a round sees new training questions, and validation questions are never trained on. It stops when a round
does not raise EM over the best so far; the best round is named in the manifest. Every stage is a verb of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fireact.agents import load_task, tuned_directory
from fireact.collection import CollectConfig, collect
from fireact.data import MixConfig, mix
from fireact.errors import ConfigError
from fireact.evaluation.run import EvalConfig, evaluate
from fireact.progress import SILENT, Progress
from fireact.store import RunDir, absolute, read_config
from fireact.training.recipe import Recipe
from fireact.training.run import TrainConfig, train


@dataclass(frozen=True, slots=True)
class ImproveConfig:
    """Settings of ``improve``: the run of ``train`` to begin with, the tasks that are tried, and how much of them.

    ``start`` is the first training question that is new to the student; a round takes ``n`` questions of each task,
    tries each ``tries`` times, and is measured on ``validate`` dev questions of each.
    """

    run: str
    tasks: Sequence[str] = ("geo-hop",)
    tools: Sequence[str] = ("search",)
    start: int = 200
    n: int = 100
    tries: int = 2
    rounds: int = 3
    validate: int = 60
    temperature: float = 0.8
    recipe: Recipe = field(default_factory=Recipe)
    workers: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", absolute(self.run))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        for name in ("n", "tries", "rounds", "validate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def improve(config: ImproveConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Run rounds until one brings nothing, and return the manifest with each round's scores and data."""
    first = tuned_directory(config.run)
    if first is None:
        raise ConfigError(f"{config.run} is no directory of 'fireact train'. Train by imitation first.")
    _enough_questions(config)
    before = read_config(first)
    if before["verb"] != "train":
        raise ConfigError(
            f"{config.run} was made by {before['verb']}, not by imitation alone: rounds train the base student anew. Give the "
            "directory of 'fireact train' that it began with."
        )
    with RunDir(out, verb="improve", settings=asdict(config), force=force, free=("workers",)) as run:
        if run.complete:
            return run.manifest
        rounds = [_measured(config, first, out / "round-0", progress)]
        data, student = [str(before["data"])], first
        for number in range(1, config.rounds + 1):
            here = out / f"round-{number}"
            tried = [_tried(config, student, here, number, again, progress) for again in range(config.tries)]
            data = [*data, *tried]
            kept = mix(MixConfig(sources=data), here / "mix", progress=progress)
            settings = TrainConfig(
                data=str(here / "mix"),
                student=str(before["student"]),
                recipe=config.recipe,
                renderer=str(before.get("renderer", "react")),
                tools=config.tools,
            )
            train(settings, here / "train", progress=progress)
            student = here / "train"
            rounds.append(_measured(config, student, here, progress) | {"counts": kept["counts"]})
            if rounds[-1]["em"] <= max(one["em"] for one in rounds[:-1]):
                break
        best = max(range(len(rounds)), key=lambda at: float(rounds[at]["em"]))
        scores = ", ".join(f"{one['em']:.0%}" for one in rounds)
        progress.say(f"improve: EM by round {scores}; the best is round {best}")
        agent = str(first) if best == 0 else str((out / f"round-{best}" / "train").absolute())
        return run.finish(rounds=rounds, best=best, agent=agent)


def _enough_questions(config: ImproveConfig) -> None:
    wanted = {"train": config.start + config.n * config.rounds, "dev": config.validate}
    for name in config.tasks:
        for split, count in wanted.items():
            there = len(load_task(name).examples(split))
            if count > there:
                raise ConfigError(
                    f"{name} has {there} {split} questions; {config.rounds} rounds of {config.n} from {config.start} on, "
                    f"measured on {config.validate}, need {count}. Lower --n, --rounds or --validate."
                )


def _tried(config: ImproveConfig, student: Path, here: Path, number: int, again: int, progress: Progress) -> str:
    """What the student made of this round's questions, one try of each."""
    settings = CollectConfig(
        plan={f"{task}/react": config.n for task in config.tasks},
        teacher=str(student),
        tools=tuple(config.tools),
        start=config.start + (number - 1) * config.n,
        seed=again,
        temperature=config.temperature,
        repairs=0,
        workers=config.workers,
    )
    collect(settings, here / f"collect-{again}", progress=progress)
    return str((here / f"collect-{again}").absolute())


def _measured(config: ImproveConfig, student: Path, here: Path, progress: Progress) -> dict[str, Any]:
    """EM over all dev questions, and by task with intervals."""
    settings = EvalConfig(
        agent=str(student),
        tasks=tuple(config.tasks),
        n=config.validate,
        tools=tuple(config.tools),
        split="dev",
        workers=config.workers,
    )
    results = evaluate(settings, here / "eval", progress=progress)["results"]
    by_task = {name: {"em": one["em"], "em_interval": one["em_interval"]} for name, one in results.items()}
    return {"em": sum(one["em"] for one in by_task.values()) / len(by_task), "tasks": by_task}
