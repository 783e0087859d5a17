"""The verb ``prefer``: a fine-tuned student learns from its failures, by preference (DPO, Rafailov et al. 2023).

For one question, a trajectory that succeeded is preferred to one that failed (as in ETO, Song et al. 2024), on top of
the adapter that imitation left. Only the student's own words count, on both sides: observations are masked as in
imitation. The loss is TRL's. Invariant: the reference is the adapter that training starts from.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer, student_of, tuned_directory, tuned_renderer, tuned_weights
from fireact.data import question
from fireact.errors import ConfigError, DataError
from fireact.machine import need_memory, peak_memory_gb, release_memory
from fireact.progress import SILENT, Progress
from fireact.render.tokens import IGNORED, Chat, Sample
from fireact.store import RunDir, absolute, read_config, read_trajectories
from fireact.training.checkpoints import last_whole
from fireact.training.run import offered, rendered, weights_hash
from fireact.training.samples import Encoder
from fireact.types import Renderer, Trajectory

Pair = tuple[Trajectory, Trajectory]


@dataclass(frozen=True, slots=True)
class PreferConfig:
    """Settings of ``prefer``: trajectories (failed ones among them), the run of ``train`` to start from, and DPO's."""

    data: str
    start: str
    beta: float = 0.1
    learning_rate: float = 5e-5
    epochs: int = 2
    batch_size: int = 4
    max_length: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", absolute(self.data))
        object.__setattr__(self, "start", absolute(self.start))
        for name in ("beta", "learning_rate", "epochs", "batch_size", "max_length"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")


def prefer(config: PreferConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Train by preference into ``out/adapter`` and return the manifest. Raises DataError when there are no pairs."""
    directory = tuned_directory(config.start)
    if directory is None:
        raise ConfigError(f"{config.start} is no directory of 'fireact train'. Train by imitation first.")
    place, adapter, _ = tuned_weights(directory)
    if adapter is None:
        raise ConfigError(
            f"{config.start} holds a whole model; preference starts from an adapter. Train with LoRA first."
        )
    student = student_of(directory)
    with RunDir(out, verb="prefer", settings=asdict(config), force=force) as run:
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
        facts = _train(config, place, adapter, chats, renderer=load_renderer(renderer), out=run.path, progress=progress)
        release_memory()
        named = {"student": student, "renderer": renderer}
        return run.finish(**named, adapter_sha256=weights_hash(out / "adapter"), **facts)


def pairs(trajectories: Iterable[Trajectory], *, seed: int) -> list[Pair]:
    """One pair a question: its shortest success, and one of its failures, drawn by the seed."""
    good: dict[str, list[Trajectory]] = {}
    bad: dict[str, list[Trajectory]] = {}
    for one in trajectories:
        if one.stop != "error" and one.steps:
            (good if one.scores.get("em") == 1.0 else bad).setdefault(question(one), []).append(one)
    draw = random.Random(seed)
    return [
        (
            min(good[name], key=lambda one: (len(one.steps), one.key)),
            draw.choice(sorted(bad[name], key=lambda one: one.key)),
        )
        for name in sorted(set(good) & set(bad))
    ]


def _train(
    config: PreferConfig,
    place: str,
    adapter: Path,
    found: Sequence[Sequence[Chat]],
    *,
    renderer: Renderer,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    from fireact.models.quiet import quiet
    from fireact.training.student import load_student

    need_memory(gigabytes=3.0)
    torch.manual_seed(config.seed)
    with quiet():
        base, tokenizer, ends = load_student(place)
        encoder = Encoder(tokenizer, ends, renderer)
        samples = [tuple(map(encoder.whole, pair)) for pair in found]
        fitting = [pair for pair in samples if all(len(one.input_ids) <= config.max_length for one in pair)]
        if not fitting:
            raise DataError(f"none of {len(samples)} pairs fits into max_length {config.max_length} tokens. Raise it.")
        model = peft.PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
        trainer = _trainer(model, tokenizer, fitting, config=config, out=out)
        checkpoint, done = last_whole(out / "checkpoints")
        progress.start("prefer", total=trainer.steps, done=done)
        trainer.add_callback(_told(transformers, out, progress, done))
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            progress.end()
        model.save_pretrained(str(out / "adapter"), safe_serialization=True, selected_adapters=["default"])
    return {"pairs": len(fitting), "dropped": len(samples) - len(fitting), "peak_memory_gb": peak_memory_gb()}


def _trainer(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[Sample, ...]], *, config: PreferConfig, out: Path
) -> Any:
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
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_length=None,
        logging_steps=1,
        save_steps=5,
        save_total_limit=2,
        seed=config.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
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


def collate(pairs: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Padded ids and masks [2 x pairs, tokens]: the successes, then the failures; the mask is what the student wrote."""
    import torch

    from fireact.training.halves import pad

    samples = [pair[side] for side in (0, 1) for pair in pairs]
    ids = pad([torch.tensor(one.input_ids) for one in samples], value=0)
    attention = pad([torch.ones(len(one.input_ids), dtype=torch.long) for one in samples], value=0)
    wrote = pad([(torch.tensor(one.labels) != IGNORED).long() for one in samples], value=0)
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": wrote}


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
