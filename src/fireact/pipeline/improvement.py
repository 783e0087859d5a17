"""The verb ``improve``: rounds of rejection sampling, in which a student learns from its own successes.

    round-1/collect-0 the student tries questions it was not trained on, at a temperature (one directory a try)
    round-1/mix       the data so far, and the successes among the tries
    round-1/train     the base student, trained anew on all of it
    round-1/eval      questions of the dev split, answered greedily

Invariant: the training questions of a round are new: neither the data of the run nor an earlier round has them. The
questions for measuring are in none of these. The rounds stop when one does not raise EM over the best so far, or when
none of its tries succeeds; the manifest names the best round. Every stage is a verb of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base.cost import CostEstimate
from fireact.base.foreign_names import refuse_foreign_names
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import RunDir, absolute_path, build_settings, read_config, read_trajectories
from fireact.base.settings import AGENT, check_settings, setting
from fireact.base.verbs import Verb
from fireact.data import HELD_OUT, MixConfig, mix
from fireact.data.filters import has_full_score
from fireact.data.sources import read_any_trajectories
from fireact.errors import ConfigError
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.evaluation.statistics import Estimate
from fireact.evaluation.summary import read_summaries
from fireact.rollout.agents import choose_defaults
from fireact.rollout.collection import TASKS_HELP, CollectConfig, collect
from fireact.rollout.episode_settings import EXECUTOR_HELP, check_executor
from fireact.rollout.loading import SEARCH, load_task
from fireact.rollout.students import require_tuned_directory
from fireact.tasks.question_hash import normalise_question
from fireact.training.recipe import DATA, SCHEDULE, Recipe, read_recipe
from fireact.training.train import TrainConfig, load_learnable, require_data, train


@dataclass(frozen=True, slots=True)
class ImproveConfig:
    """Settings of ``improve``: the run of ``train`` to begin with, the tasks, and how many of their questions."""

    run: str = setting(normalise=absolute_path)
    """A directory of 'fireact train' or 'fireact quickstart' to begin with."""
    tasks: Sequence[str] = setting(("geo-hop",), flags=("--task", "-t"), panel=DATA, help=TASKS_HELP)
    tools: Sequence[str] | None = setting(None, flags=("--tool",), panel=AGENT)
    """Tool, by name or module:attribute; repeatable. Default: the run's."""
    start: int | None = setting(None, low=0, panel=DATA)
    """First train question to try. Default: the first after which no question is in the run's data."""
    n: int = setting(100, flags=("-n",), low=1, panel=DATA)
    """New questions of each task, each round."""
    tries: int = setting(2, low=1, panel=DATA)
    """Tries of each question."""
    rounds: int = setting(3, low=1, panel=SCHEDULE)
    """Most rounds."""
    validate: int = setting(60, low=1, panel=DATA)
    """Dev questions of each task that a round is measured on."""
    temperature: float = setting(0.8, low=0, panel=AGENT)
    """Sampling temperature of the tries."""
    recipe: Recipe | None = setting(None, panel=SCHEDULE, parse=read_recipe)
    """Recipe of each round's training, by name or TOML file. Default: the run's."""
    workers: int = setting(16, is_option=False)
    """Episodes at a time, on each machine."""
    executor: str = setting("threads", panel=AGENT, help=EXECUTOR_HELP, normalise=check_executor)

    def __post_init__(self) -> None:
        check_settings(self, "improve")
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks are {', '.join(self.tasks)}; name each once.")


@dataclass(frozen=True, slots=True)
class ImprovementRound:
    """A round: the student's results by task, and what it was trained on by "task/method" (None for the first run)."""

    results: Mapping[str, Estimate]
    counts: Mapping[str, Any] | None = None

    @property
    def em(self) -> float:
        """The mean of the tasks' exact match."""
        return sum(result.mean for result in self.results.values()) / len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tasks = {name: {"em": em.mean, "em_interval": em.interval} for name, em in self.results.items()}
        return {"em": self.em, "tasks": tasks, **({} if self.counts is None else {"counts": self.counts})}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the rounds need: the first run, how it was trained, the tools, and the first question."""

    config: ImproveConfig
    first: Path
    trained: TrainConfig
    tools: Sequence[str]
    start: int

    @property
    def settings(self) -> ImproveConfig:
        """The settings of the run directory, with the defaults that the first run decides."""
        return replace(self.config, recipe=self.trained.recipe, tools=self.tools, start=self.start)


def improve(config: ImproveConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Run rounds until one gains nothing, and return the manifest with each round's scores and data."""
    plan = _make_plan(config)
    with RunDir(out, verb="improve", settings=plan.settings, force=force, neutral=("workers", "executor")) as run:
        if run.complete:
            return run.manifest
        rounds, stopped = _run_rounds(plan, out, progress)
        best = max(range(len(rounds)), key=lambda index: rounds[index].em)
        scores = ", ".join(f"{entry.em:.0%}" for entry in rounds)
        progress.say(f"improve: {stopped}. EM by round {scores}; the best is round {best}")
        agent = str(plan.first) if best == 0 else str((out / f"round-{best}" / "train").absolute())
        return run.finish(rounds=[entry.to_dict() for entry in rounds], best=best, agent=agent, stopped=stopped)


