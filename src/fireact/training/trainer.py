"""Fine-tunes a student with TRL and PEFT, loss on the student's own words alone, and goes on after a kill.

Faster than the defaults by doing less: where only the upper blocks are trained, nothing is propagated back through the
lower ones, and what they compute is computed once, not once an epoch (``halves``); logits are made at target positions
only; batches are of like length; and where the hardware multiplies bfloat16 natively, it does.

Several processes (``launch``) each take their share of every planned batch and add their gradients up, so that the
curve is that of one process, whether each holds all weights or a part of them (``sharding``). Checkpoints are Trainer's own. Not done here: rendering, filtering, inference.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError, FireactError
from fireact.machine import need_disk, need_memory
from fireact.models.quiet import quiet
from fireact.progress import SILENT, Progress
from fireact.render.tokens import Chat, Sample, spans
from fireact.training.bad_batch import no_number, sound_gradients
from fireact.training.batches import Batch, computed, padding, pieces, plan, shares, widest
from fireact.training.checkpoints import disk_gb, last_whole, taken_gb
from fireact.training.curve import LOG, Curve
from fireact.training.fitting import Fitting, fit
from fireact.training.loss import KEPT, TargetLoss, device, has_bfloat16
from fireact.training.memory import cuda_gb, memory_kept_in_bounds, need_room, peak_gb, ran_out
from fireact.training.recipe import ADAPTED, UPPERMOST, Recipe
from fireact.training.samples import Encoder
from fireact.training.schedule import share
from fireact.training.sharding import gathered, shard_on_cpu, sharded
from fireact.training.student import adapt, load_student, on_device
from fireact.training.trackers import below, check_trackers, named
from fireact.training.validation import VALIDATED, Validation
from fireact.types import Renderer

CHECKPOINTS = "checkpoints"
BESIDE = (
    "beside the training steps (which name their samples): while validation was measured, or what the frozen blocks make was "
    "kept. Set micro_batch = 1 in the recipe and run again; what was trained so far is kept. Where it is 1 already, train anew "
    "with a smaller max_length or fewer samples."
)


@dataclass(frozen=True, slots=True)
class TrainStats:
    """What a training run did; ``rewritten`` chats are one sample a step, since the template rewrites what came before. ``tokens`` counts every epoch, ``tokens_per_second`` is over training alone."""

    samples: int
    dropped: int
    validation_dropped: int
    rewritten: int
    tokens: int
    target_tokens: int
    padding: float
    steps: int
    trained_parameters: int
    final_loss: float
    validation_loss: float | None
    whole_sample_accuracy: float | None
    training_seconds: float
    tokens_per_second: float
    peak_memory_gb: float
    resumed_from_step: int
    device: str
    processes: int


def weights_directory(out: Path, recipe: Recipe) -> Path:
    """Where a run leaves what it trained: an adapter, or a whole model."""
    return out / ("adapter" if recipe.kind in ADAPTED else "model")


def fine_tune(
    chats: Sequence[Chat],
    *,
    student: str,
    recipe: Recipe,
    out: Path,
    validation: Sequence[Chat] = (),
    renderer: Renderer | None = None,
    report_to: Sequence[str] = (),
    progress: Progress = SILENT,
) -> TrainStats:
    """Train ``student`` on chats into ``out/adapter`` (or ``out/model``); goes on from the last whole checkpoint.

    ``renderer`` is the one that made the chats, for what its own template and ends are (default: ``react``, with none).
    Raises ConfigError when nothing would be trained or memory runs out, DataError when no sample is left, FireactError
    on a loss that is no number.
    """
    check_trackers(report_to)
    need_disk(out, gigabytes=0.5)
    need_memory(gigabytes=2.0)
    with quiet():
        model, tokenizer, ends = load_student(student, recipe.kind)
        encoder = Encoder(tokenizer, ends, renderer, everything=recipe.train_on == "all")
        fitting = fit(chats, validation, encoder=encoder, recipe=recipe, progress=progress)
        progress.sample(spans(fitting.samples[0], tokenizer))
        with memory_kept_in_bounds(BESIDE):
            run = _Run(model, tokenizer, fitting.samples, fitting.kept_out, recipe=recipe, out=out, progress=progress)
            return run.train(report_to=report_to, fitting=fitting)


class _Run:
    """One training run: what it trains on, and how far it is."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        samples: Sequence[Sample],
        kept_out: Sequence[Sample],
        *,
        recipe: Recipe,
        out: Path,
        progress: Progress,
    ) -> None:
        import torch

        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.tokenizer, self.samples = recipe, out, tokenizer, samples
        self.rank, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.progress = progress if self.rank == 0 else SILENT
        self.lengths = [len(sample.input_ids) for sample in samples]
        self.batches = plan(self.lengths, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=recipe.seed)
        self.limit = widest(self.batches, self.lengths, size=recipe.micro_batch, processes=self.processes)
        self.model, frozen = adapt(model, recipe)
        blocks = model.config.get_text_config().num_hidden_layers
        if recipe.blocks is None and blocks < UPPERMOST:
            self.progress.say(
                f"train: the student has {blocks} blocks, fewer than {UPPERMOST}; all of them are trained"
            )
        self.sharded = sharded()
        if self.sharded:
            frozen = 0  # halves would go past what puts the weights together, so the whole model runs
        self.need_room(frozen)
        self.need_disk()
        if not self.sharded:
            on_device(self.model, recipe.kind)
        self.checkpoint, self.done = last_whole(out / CHECKPOINTS)
        self.loss = TargetLoss(self.model, samples, frozen=frozen, at_a_time=recipe.micro_batch or KEPT)
        self.validation = (
            Validation(
                self.model,
                kept_out,
                frozen=frozen,
                batch_size=min(VALIDATED, recipe.micro_batch or VALIDATED),
                out=out,
                patience=recipe.patience,
                progress=self.progress,
                done=self.done,
                write=not self.rank,
            )
            if kept_out
            else None
        )

    def need_room(self, frozen: int) -> None:
        """Raise ConfigError when the largest piece of a batch would not fit."""
        largest = [piece for batch in self.batches for piece in self.part(batch) if piece]
        on_cpu = device() == "cpu"
        need_room(
            self.model,
            self.samples,
            largest or [(0,)],
            frozen=frozen,
            half=has_bfloat16(),
            processes=self.processes if self.sharded else 1,
            available=None if on_cpu else cuda_gb,
        )

    def need_disk(self) -> None:
        """Raise ConfigError when checkpoints and weights would not fit on the disk, beside those that lie there."""
        trained = sum(one.numel() for one in self.model.parameters() if one.requires_grad)
        saved = trained if self.recipe.kind in ADAPTED else sum(one.numel() for one in self.model.parameters())
        need_disk(self.out, gigabytes=max(0.1, disk_gb(saved=saved, trained=trained) - taken_gb(self.out)))

    def part(self, batch: Batch, *, rank: int | None = None) -> list[Batch]:
        """What a process (default: this one) computes of a batch, piece by piece."""
        mine = shares(batch, self.processes)[self.rank if rank is None else rank]
        return pieces(mine, self.lengths, size=self.recipe.micro_batch, limit=self.limit)

    def turns(self, batch: Batch) -> list[tuple[Batch, float]]:
        """The pieces that this process computes, with their weights.

        Where weights are spread, all processes must compute equally often, and what they make is averaged: so some
        compute a sample for nothing, and the others count for as many as there are.
        """
        mine = [(piece, float(self.processes if self.sharded else 1)) for piece in self.part(batch)]
        most = max(len(self.part(batch, rank=rank)) for rank in range(self.processes)) if self.sharded else 0
        return mine + [(batch[:1], 0.0)] * (most - len(mine))

    @property
    def padding(self) -> float:
        """The share of all tokens computed that is padding."""
        how = {"size": self.recipe.micro_batch, "processes": self.processes}
        return padding(computed(self.batches, self.lengths, limit=self.limit, **how), self.lengths)

    def train(self, *, report_to: Sequence[str], fitting: Fitting) -> TrainStats:
        trainer = build_trainer(self, report_to=report_to)
        if self.processes > 1:
            self.agree()
        curve = (
            Curve(self.out / LOG, self.batches, self.samples, self.progress, done=self.done) if not self.rank else None
        )
        if curve is not None:
            trainer.add_callback(curve.callback())
        started = time.perf_counter()
        self.progress.start("train", total=len(self.batches), done=self.done)
        try:
            if self.validation is not None and self.validation.stopped:  # a kill came after the last epoch
                trainer.state.global_step = self.done
            else:
                trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        finally:
            self.progress.end()
        seconds = time.perf_counter() - started + self.loss.seconds
        self.save(weights_directory(self.out, self.recipe))
        if not self.rank and self.validation is not None:
            self.validation.keep_best(weights_directory(self.out, self.recipe))
        return self.stats(seconds, curve, steps=trainer.state.global_step, fitting=fitting)

    def agree(self) -> None:
        """Raise DataError where the processes would go on from different steps, as on machines that share no disk."""
        import torch

        steps = torch.tensor([self.done, -self.done], device=self.loss.device)
        torch.distributed.all_reduce(steps, op=torch.distributed.ReduceOp.MAX)
        most, least = int(steps[0]), -int(steps[1])
        if most != least:
            raise DataError(
                f"the processes find different checkpoints in {self.out}: of step {least} and of step {most}. To go on with a "
                "run of several machines, give all of them one directory on a shared disk."
            )

    def save(self, directory: Path) -> None:
        """Write what is trained: the adapter, or the whole model and its tokenizer. All processes call it, one writes."""
        weights = gathered(self.model, trained=self.recipe.kind in ADAPTED) if self.sharded else None
        if self.rank:
            return
        self.model.save_pretrained(directory, safe_serialization=True, **({"state_dict": weights} if weights else {}))
        if self.recipe.kind not in ADAPTED:
            self.tokenizer.save_pretrained(directory)

    def step(self, batch: Batch, *, number: int, backward: Callable[[Any], None]) -> float:
        """Gradients of the mean loss over a batch, computed piece by piece; returns the loss."""
        weights, summed = self.loss.weight(batch), 0.0
        for piece, weight in self.turns(batch):
            try:
                loss = self.loss.total(piece) / weights
                backward(loss * weight)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                raise self.out_of_memory(piece, number) from error
            summed += loss.item() if weight else 0.0
        if self.processes > 1:
            summed = self.gather(summed)
        if not math.isfinite(summed):
            raise self.no_number(batch, f"the loss is {summed}", number)
        if not self.sound_gradients():
            raise self.no_number(batch, f"the loss is {summed:.4g} and its gradient is no number", number)
        return summed

    def sound_gradients(self) -> bool:
        """Whether the gradients of all processes are numbers."""
        import torch

        sound = sound_gradients(self.model)
        if not self.sharded:
            return sound
        least = torch.tensor(float(sound), device=self.loss.device)
        torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
        return bool(least.item())

    def gather(self, loss: float) -> float:
        """Add the gradients (spread ones are added up already) and the loss of all processes up."""
        import torch

        for parameter in self.model.parameters():
            if parameter.requires_grad and not self.sharded:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
        whole = torch.tensor(loss, device=self.loss.device)
        torch.distributed.all_reduce(whole)
        return float(whole.item())

    def out_of_memory(self, piece: Batch, number: int) -> ConfigError:
        longest = max(self.lengths[index] for index in piece)
        half = max(1, len(piece) // 2)
        advice = (
            f"Set micro_batch = {half} in the recipe and run again; what was trained so far is kept."
            if len(piece) > 1
            else f"Set a max_length below {longest}, or fewer blocks, in the recipe and train anew with another -o."
        )
        return ConfigError(
            f"memory ran out at step {number}: {len(piece)} samples of up to {longest} tokens at a time. {advice}"
        )

    def no_number(self, batch: Batch, said: str, number: int) -> FireactError:
        """The error for a loss or gradient that is no number."""
        return no_number(
            said,
            step=number,
            indices=batch,
            samples=[self.samples[index] for index in batch],
            tokenizer=self.tokenizer,
            out=self.out,
            write=not self.rank,
        )

    def stats(self, seconds: float, curve: Curve | None, *, steps: int, fitting: Fitting) -> TrainStats:
        done = self.batches[:steps]
        tokens = sum(self.lengths[index] for batch in self.batches[self.done : steps] for index in batch)
        kept = self.validation.kept if self.validation is not None else {}
        return TrainStats(
            samples=len(self.samples),
            dropped=fitting.dropped,
            validation_dropped=fitting.validation_dropped,
            rewritten=fitting.rewritten,
            tokens=sum(self.lengths[index] for batch in done for index in batch),
            target_tokens=sum(self.loss.targets(batch) for batch in done),
            padding=round(self.padding, 4),
            steps=steps,
            trained_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            final_loss=curve.final_loss() if curve is not None else 0.0,
            validation_loss=kept.get("validation_loss"),
            whole_sample_accuracy=kept.get("whole_sample_accuracy"),
            training_seconds=round(seconds, 2),
            tokens_per_second=round(tokens / max(seconds, 1e-9), 1),
            peak_memory_gb=peak_gb(),
            resumed_from_step=self.done,
            device=str(self.loss.device.type),
            processes=self.processes,
        )


def build_trainer(run: _Run, *, report_to: Sequence[str] = ()) -> Any:
    """TRL's trainer, given one planned batch as one example, and our step in place of its own."""
    import datasets
    import torch
    import transformers
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    recipe = run.recipe
    plan_of_batches = datasets.Dataset.from_dict({"batch": [list(batch) for batch in run.batches]})
    epoch = len(run.batches) // recipe.epochs

    class Trainer(SFTTrainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            if run.sharded and device() == "cpu":
                shard_on_cpu(self.accelerator)
                self.is_fsdp_enabled = True

        def get_train_dataloader(self) -> Any:
            """Every process walks the whole plan in its order; ``_Run.part`` is what it computes of it."""
            return torch.utils.data.DataLoader(plan_of_batches, batch_size=1, collate_fn=self.data_collator)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            loss = run.step(inputs["batch"], number=self.state.global_step + 1, backward=self.accelerator.backward)
            return torch.tensor(loss, device=run.loss.device)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            def height(step: int) -> float:
                return share(step, total=num_training_steps, warmup=recipe.warmup, schedule=recipe.schedule)

            optimizer = optimizer or self.optimizer
            if self.lr_scheduler is None and optimizer is not None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, height)
            return self.lr_scheduler

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            measured = run.validation.at(self.state.global_step) if run.validation is not None else None
            super().log({**logs, **(named(measured) if measured and "loss" in logs else {})}, start_time)

    class Measure(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if run.validation is not None and state.global_step % epoch == 0:
                number = state.global_step // epoch
                if run.validation.measure(step=state.global_step, epoch=number, save=run.save):
                    control.should_training_stop = True

    with below(run.out):
        trainer = Trainer(
            model=run.model,
            args=SFTConfig(**_settings(run, report_to)),
            train_dataset=plan_of_batches,
            data_collator=lambda examples: {"batch": tuple(examples[0]["batch"])},
            processing_class=run.tokenizer,
        )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Measure())
    return trainer


def _settings(run: _Run, report_to: Sequence[str]) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "output_dir": str(run.out / CHECKPOINTS),
        "run_name": run.out.name,
        "num_train_epochs": 1,  # the plan holds every epoch, so that going on is skipping what is done
        "per_device_train_batch_size": 1,
        "learning_rate": recipe.learning_rate,
        "max_grad_norm": 1.0,
        "weight_decay": recipe.weight_decay,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not a number stops the run
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "seed": recipe.seed,
        "use_cpu": device() == "cpu",
        "bf16": False,  # autocast is ours
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": list(report_to) or "none",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
    }
