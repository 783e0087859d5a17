"""The verb ``prefer``: a fine-tuned student learns from its failures, by preference (DPO, Rafailov et al. 2023).

For one question, a trajectory that succeeded is preferred to one that failed (as in ETO, Song et al. 2024), on top of
the adapter that imitation left. Only the student's own words count, on both sides: observations are masked as in
imitation. Where the chat template rewrites earlier turns, a trajectory is several samples, one a step; they stand in one
row in which none sees the others, so that its likelihood is the product of theirs. The loss is TRL's, computed where and
in the precision that imitation was; the order of pairs, planned from their lengths, is ours. Invariant: the reference is the
adapter that training starts from.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer, student_of, tuned_directory, tuned_renderer, tuned_tools, tuned_weights
from fireact.data import question
from fireact.data.filters import is_right
from fireact.errors import ConfigError, DataError
from fireact.machine import need_memory, release_memory
from fireact.progress import SILENT, Progress
from fireact.render.tokens import REWRITTEN, Chat, spans
from fireact.store import MANIFEST, RunDir, absolute, read_config, read_trajectories
from fireact.training.bad_batch import no_number, sound_gradients
from fireact.training.checkpoints import last_whole
from fireact.training.curve import LOG, curve_end, cut
from fireact.training.loss import device, has_bfloat16
from fireact.training.memory import cuda_gb, memory_kept_in_bounds, need_room, peak_gb
from fireact.training.recipe import Recipe
from fireact.training.rows import Rows
from fireact.training.run import need_data, weights_hash
from fireact.training.samples import Encoder, offered, rendered
from fireact.training.trackers import below, check_trackers
from fireact.types import Renderer, Trajectory

FREE = ("report_to", "micro_batch")
"""Settings that do not change what is learnt."""
PAIRS = (
    "while pairs were compared. Give --micro-batch 1 and run again; what was trained so far is kept. Where it is 1 already, start "
    "anew with a smaller --max-length."
)
Pair = tuple[Trajectory, Trajectory]


@dataclass(frozen=True, slots=True)
class PreferConfig:
    """Settings of ``prefer``: trajectories (failed ones among them), the run of ``train`` to start from, and DPO's.

    ``batch_size`` is pairs an optimizer step, of which ``micro_batch`` (0: all) are computed at a time.
    """

    data: str
    start: str
    beta: float = 0.1
    learning_rate: float = 5e-5
    epochs: int = 2
    batch_size: int = 4
    micro_batch: int = 0
    max_length: int = 1024
    seed: int = 0
    report_to: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "report_to", tuple(self.report_to))
        object.__setattr__(self, "data", absolute(self.data))
        object.__setattr__(self, "start", absolute(self.start))
        for name in ("beta", "learning_rate", "epochs", "batch_size", "max_length"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.learning_rate >= 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be between 0 and 1.")
        if self.micro_batch < 0 or self.batch_size % self.at_a_time:
            raise ConfigError(
                f"micro_batch is {self.micro_batch}; it must divide the batch_size of {self.batch_size}, or be 0 for all."
            )

    @property
    def at_a_time(self) -> int:
        """Pairs computed at a time."""
        return self.micro_batch or self.batch_size


def prefer(config: PreferConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Train by preference into ``out/adapter`` and return the manifest. Raises DataError when there are no pairs."""
    if not force and (out / MANIFEST).is_file():
        with RunDir(out, verb="prefer", settings=asdict(config), free=FREE) as run:
            return run.manifest
    start, found = beginning(config)
    with RunDir(out, verb="prefer", settings=asdict(config), force=force, free=FREE) as run:
        progress.say(f"prefer: {len(found)} pairs of a success and a failure")
        facts = _train(config, start, found, out=run.path, progress=progress)
        release_memory()
        named = {"student": start.student, "renderer": start.renderer_name}
        last = {f"final_{name}": value for name, value in curve_end(out).items()}
        return run.finish(**named, adapter_sha256=weights_hash(out / "adapter"), **facts, **last)


