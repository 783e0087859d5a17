"""The verb ``train``: a mixture of trajectories becomes an adapter (or a whole model), by way of messages and masked tokens."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer
from fireact.data import HELD_OUT, question
from fireact.data.filters import is_right
from fireact.errors import ConfigError, DataError
from fireact.machine import release_memory
from fireact.progress import SILENT, Progress
from fireact.render.tokens import Chat
from fireact.store import (
    CONFIG,
    MANIFEST,
    RunDir,
    absolute,
    read_config,
    read_manifest,
    read_trajectories,
    trajectory_file,
)
from fireact.training.launch import launched, lend, local_count, machine_rank, refuse_launch, shipped
from fireact.training.loss import need_gpu
from fireact.training.memory import need_weights
from fireact.training.recipe import ADAPTED, QUANTISED, Recipe
from fireact.training.samples import offered, rendered
from fireact.training.student import load_shape
from fireact.training.trackers import check_trackers
from fireact.training.validation import BEST
from fireact.types import Trajectory

MIX = "fireact mix chooses otherwise"
FREE = ("recipe.micro_batch", "report_to", "processes", "accelerate")
"""Settings that do not change what is learnt."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``train``: the mixture, the student that is fine-tuned, the recipe, and how trajectories are rendered.

    ``renderer`` is stored and used whenever the student is run. A native one is shown ``tools``, where a trajectory does not
    bring its own (``meta["tools"]``, as schemas); run the student with the same.
    ``report_to`` names trackers of experiments. With ``processes`` above 1, or an ``accelerate`` configuration (a shipped
    one's name, or a path; it says how many processes where ``processes`` is None), training is launched through accelerate.
    """

    data: str
    student: str = "smollm2-135m"
    recipe: Recipe = field(default_factory=Recipe)
    renderer: str = "react"
    tools: Sequence[str] = ("search",)
    report_to: Sequence[str] = ()
    processes: int | None = None
    accelerate: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", absolute(self.data))
        object.__setattr__(self, "report_to", tuple(self.report_to))
        object.__setattr__(self, "tools", tuple(self.tools))
        if self.processes is not None and self.processes < 1:
            raise ConfigError(f"processes is {self.processes}; it must be at least 1.")
        if self.accelerate is not None and self.accelerate not in shipped():
            object.__setattr__(self, "accelerate", absolute(self.accelerate))
        if Path(self.student).is_dir() or Path(self.student).is_file():
            object.__setattr__(self, "student", absolute(self.student))

    @property
    def launches(self) -> bool:
        """Whether training runs in processes of its own."""
        return self.accelerate is not None or (self.processes or 1) > 1


def train(config: TrainConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Fine-tune into ``out/adapter`` and return the manifest; an interrupted run goes on from its last checkpoint."""
    if force or not (out / MANIFEST).is_file():
        check(config)
    if number := machine_rank(config.accelerate):
        return _lent(config, out, number=number, progress=progress)
    with RunDir(out, verb="train", settings=asdict(config), force=force, free=FREE) as run:
        if run.complete:
            return run.manifest
        if config.launches:
            copies = local_count(config.processes, config.accelerate)
            need_weights(load_shape(config.student), config.student, config.recipe.kind, copies=copies)
            facts = launched(run.path, processes=config.processes, accelerate=config.accelerate, progress=progress)
        else:
            facts = work(config, run.path, progress=progress)
        release_memory()
        weights = run.path / ("adapter" if config.recipe.kind in ADAPTED else "model")
        named = {"student": config.student, "renderer": config.renderer}
        manifest = run.finish(**named, adapter_sha256=weights_hash(weights), **facts)
        shutil.rmtree(run.path / BEST, ignore_errors=True)
        return manifest


def _lent(config: TrainConfig, out: Path, *, number: int, progress: Progress) -> dict[str, Any]:
    """What a machine other than the first does; what was trained lies where the first machine's run is."""
    if (out / MANIFEST).is_file():  # on a shared disk: done already
        return read_manifest(out)
    lend(out, asdict(config), processes=config.processes, accelerate=config.accelerate)
    release_memory()
    progress.say(f"train: machine {number} is done; the run is complete in the directory of machine 0")
    return {"verb": "train", "machine_rank": number}


def check(config: TrainConfig) -> None:
    """Raise ConfigError or DataError for what cannot be trained here, before anything is loaded or written."""
    check_trackers(config.report_to)
    need_data(Path(config.data))
    if config.recipe.kind in QUANTISED:
        need_gpu(config.recipe.kind)
    if config.launches:
        refuse_launch(processes=config.processes, accelerate=config.accelerate, kind=config.recipe.kind)


def need_data(data: Path) -> None:
    """Raise DataError where there are no trajectories."""
    if not (file := trajectory_file(data)).is_file():
        raise DataError(f"there is no {file}. Give a directory of fireact mix or collect, or a JSONL file.")


def work(config: TrainConfig, out: Path, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Train in this process (one of several, when launched) and return what the manifest says of it."""
    from fireact.training.trainer import fine_tune

    chats, validation = parts(config, progress)
    stats = fine_tune(
        chats,
        student=config.student,
        recipe=config.recipe,
        out=out,
        validation=validation,
        renderer=load_renderer(config.renderer),
        report_to=config.report_to,
        progress=progress,
    )
    return {"trajectories": len(chats) + (len(validation) if config.recipe.validation else 0), **asdict(stats)}


def parts(config: TrainConfig, progress: Progress = SILENT) -> tuple[list[Chat], list[Chat]]:
    """The chats to train on and those to measure on: the recipe's share of questions, or what the mixture held out.

    Raises ConfigError when ``patience`` has nothing to measure on.
    """
    data = Path(config.data)
    found, kept_out = learnable(data, progress), set[str]()
    apart = data / HELD_OUT
    if config.recipe.validation:
        kept_out = held_out(found, config.recipe)
        validation = [one for one in found if question(one) in kept_out]
    else:
        validation = with_steps(read_trajectories(apart), progress) if apart.is_file() else []
    if config.recipe.patience and not validation:
        raise ConfigError(
            "patience needs questions to measure on: validation = 0.1 in the recipe, or mix with --holdout."
        )
    renderer = load_renderer(config.renderer)
    tools = offered(renderer, config.tools)
    fitted = [one for one in found if question(one) not in kept_out]
    return [rendered(one, renderer, tools=tools) for one in fitted], [
        rendered(one, renderer, tools=tools) for one in validation
    ]


def learnable(data: Path, progress: Progress = SILENT) -> list[Trajectory]:
    """The trajectories to learn: of a mixture all, of runs as they were collected those that are right; none without a step to learn.

    Raises DataError when none is left.
    """
    found = list(read_trajectories(data))
    as_collected = (data / CONFIG).is_file() and read_config(data)["verb"] in ("collect", "record", "eval")
    right = [one for one in found if is_right(one)] if as_collected else found
    if len(right) < len(found):
        progress.say(
            f"train: {len(found) - len(right)} of {len(found)} trajectories are not right and left out ({MIX})"
        )
    kept = with_steps(right, progress)
    if not kept:
        raise DataError(
            f"{data} has {len(found)} trajectories and none to learn from. Give a directory of fireact mix."
        )
    return kept


def with_steps(found: Iterable[Trajectory], progress: Progress = SILENT) -> list[Trajectory]:
    """Those that have a step to learn; how many have none is said."""
    everything = list(found)
    kept = [one for one in everything if any(step.weight > 0 for step in one.steps)]
    if left_out := len(everything) - len(kept):
        progress.say(
            f"train: {left_out} of {len(everything)} trajectories are without a step to learn and left out ({MIX})"
        )
    return kept


def held_out(trajectories: Sequence[Trajectory], recipe: Recipe) -> set[str]:
    """The questions that the recipe's share of validation keeps out of training, whole."""
    questions = sorted({question(trajectory) for trajectory in trajectories})
    count = round(recipe.validation * len(questions))
    if recipe.validation and not 0 < count < len(questions):
        raise ConfigError(
            f"recipe: validation {recipe.validation} of {len(questions)} questions leaves nothing on one side."
        )
    return set(random.Random(recipe.seed).sample(questions, count))


def weights_hash(directory: Path) -> str:
    """Names what was trained."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
