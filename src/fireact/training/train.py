"""The verb ``train``: turns a mixture of trajectories into an adapter or a whole model."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base.commands import GATHERING
from fireact.base.machine import release_memory
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import (
    CONFIG,
    MANIFEST,
    RunDir,
    absolute_if_path,
    absolute_path,
    read_config,
    read_manifest,
    read_trajectories,
)
from fireact.base.settings import AGENT, OUTPUT, check_settings, replace_fields, setting
from fireact.base.verbs import Verb
from fireact.data import HELD_OUT, question_key
from fireact.data.filters import has_full_score
from fireact.data.recorded_calls import RENDERER, find_recorded_runs, resolve_renderer
from fireact.data.sources import is_trajectory_file, read_any_trajectories
from fireact.errors import ConfigError, DataError, missing_path_error
from fireact.formats.read import find_reader
from fireact.formats.source import open_source_file
from fireact.recording.trajectories import METHOD
from fireact.render.tokens import Chat
from fireact.rollout.loading import AUTO_RENDERER_HELP, SEARCH, STUDENT_HELP, TRAINING_TOOLS_HELP, load_renderer
from fireact.training.launch import (
    count_local_processes,
    launch_training,
    list_launch_configs,
    machine_rank,
    parse_launch,
    run_secondary_machine,
    validate_launch,
)
from fireact.training.loss import require_gpu
from fireact.training.memory import require_memory_for_weights
from fireact.training.model_card import write_model_card
from fireact.training.recipe import ADAPTED, MAX_LENGTH, QUANTISED, Recipe, adapt_recipe
from fireact.training.samples import ChatSource
from fireact.training.student import load_model_shape
from fireact.training.trackers import check_trackers
from fireact.training.trained_questions import hash_trained_questions, write_trained_questions
from fireact.training.trained_tools import (
    choose_training_tools,
    describe_prompt,
    describe_trained_tools,
    drop_chat_prompt,
)
from fireact.training.validation import BEST
from fireact.types import Trajectory

MIX_HINT = "fireact mix chooses otherwise"
NEUTRAL_SETTINGS = ("recipe.micro_batch", "report_to", "processes", "accelerate")
"""Settings that may change when a run is resumed, since they do not change what is learnt."""


def _absolute_configuration(accelerate: str) -> str:
    return accelerate if accelerate in list_launch_configs() else absolute_path(accelerate)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``train``: the mixture, the student to fine-tune, the recipe, and how trajectories are rendered.

    ``renderer`` is stored and used whenever the student runs. The prompt of a native renderer contains ``tools``,
    unless a trajectory has its own (``meta["tools"]``, as schemas); run the student with the same tools. With
    ``processes`` above 1, or with an ``accelerate`` configuration, training is launched through accelerate. The
    configuration is a shipped name or a path, and sets the number of processes where ``processes`` is None.
    """

    data: str = setting(normalise=absolute_path, is_path=True)
    """Trajectories in any format that 'convert' reads, or a directory of 'fireact mix' or 'collect'."""
    student: str = setting("smollm2-135m", normalise=absolute_if_path, panel=AGENT, help=STUDENT_HELP)
    recipe: Recipe = setting(factory=Recipe, parse=adapt_recipe)
    """A TOML file, or default, paper-lora, paper-full, qlora; the options below change it."""
    renderer: str = setting("auto", earlier_default="react", panel=AGENT, help=AUTO_RENDERER_HELP)
    prompt: str = setting("keep", choices=("keep", "drop"), panel=AGENT)
    """keep or drop: learn with the recorded agent's system prompt and tools, or without (fewer tokens a question)."""
    tools: Sequence[str] = setting(SEARCH, flags=("--tool",), panel=AGENT, help=TRAINING_TOOLS_HELP)
    report_to: Sequence[str] = setting((), panel=OUTPUT)
    """trackio, mlflow, tensorboard or wandb; repeatable."""
    processes: int | None = setting(None, low=1, is_option=False)
    """Processes that train together; None: as the accelerate configuration says, or one."""
    accelerate: str | None = setting(None, normalise=_absolute_configuration, is_option=False)
    """An accelerate configuration: a shipped name, or the path of a YAML file."""

    def __post_init__(self) -> None:
        check_settings(self, "train")
        data = Path(self.data)
        replace_fields(
            self, tools=choose_training_tools(self.tools, data), renderer=resolve_renderer(self.renderer, data)
        )
        if self.recipe.max_length is None and self.renderer != RENDERER:
            replace_fields(self, recipe=replace(self.recipe, max_length=MAX_LENGTH))
        if self.prompt == "drop" and self.renderer != RENDERER:
            raise ConfigError(
                f"train: --prompt drop needs the renderer {RENDERER}; with {self.renderer} nothing is learned of an "
                "agent's prompt. Leave it out."
            )

    @property
    def launches(self) -> bool:
        """Whether training runs in launched processes."""
        return self.accelerate is not None or (self.processes or 1) > 1