def beginning(config: PreferConfig) -> tuple[Start, list[list[Chat]]]:
    """What training begins with: what imitation left, and the chats of each pair. Nothing is loaded or written.

    Raises ConfigError for a run that preference cannot start from, DataError when there are no pairs.
    """
    check_trackers(config.report_to)
    need_data(Path(config.data))
    directory = tuned_directory(config.start)
    if directory is None:
        raise ConfigError(f"{config.start} is no directory of 'fireact train'. Train by imitation first.")
    place, adapter, _ = tuned_weights(directory)
    if adapter is None:
        raise ConfigError(
            f"{config.start} holds a whole model; preference starts from an adapter. Train with LoRA first."
        )
    found = pairs(read_trajectories(Path(config.data)), seed=config.seed)
    if not found:
        raise DataError(
            f"{config.data} has no question with both a success and a failure. Collect with the student itself, "
            "several seeds at a temperature: fireact collect --teacher RUN --temperature 0.8 --seed N."
        )
    name = tuned_renderer(directory)
    start = Start(student_of(directory), place, adapter, _kind(directory), name, load_renderer(name))
    shown = offered(start.renderer, tuned_tools(directory))
    return start, [[rendered(one, start.renderer, tools=shown) for one in pair] for pair in found]


def pairs(trajectories: Iterable[Trajectory], *, seed: int) -> list[Pair]:
    """One pair a question: its shortest success, and one of its failures, drawn by the seed."""
    good: dict[str, list[Trajectory]] = {}
    bad: dict[str, list[Trajectory]] = {}
    for one in trajectories:
        if one.stop != "error" and one.steps and one.scores:  # what nobody scored is neither
            (good if is_right(one) else bad).setdefault(question(one), []).append(one)
    draw = random.Random(seed)
    return [
        (
            min(good[name], key=lambda one: (len(one.steps), one.key)),
            draw.choice(sorted(bad[name], key=lambda one: one.key)),
        )
        for name in sorted(set(good) & set(bad))
    ]


@dataclass(frozen=True, slots=True)
class Start:
    """What imitation left: the student and where its weights are, the adapter, the recipe's kind, and the renderer."""

    student: str
    place: str
    adapter: Path
    kind: str
    renderer_name: str
    renderer: Renderer


@dataclass(frozen=True, slots=True)
class Compared:
    """The pairs that fit, as rows; ``rewritten`` trajectories are several samples."""

    rows: Rows
    dropped: int
    rewritten: int

    def counts(self) -> dict[str, Any]:
        """What the manifest, and a dry run, says of it."""
        rows = self.rows
        size = {"steps": len(rows.batches), "tokens": rows.tokens(), "padding": round(rows.padding, 4)}
        return {"pairs": len(rows.pairs), "dropped": self.dropped, "rewritten": self.rewritten, **size}


def compared(found: Sequence[Sequence[Chat]], encoder: Encoder, config: PreferConfig) -> Compared:
    """The pairs that fit into ``max_length``. Raises DataError when none does."""
    samples = [tuple(map(encoder.samples, pair)) for pair in found]
    fitting = [
        pair for pair in samples if all(len(one.input_ids) <= config.max_length for side in pair for one in side)
    ]
    if not fitting:
        raise DataError(f"none of {len(samples)} pairs fits into max_length {config.max_length} tokens. Raise it.")
    rows = Rows(
        fitting,
        epochs=config.epochs,
        batch_size=config.batch_size,
        at_a_time=config.at_a_time,
        seed=config.seed,
    )
    return Compared(rows, len(samples) - len(fitting), sum(len(side) > 1 for two in samples for side in two))


def _kind(directory: Path) -> str:
    """The kind of the recipe that a run of ``train`` had, or the run that a run of ``prefer`` started from."""
    config = read_config(directory)
    before = tuned_directory(str(config["start"])) if "start" in config else None
    return str(config.get("recipe", {}).get("kind", Recipe().kind)) if before is None else _kind(before)