def _run_rounds(plan: _Plan, out: Path, progress: Progress) -> tuple[list[ImprovementRound], str]:
    """The results of each round, and why the rounds stopped."""
    rounds = [_evaluate_student(plan, plan.first, out / "round-0", progress)]
    data, student = [plan.trained.data], plan.first
    for number in range(1, plan.config.rounds + 1):
        round_directory = out / f"round-{number}"
        try_directories = [
            _collect_try(plan, student, round_directory, number, try_index, progress)
            for try_index in range(plan.config.tries)
        ]
        if not any(
            has_full_score(trajectory) for path in try_directories for trajectory in read_trajectories(Path(path))
        ):
            return rounds, f"no try of round {number} succeeded, so there is nothing new to learn"
        data = [*data, *try_directories]
        mix_manifest = mix(MixConfig(sources=data), round_directory / "mix", progress=progress)
        held_out = Path(plan.trained.data) / HELD_OUT
        if held_out.is_file():  # each round is measured on the same questions as the run
            shutil.copyfile(held_out, round_directory / "mix" / HELD_OUT)
        train(replace(plan.trained, data=str(round_directory / "mix")), round_directory / "train", progress=progress)
        student = round_directory / "train"
        measured = _evaluate_student(plan, student, round_directory, progress)
        rounds.append(replace(measured, counts=mix_manifest["counts"]))
        if rounds[-1].em <= max(entry.em for entry in rounds[:-1]):
            return rounds, f"round {number} gained nothing"
    return rounds, f"all {plan.config.rounds} rounds are done"


def estimate_improvement(config: ImproveConfig) -> CostEstimate:
    """The most that ``improve`` would do, and its first question."""
    plan = _make_plan(config)
    questions, measured = config.n * len(config.tasks), config.validate * len(config.tasks)
    details = {
        "start": plan.start,
        "questions_a_round": questions,
        "tries_a_round": questions * config.tries,
        "measured_on": measured,
        "rounds": config.rounds,
        "recipe": asdict(plan.trained.recipe),
    }
    episodes = measured + config.rounds * (questions * config.tries + measured)
    unknown = {"the rounds": None}
    return CostEstimate.from_terms(tokens=unknown, seconds=unknown, episodes=episodes, details=details)


def _make_plan(config: ImproveConfig) -> _Plan:
    """Raises ConfigError or DataError for a run that cannot be improved, before anything is run."""
    first_directory = require_tuned_directory(config.run)
    run_settings = read_config(first_directory)
    if (verb := run_settings.pop("verb")) != "train":
        raise ConfigError(
            f"{config.run} was made by {verb}, not by imitation alone: rounds train the base student anew. Give the "
            "directory of 'fireact train' that it began with."
        )
    refuse_foreign_names(first_directory, run_settings)
    as_before: TrainConfig = build_settings(TrainConfig, run_settings, first_directory)
    require_data(Path(as_before.data))
    _require_correct_data(Path(as_before.data))
    tools = config.tools
    if tools is None:  # a run that names no tool of its own was trained with the default, which fits our tasks alone
        run_tools = SEARCH if as_before.tools in ((), SEARCH) else as_before.tools
        tools, _ = choose_defaults(config.tasks, tools=run_tools, model=str(first_directory))
    trained = replace(as_before, recipe=config.recipe or as_before.recipe, tools=tools)
    return _Plan(config, first_directory, trained, tools, _find_start(config, Path(as_before.data)))


