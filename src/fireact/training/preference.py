"""The verb ``prefer``: a fine-tuned student learns from its failures, by preference (DPO, Rafailov et al. 2023).

For one question, a trajectory that succeeded is preferred to one that failed (as in ETO, Song et al. 2024), on top of
the adapter that imitation left. Only the student's own words count, on both sides: observations are masked as in
imitation. Where the chat template rewrites earlier turns, a trajectory is several samples, one a step; they stand in one
row in which none sees the others, so that its likelihood is the product of theirs. The loss is TRL's, computed where and
in the precision that imitation was. Invariant: the reference is the adapter that training starts from.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer, student_of, tuned_directory, tuned_renderer, tuned_weights
from fireact.data import question
from fireact.data.filters import is_right
from fireact.errors import ConfigError, DataError
from fireact.machine import need_memory, peak_memory_gb, release_memory
from fireact.progress import SILENT, Progress
from fireact.render.tokens import IGNORED, REWRITTEN, Chat, Sample
from fireact.store import RunDir, absolute, read_config, read_trajectories
from fireact.training.checkpoints import last_whole
from fireact.training.loss import device, has_bfloat16
from fireact.training.memory import cuda_gb, memory_kept_in_bounds, need_room
from fireact.training.recipe import Recipe
from fireact.training.run import weights_hash
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
Side = Sequence[Sample]
"""A trajectory: one sample, or one a step."""


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
    check_trackers(config.report_to)
    directory = tuned_directory(config.start)
    if directory is None:
        raise ConfigError(f"{config.start} is no directory of 'fireact train'. Train by imitation first.")
    place, adapter, _ = tuned_weights(directory)
    if adapter is None:
        raise ConfigError(
            f"{config.start} holds a whole model; preference starts from an adapter. Train with LoRA first."
        )
    student = student_of(directory)
    with RunDir(out, verb="prefer", settings=asdict(config), force=force, free=FREE) as run:
        if run.complete:
            return run.manifest
        found = pairs(read_trajectories(Path(config.data)), seed=config.seed)
        if not found:
            raise DataError(
                f"{config.data} has no question with both a success and a failure. Collect with the student itself, "
                "several seeds at a temperature: fireact collect --teacher RUN --temperature 0.8 --seed N."
            )
        progress.say(f"prefer: {len(found)} pairs of a success and a failure")
        renderer = tuned_renderer(directory)
        shown = offered(load_renderer(renderer), read_config(directory).get("tools", ("search",)))
        chats = [[rendered(one, load_renderer(renderer), tools=shown) for one in pair] for pair in found]
        start = _Start(place, adapter, _kind(directory), load_renderer(renderer))
        facts = _train(config, start, chats, out=run.path, progress=progress)
        release_memory()
        named = {"student": student, "renderer": renderer}
        return run.finish(**named, adapter_sha256=weights_hash(out / "adapter"), **facts)


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
class _Start:
    """What imitation left: the student's weights, the adapter, the recipe's kind, and the renderer."""

    place: str
    adapter: Path
    kind: str
    renderer: Renderer


def _kind(directory: Path) -> str:
    """The kind of the recipe that a run of ``train`` had, or the run that a run of ``prefer`` started from."""
    config = read_config(directory)
    before = tuned_directory(str(config["start"])) if "start" in config else None
    return str(config.get("recipe", {}).get("kind", Recipe().kind)) if before is None else _kind(before)


def _train(
    config: PreferConfig, start: _Start, found: Sequence[Sequence[Chat]], *, out: Path, progress: Progress
) -> dict[str, Any]:
    import torch
    import transformers

    from fireact.models.quiet import quiet
    from fireact.training.student import load_adapted, on_device

    need_memory(gigabytes=2.0)
    torch.manual_seed(config.seed)
    with quiet():
        model, tokenizer, ends = load_adapted(start.place, start.adapter, start.kind)
        encoder = Encoder(tokenizer, ends, start.renderer)
        samples = [tuple(map(encoder.samples, pair)) for pair in found]
        rewritten = sum(len(side) > 1 for two in samples for side in two)
        if rewritten:
            progress.say(f"prefer: {rewritten} trajectories go step by step: {REWRITTEN}")
        fitting = [
            pair for pair in samples if all(len(one.input_ids) <= config.max_length for side in pair for one in side)
        ]
        if not fitting:
            raise DataError(f"none of {len(samples)} pairs fits into max_length {config.max_length} tokens. Raise it.")
        _need_room(model, fitting, config)
        on_device(model, start.kind)
        trainer = _trainer(model, tokenizer, fitting, config=config, out=out)
        checkpoint, done = last_whole(out / "checkpoints")
        progress.start("prefer", total=trainer.steps, done=done)
        trainer.add_callback(_told(transformers, out, progress, done))
        try:
            with memory_kept_in_bounds(PAIRS):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            progress.end()
        model.save_pretrained(str(out / "adapter"), safe_serialization=True, selected_adapters=["default"])
    facts = {"pairs": len(fitting), "dropped": len(samples) - len(fitting), "rewritten": rewritten}
    return {**facts, "peak_memory_gb": peak_memory_gb(), "device": device()}


def _need_room(model: Any, pairs: Sequence[Sequence[Side]], config: PreferConfig) -> None:
    """Raise ConfigError when a batch of the longest pairs would not fit."""
    rows = sorted((in_a_row(side) for pair in pairs for side in pair), key=lambda one: -len(one.input_ids))
    frozen = min(model.peft_config["default"].layers_to_transform or [0])
    batch = tuple(range(min(2 * config.at_a_time, len(rows))))
    on_cpu = device() == "cpu"
    half = not on_cpu or has_bfloat16()
    need_room(model, rows, [batch], frozen=frozen, half=half, keeps=False, available=None if on_cpu else cuda_gb)


def _trainer(model: Any, tokenizer: Any, pairs: Sequence[Sequence[Side]], *, config: PreferConfig, out: Path) -> Any:
    """TRL's DPO trainer, given ids and masks as they are."""
    import datasets
    import transformers
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    rows = datasets.Dataset.from_dict({"pair": list(range(len(pairs)))})

    class Trainer(DPOTrainer):
        steps = -(-len(pairs) // config.batch_size) * config.epochs

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    settings = DPOConfig(
        output_dir=str(out / "checkpoints"),
        beta=config.beta,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.at_a_time,
        gradient_accumulation_steps=config.batch_size // config.at_a_time,
        learning_rate=config.learning_rate,
        max_length=None,
        logging_steps=1,
        save_steps=5,
        save_total_limit=2,
        seed=config.seed,
        use_cpu=device() == "cpu",
        bf16=device() != "cpu" or has_bfloat16(),
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
            train_dataset=rows,
            data_collator=lambda chosen: collate([pairs[one["pair"]] for one in chosen]),
            processing_class=tokenizer,
        )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def in_a_row(side: Side) -> Sample:
    """The samples of a trajectory, one after the other."""
    return Sample(
        tuple(token for one in side for token in one.input_ids), tuple(label for one in side for label in one.labels)
    )


def collate(pairs: Sequence[Sequence[Side]]) -> dict[str, Any]:
    """Padded ids and masks [2 x pairs, tokens]: the successes, then the failures; one mask is what the student wrote.

    Where a trajectory is several samples, positions begin anew with each, and the attention mask [2 x pairs, 1, tokens,
    tokens] says which tokens a token sees: those before it in its own sample.
    """
    import torch

    from fireact.training.halves import pad

    sides = [pair[side] for side in (0, 1) for pair in pairs]
    rows = [in_a_row(side) for side in sides]
    ids = pad([torch.tensor(one.input_ids) for one in rows], value=0)
    wrote = pad([(torch.tensor(one.labels) != IGNORED).long() for one in rows], value=0)
    if all(len(side) == 1 for side in sides):
        attention = pad([torch.ones(len(one.input_ids), dtype=torch.long) for one in rows], value=0)
        return {"input_ids": ids, "attention_mask": attention, "completion_mask": wrote}
    lengths = [[len(one.input_ids) for one in side] for side in sides]
    number = pad([torch.tensor([at for at, n in enumerate(own) for _ in range(n)]) for own in lengths], value=-1)
    places = pad([torch.cat([torch.arange(n) for n in own]) for own in lengths], value=0)
    earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    attention = (number[:, None, :, None] == number[:, None, None, :]) & earlier
    return {"input_ids": ids, "attention_mask": attention, "position_ids": places, "completion_mask": wrote}


def _told(transformers: Any, out: Path, progress: Progress, done: int) -> Any:
    from fireact.training.curve import LOG, cut

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