def _train(
    config: PreferConfig, start: Start, found: Sequence[Sequence[Chat]], *, out: Path, progress: Progress
) -> dict[str, Any]:
    import torch
    import transformers

    from fireact.models.quiet import quiet
    from fireact.training.student import load_adapted, on_device

    need_memory(gigabytes=2.0)
    torch.manual_seed(config.seed)
    with quiet():
        model, tokenizer, ends = load_adapted(start.place, start.adapter, start.kind)
        made = compared(found, Encoder(tokenizer, ends, start.renderer), config)
        rows = made.rows
        if made.rewritten:
            progress.say(f"prefer: {made.rewritten} trajectories go step by step: {REWRITTEN}")
        for side in rows.sides[:2]:
            progress.sample(spans(side, tokenizer))
        _need_room(model, rows)
        on_device(model, start.kind)
        trainer = _trainer(model, tokenizer, rows, config=config, out=out)
        checkpoint, done = last_whole(out / "checkpoints")
        progress.start("prefer", total=len(rows.batches), done=done)
        trainer.add_callback(_told(transformers, out, progress, done))
        started = time.perf_counter()
        try:
            with memory_kept_in_bounds(PAIRS):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            progress.end()
        seconds = time.perf_counter() - started
        model.save_pretrained(str(out / "adapter"), safe_serialization=True, selected_adapters=["default"])
    speed = {"training_seconds": round(seconds, 2), "tokens_per_second": round(rows.tokens(done) / seconds, 1)}
    return {**made.counts(), **speed, "peak_memory_gb": peak_gb(), "device": device()}


def _need_room(model: Any, rows: Rows) -> None:
    """Raise ConfigError when a batch of the longest pairs would not fit."""
    frozen = min(model.peft_config["default"].layers_to_transform or [0])
    batches = [rows.of(piece) for batch in rows.batches for piece in rows.pieces(batch)]
    on_cpu = device() == "cpu"
    need_room(
        model,
        rows.sides,
        batches,
        frozen=frozen,
        half=has_bfloat16(),
        keeps=False,
        available=None if on_cpu else cuda_gb,
    )


def _trainer(model: Any, tokenizer: Any, rows: Rows, *, config: PreferConfig, out: Path) -> Any:
    """TRL's DPO trainer, given one planned batch of ids and masks as one example, and its loss piece by piece."""
    import datasets
    import torch
    import transformers
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    plan_of_batches = datasets.Dataset.from_dict({"batch": [list(batch) for batch in rows.batches]})

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(plan_of_batches, batch_size=1, collate_fn=self.data_collator)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            compute: Any = self.compute_loss  # untyped
            batch, summed = inputs["batch"], 0.0
            for piece in rows.pieces(batch):
                given = self._prepare_inputs(rows.collated(piece))
                with self.compute_loss_context_manager():
                    loss = compute(model, given) * len(piece) / len(batch)
                self.accelerator.backward(loss)
                summed += loss.item()
            if not (math.isfinite(summed) and sound_gradients(model)):
                sides = [rows.sides[row] for row in rows.of(batch)]
                said = f"the loss is {summed:.4g}{' and its gradient is no number' if math.isfinite(summed) else ''}"
                step = self.state.global_step + 1
                raise no_number(said, step=step, indices=batch, samples=sides, tokenizer=tokenizer, out=out)
            return torch.tensor(summed, device=self.args.device)

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
        use_cpu=device() == "cpu",
        bf16=has_bfloat16(),
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        run_name=out.name,
        report_to=list(config.report_to) or "none",
    )
    with below(out):
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=plan_of_batches,
            data_collator=lambda examples: {"batch": tuple(examples[0]["batch"])},
            processing_class=tokenizer,
        )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _told(transformers: Any, out: Path, progress: Progress, done: int) -> Any:
    cut(out / LOG, done=done)

    class Log(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                from fireact import jsonl

                names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
                row = {ours: round(float(logs[theirs]), 6) for theirs, ours in names.items() if theirs in logs}
                with jsonl.Appender(out / LOG) as file:
                    file.append({"step": state.global_step, **row})
                progress.advance(f"loss {row['loss']:.3f}")

    return Log()