def _require_correct_data(data: Path) -> None:
    """Raises ConfigError where training data is not correct: a round mixes correct trajectories and would lose it."""
    trajectories = load_learnable(data)
    lost = sum(not has_full_score(trajectory) for trajectory in trajectories)
    if lost:
        raise ConfigError(
            f"{lost} of the {len(trajectories)} trajectories that the run was trained on are not right by their "
            "scores, or have none, and rounds keep right ones only. Score them (fireact score), or train on a mix of "
            "right ones first."
        )


def _find_start(config: ImproveConfig, data: Path) -> int:
    """The index of the first question that is tried. Raises ConfigError where questions are too few or not new."""
    files = [data, *([data / HELD_OUT] if (data / HELD_OUT).is_file() else [])]
    learnt = {
        normalise_question(trajectory.example.question) for file in files for trajectory in read_any_trajectories(file)
    }
    learnt_indices = {task: _find_learnt_indices(task, "train", learnt) for task in config.tasks}
    count = config.n * config.rounds
    start = (
        _first_unused_start({index for indices in learnt_indices.values() for index in indices}, count)
        if config.start is None
        else config.start
    )
    _require_enough_questions(config, start)
    tried_range = range(start, start + count)
    for task, indices in learnt_indices.items():
        overlapping = [index for index in indices if index in tried_range]
        if overlapping:
            raise ConfigError(
                f"start is {start}, but the run was trained on {len(overlapping)} of the questions of {task} from "
                f"there on, the last of them number {overlapping[-1]}. Leave --start out, or give one of "
                f"{max(indices) + 1} or more."
            )
        measured_indices = [index for index in _find_learnt_indices(task, "dev", learnt) if index < config.validate]
        if measured_indices:
            raise ConfigError(
                f"the run was trained on {len(measured_indices)} of the {config.validate} dev questions of {task} that "
                "rounds are measured on. Begin with a run whose data has none of them."
            )
    return start


def _find_learnt_indices(task: str, split: str, learnt: set[str]) -> list[int]:
    """The indices of the questions of a split that are in the training data."""
    return [
        index
        for index, example in enumerate(load_task(task).examples(split))
        if normalise_question(example.question) in learnt
    ]


def _first_unused_start(used_indices: set[int], count: int) -> int:
    """The start of the first ``count`` consecutive questions of which none is used."""
    starts = sorted({0, *(index + 1 for index in used_indices)})
    return next(start for start in starts if used_indices.isdisjoint(range(start, start + count)))


def _require_enough_questions(config: ImproveConfig, start: int) -> None:
    needed_counts = {"train": start + config.n * config.rounds, "dev": config.validate}
    for name in config.tasks:
        for split, count in needed_counts.items():
            available_count = len(load_task(name).examples(split))
            if count > available_count:
                raise ConfigError(
                    f"{name} has {available_count} {split} questions; {config.rounds} rounds of {config.n} from "
                    f"{start} on, measured on {config.validate}, need {count}. Lower --n, --rounds or --validate."
                )


def _collect_try(
    plan: _Plan, student: Path, round_directory: Path, number: int, try_index: int, progress: Progress
) -> str:
    """The path of one try of this round: the student's trajectories of all its questions."""
    config = plan.config
    settings = CollectConfig(
        plan={f"{task}/react": config.n for task in config.tasks},
        teacher=str(student),
        tools=tuple(plan.tools),
        start=plan.start + (number - 1) * config.n,
        seed=try_index,
        temperature=config.temperature,
        repairs=0,
        workers=config.workers,
        executor=config.executor,
    )
    collect(settings, round_directory / f"collect-{try_index}", progress=progress)
    return str((round_directory / f"collect-{try_index}").absolute())


def _evaluate_student(plan: _Plan, student: Path, round_directory: Path, progress: Progress) -> ImprovementRound:
    """The student's exact match on the dev questions of each task."""
    config = plan.config
    settings = EvalConfig(
        agent=str(student),
        tasks=tuple(config.tasks),
        n=config.validate,
        tools=tuple(plan.tools),
        split="dev",
        workers=config.workers,
        executor=config.executor,
    )
    summaries = read_summaries(evaluate(settings, round_directory / "eval", progress=progress))
    return ImprovementRound({task: summary.em for task, summary in summaries.items()})


IMPROVE = Verb(
    "improve", ImproveConfig, improve, out="runs/improve", neutral=("workers", "executor"),
    estimate=estimate_improvement,
    example="`fireact improve runs/quickstart -t geo-hop -n 100 -o runs/improve`",
)  # fmt: skip
