"""The verb ``prefer``: a fine-tuned student learns from its failures, by preference (DPO, Rafailov et al. 2023).

For each question, a trajectory that succeeded is preferred to one that failed (as in ETO, Song et al. 2024). Training
starts from the adapter of imitation. Only the student's own words count, on both sides: observations are masked as in
imitation. Where the chat template rewrites earlier turns, a trajectory is several samples, one per step. They form one
row in which none attends to the others, so that the likelihood of the row is the product of theirs. The loss is TRL's,
on the device and in the precision of imitation; the order of pairs is planned here from their lengths. Invariant: the
reference is the adapter that training starts from.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.machine import has_bfloat16, release_memory, require_memory, training_device
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import MANIFEST, RunDir, absolute_path, read_config
from fireact.base.settings import OUTPUT, check_settings, setting
from fireact.base.verbs import Verb
from fireact.data import question_key
from fireact.data.filters import has_full_score
from fireact.data.sources import read_any_trajectories
from fireact.errors import ConfigError, DataError
from fireact.render.tokens import REWRITTEN, Chat, text_spans
from fireact.rollout.loading import load_renderer
from fireact.rollout.students import (
    require_tuned_directory,
    student_name,
    training_fields,
    tuned_directory,
    tuned_renderer,
    tuned_tools,
    tuned_weights,
)
from fireact.training.bad_batch import has_finite_gradients, write_bad_batch
from fireact.training.checkpoints import find_last_checkpoint
from fireact.training.log import LOG, read_last_step, truncate_log
from fireact.training.memory import catch_out_of_memory, free_gpu_gb, peak_training_gb, require_memory_for_training
from fireact.training.model_card import write_model_card
from fireact.training.pairs import PairRows
from fireact.training.recipe import DATA, SCHEDULE, Recipe
from fireact.training.samples import ChatSource, Encoder
from fireact.training.trackers import check_trackers, set_tensorboard_directory
from fireact.training.train import hash_weights, require_data
from fireact.training.trained_questions import (
    hash_trained_questions,
    read_trained_questions,
    write_trained_questions,
)
from fireact.types import Renderer, Trajectory

NEUTRAL_SETTINGS = ("report_to", "micro_batch")
"""Settings that may change when a run is resumed, since they do not change what is learnt."""
OUT_OF_MEMORY_ADVICE = (
    "while pairs were compared. Give --micro-batch 1 and run again; what was trained so far is kept. Where it is 1 "
    "already, start anew with a smaller --max-length."
)
PreferencePair = tuple[Trajectory, Trajectory]


@dataclass(frozen=True, slots=True)
class PreferConfig:
    """Settings of ``prefer``: trajectories with failures among them, the run of ``train`` to start from, and DPO's own.

    ``batch_size`` is the number of pairs per optimizer step, of which ``micro_batch`` (0: all) are computed at a time.
    """

    data: str = setting(normalise=absolute_path, is_path=True)
    """Trajectories with successes and failures, in any format that 'convert' reads, or a run directory."""
    start: str = setting(normalise=absolute_path)
    """A run of 'fireact train' to continue."""
    beta: float = setting(0.1, above=0, panel=SCHEDULE)
    """How closely it keeps to the run (DPO's beta)."""
    learning_rate: float = setting(5e-5, flags=("--lr",), above=0, below=1, panel=SCHEDULE)
    """Highest learning rate."""
    epochs: int = setting(2, above=0, panel=SCHEDULE)
    """Passes over the pairs."""
    batch_size: int = setting(4, above=0, panel=SCHEDULE)
    """Pairs in an optimizer step."""
    micro_batch: int = setting(0, panel=SCHEDULE)
    """Pairs per forward pass; 0 is the whole step."""
    max_length: int = setting(1024, above=0, panel=DATA)
    """Longest sample in tokens; longer ones are left out and counted."""
    seed: int = setting(0, panel=SCHEDULE)
    """Seed of the order."""
    report_to: Sequence[str] = setting((), panel=OUTPUT)
    """trackio, mlflow, tensorboard or wandb; repeatable."""

    def __post_init__(self) -> None:
        check_settings(self, "prefer")
        if self.micro_batch < 0 or self.batch_size % self.pairs_at_once:
            raise ConfigError(
                f"micro_batch is {self.micro_batch}; it must divide the batch_size of {self.batch_size}, "
                "or be 0 for all."
            )

    @property
    def pairs_at_once(self) -> int:
        """Pairs computed at a time."""
        return self.micro_batch or self.batch_size


def prefer(config: PreferConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Train by preference into ``out/adapter`` and return the manifest. Raises DataError when there are no pairs."""
    if not force and (out / MANIFEST).is_file():
        with RunDir(out, verb="prefer", settings=config, neutral=NEUTRAL_SETTINGS) as run:
            return run.manifest
    start, pairs = prepare_start(config)
    with RunDir(out, verb="prefer", settings=config, force=force, neutral=NEUTRAL_SETTINGS) as run:
        progress.say(f"prefer: {len(pairs)} pairs of a success and a failure")
        facts = _train(config, start, pairs, out=run.path, progress=progress)
        release_memory()
        student_fields = {"student": start.student, "renderer": start.renderer_name}
        student_fields |= training_fields(require_tuned_directory(config.start))
        final_fields = {f"final_{name}": value for name, value in read_last_step(out).items()}
        weights = {"adapter_sha256": hash_weights(out / "adapter")}
        write_trained_questions(run.path, _list_trained_questions(config))
        manifest = run.finish(**student_fields, **weights, **facts, **final_fields)
        write_model_card(run.path)
        return manifest


def _list_trained_questions(config: PreferConfig) -> set[str]:
    """The hashes of the questions of the pairs, and of the run that training starts from."""
    pairs = pair_by_outcome(read_any_trajectories(Path(config.data)), seed=config.seed)
    hashes = hash_trained_questions(trajectory for pair in pairs for trajectory in pair)
    return {*hashes, *read_trained_questions(require_tuned_directory(config.start))}


def prepare_start(config: PreferConfig) -> tuple[StartingPoint, list[list[list[Chat]]]]:
    """Prepare what training starts from: the results of imitation, and the chats of both sides of each pair.

    A side has several chats where a recorded agent rewrites its history. Loads no weights.

    Raises ConfigError for a run that preference cannot start from, DataError when there are no pairs.
    """
    check_trackers(config.report_to)
    require_data(Path(config.data))
    directory = require_tuned_directory(config.start)
    weights_path, adapter, _ = tuned_weights(directory)
    if adapter is None:
        raise ConfigError(
            f"{config.start} holds a whole model; preference starts from an adapter. Train with LoRA first."
        )
    pairs = pair_by_outcome(read_any_trajectories(Path(config.data)), seed=config.seed)
    if not pairs:
        raise DataError(
            f"{config.data} has no question with both a success and a failure. Collect with the student itself, "
            "several seeds at a temperature: fireact collect --teacher RUN --temperature 0.8 --seed N."
        )
    name = tuned_renderer(directory)
    start = StartingPoint(
        student_name(directory), weights_path, adapter, _read_recipe_kind(directory), name, load_renderer(name)
    )
    is_dropped = training_fields(directory).get("prompt", {}).get("mode") == "drop"
    source = ChatSource.load(name, data=Path(config.data), tools=tuned_tools(directory), drops_prompt=is_dropped)
    chats = [[source.render(trajectory) for trajectory in pair] for pair in pairs]
    complete = [pair for pair in chats if all(pair)]
    if not complete:
        reasons = "; ".join(source.describe_left_out())
        raise DataError(f"none of {len(pairs)} pairs has samples for the renderer {name} ({reasons}).")
    return start, complete


def pair_by_outcome(trajectories: Iterable[Trajectory], *, seed: int) -> list[PreferencePair]:
    """One pair per question: its shortest success, and one of its failures, drawn by the seed."""
    successes: dict[str, list[Trajectory]] = {}
    failures: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if trajectory.stop != "error" and trajectory.steps and trajectory.scores:  # an unscored episode is neither
            (successes if has_full_score(trajectory) else failures).setdefault(question_key(trajectory), []).append(
                trajectory
            )
    generator = random.Random(seed)
    return [
        (
            min(successes[name], key=lambda trajectory: (len(trajectory.steps), trajectory.key)),
            generator.choice(sorted(failures[name], key=lambda trajectory: trajectory.key)),
        )
        for name in sorted(set(successes) & set(failures))
    ]


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The results of imitation: the student, the path of its weights, the adapter, the recipe's kind, the renderer."""

    student: str
    weights_path: str
    adapter: Path
    kind: str
    renderer_name: str
    renderer: Renderer


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """The pairs that fit, as rows; ``rewritten`` counts trajectories of several samples."""

    rows: PairRows
    dropped: int
    rewritten: int

    def count_fields(self) -> dict[str, Any]:
        """Counts for the manifest and for a dry run."""
        rows = self.rows
        size_fields = {
            "steps": len(rows.batches),
            "tokens": rows.count_tokens(),
            "padding": round(rows.padding_share, 4),
        }
        return {"pairs": len(rows.pairs), "dropped": self.dropped, "rewritten": self.rewritten, **size_fields}


def build_preference_data(
    pairs: Sequence[Sequence[Sequence[Chat]]], encoder: Encoder, config: PreferConfig
) -> PreferenceData:
    """The pairs that fit into ``max_length``. Raises DataError when none does."""
    samples = [tuple(encoder.encode_chats(side)[0] for side in pair) for pair in pairs]
    fitting = [
        pair for pair in samples if all(len(sample.input_ids) <= config.max_length for side in pair for sample in side)
    ]
    if not fitting:
        raise DataError(f"none of {len(samples)} pairs fits into max_length {config.max_length} tokens. Raise it.")
    rows = PairRows(
        fitting,
        epochs=config.epochs,
        batch_size=config.batch_size,
        pairs_at_once=config.pairs_at_once,
        seed=config.seed,
    )
    return PreferenceData(rows, len(samples) - len(fitting), sum(len(side) > 1 for pair in samples for side in pair))


def _read_recipe_kind(directory: Path) -> str:
    """The recipe's kind of a run of ``train``; for a run of ``prefer``, of the run that it started from."""
    config = read_config(directory)
    start_directory = tuned_directory(str(config["start"])) if "start" in config else None
    return (
        str(config.get("recipe", {}).get("kind", Recipe().kind))
        if start_directory is None
        else _read_recipe_kind(start_directory)
    )


def _train(
    config: PreferConfig,
    start: StartingPoint,
    pairs: Sequence[Sequence[Sequence[Chat]]],
    *,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    import torch
    import transformers

    from fireact.models.quiet import silence_libraries
    from fireact.training.student import load_adapted, move_to_device

    require_memory(gigabytes=2.0)
    torch.manual_seed(config.seed)
    with silence_libraries():
        model, tokenizer, ends = load_adapted(start.weights_path, start.adapter, start.kind)
        preference_data = build_preference_data(pairs, Encoder(tokenizer, ends, start.renderer), config)
        rows = preference_data.rows
        if preference_data.rewritten:
            progress.say(f"prefer: {preference_data.rewritten} trajectories go step by step: {REWRITTEN}")
        for side in rows.sides[:2]:
            progress.sample(text_spans(side, tokenizer))
        _require_memory(model, rows)
        move_to_device(model, start.kind)
        trainer = _build_trainer(model, tokenizer, rows, config=config, out=out)
        checkpoint, done = find_last_checkpoint(out / "checkpoints")
        progress.start("prefer", total=len(rows.batches), done=done)
        trainer.add_callback(_build_log_callback(transformers, out, progress, done))
        started = time.perf_counter()
        try:
            with catch_out_of_memory(OUT_OF_MEMORY_ADVICE):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            progress.end()
        seconds = time.perf_counter() - started
        model.save_pretrained(str(out / "adapter"), safe_serialization=True, selected_adapters=["default"])
    speed_fields = {
        "training_seconds": round(seconds, 2),
        "tokens_per_second": round(rows.count_tokens(done) / seconds, 1),
    }
    return {
        **preference_data.count_fields(),
        **speed_fields,
        "peak_memory_gb": peak_training_gb(),
        "device": training_device(),
    }


def _require_memory(model: Any, rows: PairRows) -> None:
    """Raise ConfigError when a batch of the longest pairs would not fit."""
    frozen = min(model.peft_config["default"].layers_to_transform or [0])
    batches = [rows.row_indices(piece) for batch in rows.batches for piece in rows.split_batch(batch)]
    on_cpu = training_device() == "cpu"
    require_memory_for_training(
        model,
        rows.sides,
        batches,
        frozen=frozen,
        half=has_bfloat16(),
        keeps=False,
        available=None if on_cpu else free_gpu_gb,
    )


def _build_trainer(model: Any, tokenizer: Any, rows: PairRows, *, config: PreferConfig, out: Path) -> Any:
    """TRL's DPO trainer; each of its examples is one planned batch, whose loss is computed piece by piece."""
    import datasets
    import torch
    import transformers
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    plan_of_batches = datasets.Dataset.from_dict({"batch": [list(batch) for batch in rows.batches]})

    class PlannedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(plan_of_batches, batch_size=1, collate_fn=self.data_collator)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            compute: Any = self.compute_loss  # untyped
            batch, total_loss = inputs["batch"], 0.0
            for piece in rows.split_batch(batch):
                inputs_of_piece = self._prepare_inputs(rows.collate(piece))
                with self.compute_loss_context_manager():
                    loss = compute(model, inputs_of_piece) * len(piece) / len(batch)
                self.accelerator.backward(loss)
                total_loss += loss.item()
            if not (math.isfinite(total_loss) and has_finite_gradients(model)):
                sides = [rows.sides[row] for row in rows.row_indices(batch)]
                gradient_problem = " and its gradient is no number" if math.isfinite(total_loss) else ""
                problem = f"the loss is {total_loss:.4g}{gradient_problem}"
                step = self.state.global_step + 1
                raise write_bad_batch(problem, step=step, indices=batch, samples=sides, tokenizer=tokenizer, out=out)
            return torch.tensor(total_loss, device=self.args.device)

    settings = DPOConfig(
        output_dir=str(out / "checkpoints"),
        beta=config.beta,
        num_train_epochs=1,  # the plan holds every epoch
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number stops the run
        save_steps=5,
        save_total_limit=2,
        seed=config.seed,
        use_cpu=training_device() == "cpu",
        bf16=has_bfloat16(),
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        run_name=out.name,
        report_to=list(config.report_to) or "none",
    )
    with set_tensorboard_directory(out):
        trainer = PlannedDPOTrainer(
            model=model,
            args=settings,
            train_dataset=plan_of_batches,
            data_collator=lambda examples: {"batch": tuple(examples[0]["batch"])},
            processing_class=tokenizer,
        )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _build_log_callback(transformers: Any, out: Path, progress: Progress, done_steps: int) -> Any:
    truncate_log(out / LOG, done_steps=done_steps)

    class PreferenceLogCallback(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                from fireact.base import jsonl

                names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
                row = {ours: round(float(logs[theirs]), 6) for theirs, ours in names.items() if theirs in logs}
                with jsonl.Appender(out / LOG) as file:
                    file.append({"step": state.global_step, **row})
                progress.advance(f"loss {row['loss']:.3f}")

    return PreferenceLogCallback()


PREFER = Verb(
    "prefer", PreferConfig, prefer, out="runs/prefer", neutral=NEUTRAL_SETTINGS,
    estimate="fireact.training.forecast:estimate_preference",
    example="`fireact prefer runs/tries runs/train --epochs 2 -o runs/prefer`",
)  # fmt: skip