def train(config: TrainConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Fine-tune into ``out/adapter`` and return the manifest; an interrupted run resumes from its last checkpoint."""
    if force or not (out / MANIFEST).is_file():
        validate_training(config)
    if number := machine_rank(config.accelerate):
        return _train_on_secondary_machine(config, out, number=number, progress=progress)
    with RunDir(out, verb="train", settings=config, force=force, neutral=NEUTRAL_SETTINGS) as run:
        if run.complete:
            return run.manifest
        if config.launches:
            copies = count_local_processes(config.processes, config.accelerate)
            require_memory_for_weights(
                load_model_shape(config.student), config.student, config.recipe.kind, copies=copies
            )
            facts = launch_training(
                run.path, processes=config.processes, accelerate=config.accelerate, progress=progress
            )
        else:
            facts = train_in_process(config, run.path, progress=progress)
        release_memory()
        write_trained_questions(run.path, facts.pop("questions"))
        weights = run.path / ("adapter" if config.recipe.kind in ADAPTED else "model")
        student_fields = {"student": config.student, "renderer": config.renderer}
        manifest = run.finish(**student_fields, adapter_sha256=hash_weights(weights), **facts)
        write_model_card(run.path)
        shutil.rmtree(run.path / BEST, ignore_errors=True)
        return manifest


def _train_on_secondary_machine(config: TrainConfig, out: Path, *, number: int, progress: Progress) -> dict[str, Any]:
    """Train on a machine other than the first; the weights are written to the first machine's run directory."""
    if (out / MANIFEST).is_file():  # on a shared disk the run may be complete already
        return read_manifest(out)
    run_secondary_machine(out, asdict(config), processes=config.processes, accelerate=config.accelerate)
    release_memory()
    progress.say(f"train: machine {number} is done; the run is complete in the directory of machine 0")
    return {"verb": "train", "machine_rank": number}


def validate_training(config: TrainConfig) -> None:
    """Raise ConfigError or DataError for settings that cannot be trained here, before anything is loaded or written."""
    check_trackers(config.report_to)
    require_data(Path(config.data))
    if config.recipe.kind in QUANTISED:
        require_gpu(config.recipe.kind)
    if config.launches:
        validate_launch(processes=config.processes, accelerate=config.accelerate, kind=config.recipe.kind)


def require_data(data: Path) -> None:
    """Raise DataError where there is no data, or not in a format that can be read."""
    if not data.exists():
        raise missing_path_error(data)
    if not is_trajectory_file(data):
        find_reader(open_source_file(data))


def train_in_process(config: TrainConfig, out: Path, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Train in this process (one of several, when launched) and return fields for the manifest."""
    from fireact.training.trainer import fine_tune

    data = load_training_data(config, progress)
    stats = fine_tune(
        data.chats,
        student=config.student,
        recipe=config.recipe,
        out=out,
        validation=data.validation,
        renderer=load_renderer(config.renderer),
        report_to=config.report_to,
        progress=progress,
    )
    return {
        "trajectories": data.trajectories, "tools": data.tools, "prompt": data.prompt, "questions": data.questions,
        **asdict(stats),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The chats to train on and to validate on, of a number of trajectories.

    ``tools`` and ``prompt`` are what the manifest tells of the tools and of the system prompt that the student learns.
    ``questions`` are the hashes of the questions to train on.
    """

    chats: list[Chat]
    validation: list[Chat]
    trajectories: int
    tools: list[dict[str, Any]]
    prompt: dict[str, Any]
    questions: list[str]


def load_chats(config: TrainConfig, progress: Progress = SILENT) -> tuple[list[Chat], list[Chat]]:
    """Load the chats to train on and to validate on."""
    data = load_training_data(config, progress)
    return data.chats, data.validation


def load_training_data(config: TrainConfig, progress: Progress = SILENT) -> TrainingData:
    """Load what to train on and to validate on: the recipe's share of questions, or what the mixture held out.

    Raises ConfigError when ``patience`` has nothing to validate on.
    """
    data = Path(config.data)
    trajectories, held_out_questions = load_learnable(data, progress), set[str]()
    held_out_file = data / HELD_OUT
    if config.recipe.validation:
        held_out_questions = choose_held_out(trajectories, config.recipe)
        validation = [trajectory for trajectory in trajectories if question_key(trajectory) in held_out_questions]
    else:
        validation = select_with_steps(read_trajectories(held_out_file), progress) if held_out_file.is_file() else []
    if config.recipe.patience and not validation:
        raise ConfigError(
            "patience needs questions to measure on: validation = 0.1 in the recipe, or mix with --holdout."
        )
    training = [trajectory for trajectory in trajectories if question_key(trajectory) not in held_out_questions]
    chat_source = ChatSource.load(config.renderer, data=data, tools=config.tools)
    chats, validation_chats = (
        [chat for trajectory in group for chat in chat_source.render(trajectory)] for group in (training, validation)
    )
    if config.renderer != RENDERER and find_recorded_runs(data):
        recorded = sum(trajectory.method == METHOD for trajectory in training)
        progress.say(
            f"train: {recorded} of {len(training)} trajectories are recorded, and are learned as {config.renderer}, "
            "without the prompt and the tool schemas of their agent. --renderer recorded learns them as their agent "
            "sends them, and leaves the others out."
        )
    for line in (*(f"left out, {line}" for line in chat_source.describe_left_out()), *chat_source.describe_ambiguity()):
        progress.say(f"train: {line}")
    if not chats:
        raise DataError(
            f"none of {len(training)} trajectories has a sample for the renderer {config.renderer}. Choose another "
            "--renderer."
        )
    tools = describe_trained_tools(chats, training, load_renderer(config.renderer), config.tools)
    is_recorded = config.renderer == RENDERER
    prompt = describe_prompt(chats, mode=config.prompt, student=config.student if is_recorded else "")
    if config.prompt == "drop":
        chats, validation_chats = list(map(drop_chat_prompt, chats)), list(map(drop_chat_prompt, validation_chats))
    if is_recorded:
        tokens = prompt["tokens_a_question"]
        progress.say(
            f"train: {tokens['keep']:.0f} prompt tokens a question with the agent's prompt, "
            f"{tokens['drop']:.0f} without"
        )
    count = len(training) + (len(validation) if config.recipe.validation else 0)
    return TrainingData(chats, validation_chats, count, tools, prompt, hash_trained_questions(training))


def load_learnable(data: Path, progress: Progress = SILENT) -> list[Trajectory]:
    """Load the trajectories to learn, without those that have no step to learn.

    A mixture is learnt as it is; of a run of ``collect``, ``record`` or ``eval``, only right trajectories are learnt.
    Raises DataError when none is left.
    """
    trajectories = list(read_any_trajectories(data))
    as_collected = (data / CONFIG).is_file() and read_config(data)["verb"] in (*GATHERING, "eval")
    correct = trajectories
    if as_collected:
        correct = [trajectory for trajectory in trajectories if has_full_score(trajectory)]
    if len(correct) < len(trajectories):
        progress.say(
            f"train: {len(trajectories) - len(correct)} of {len(trajectories)} trajectories are not right and left out "
            f"({MIX_HINT})"
        )
    learnable = select_with_steps(correct, progress)
    if not learnable:
        raise DataError(
            f"{data} has {len(trajectories)} trajectories and none to learn from. Give a directory of fireact mix."
        )
    return learnable


def select_with_steps(trajectories: Iterable[Trajectory], progress: Progress = SILENT) -> list[Trajectory]:
    """Select the trajectories that have a step to learn, and report how many have none."""
    all_trajectories = list(trajectories)
    with_steps = [trajectory for trajectory in all_trajectories if any(step.weight > 0 for step in trajectory.steps)]
    if dropped := len(all_trajectories) - len(with_steps):
        progress.say(
            f"train: {dropped} of {len(all_trajectories)} trajectories are without a step to learn and left out "
            f"({MIX_HINT})"
        )
    return with_steps


def choose_held_out(trajectories: Sequence[Trajectory], recipe: Recipe) -> set[str]:
    """Choose the questions to hold out for validation: the recipe's share, with all their trajectories."""
    questions = sorted({question_key(trajectory) for trajectory in trajectories})
    count = round(recipe.validation * len(questions))
    if recipe.validation and not 0 < count < len(questions):
        raise ConfigError(
            f"recipe: validation {recipe.validation} of {len(questions)} questions leaves nothing on one side."
        )
    return set(random.Random(recipe.seed).sample(questions, count))


def hash_weights(directory: Path) -> str:
    """The hash of all weights in a directory."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class LaunchOption:
    """The option that says where training runs."""

    launch: str = setting("1", panel="Machines")
    """Number of processes, or an accelerate configuration: ddp, fsdp, fsdp:8, or a YAML file."""


def _expand_launch(options: LaunchOption, given: Mapping[str, Any]) -> dict[str, Any]:
    return {**given, **parse_launch(options.launch)}


TRAIN = Verb(
    "train", TrainConfig, train, out="runs/train", neutral=NEUTRAL_SETTINGS,
    estimate="fireact.training.forecast:estimate_training",
    example="`fireact train runs/mix --epochs 3 -o runs/train`",
    shorthand=LaunchOption, expand=_expand_launch,
    command_line="fireact.cli.running:train_command",
)  # fmt: skip
