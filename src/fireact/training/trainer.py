"""Fine-tunes a student with TRL and PEFT, with the loss on the student's own words alone, and resumes after a kill.

It is faster than the defaults because it computes less. Where only the upper blocks are trained, nothing is propagated
back through the lower ones, and their hidden states are computed once, not once per epoch (``frozen_blocks``). Logits
are computed at target positions only, and batches have similar length. bfloat16 is used where the hardware multiplies
it natively.

Several processes (``launch``) each take their share of every planned batch and add up their gradients. So the learning
curve is that of one process, whether each holds all weights or a shard of them (``sharding``). Checkpoints are
Trainer's own. Not done here: rendering, filtering, inference.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.machine import (
    choose_product_dtype,
    has_bfloat16,
    keep_freed_memory,
    require_disk,
    require_memory,
    training_device,
)
from fireact.base.progress import SILENT, Progress
from fireact.data.recorded_calls import RENDERER
from fireact.errors import ConfigError, DataError, FireactError
from fireact.models.hf import context_length
from fireact.models.quiet import silence_libraries
from fireact.render.tokens import Chat, Sample, text_spans
from fireact.training.bad_batch import has_finite_gradients, write_bad_batch
from fireact.training.batches import (
    Batch,
    choose_padding_limit,
    measure_padding,
    plan_batches,
    split_all_batches,
    split_among_processes,
    split_by_length,
)
from fireact.training.checkpoints import estimate_disk_gb, find_last_checkpoint, used_disk_gb
from fireact.training.fitting import FittingSamples, select_fitting
from fireact.training.log import LOG, CurveWriter
from fireact.training.loss import CACHE_BATCH_SIZE, TargetLoss
from fireact.training.memory import (
    catch_out_of_memory,
    free_gpu_gb,
    is_out_of_memory,
    peak_training_gb,
    require_memory_for_training,
)
from fireact.training.recipe import ADAPTED, Recipe, learning_rate_share
from fireact.training.samples import Encoder
from fireact.training.sharding import gather_weights, is_sharded, shard_on_cpu
from fireact.training.student import load_student, make_trainable, move_to_device
from fireact.training.trackers import check_trackers, set_tensorboard_directory, to_tracker_names
from fireact.training.validation import VALIDATION_BATCH_SIZE, EpochValidation
from fireact.types import Renderer

CHECKPOINTS = "checkpoints"
OUT_OF_MEMORY_ADVICE = (
    "outside of the training steps (which name their samples): while validation was measured, or while the hidden "
    "states of the frozen blocks were cached. Set micro_batch = 1 in the recipe and run again; what was trained so far "
    "is kept. Where it is 1 already, train anew with a smaller max_length or fewer samples."
)


@dataclass(frozen=True, slots=True)
class TrainStats:
    """Statistics of a training run; ``rewritten`` chats have one sample per step, since the template rewrites turns.

    ``tokens`` counts every epoch, ``tokens_per_second`` is over training alone.
    """

    samples: int
    dropped: int
    validation_dropped: int
    rewritten: int
    max_length: int
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
    """The directory of the trained weights: of an adapter, or of a whole model."""
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
    """Train ``student`` on chats into ``out/adapter`` (or ``out/model``); resumes from the last complete checkpoint.

    ``renderer`` is the one that rendered the chats; its template and ends are used (default: ``react``, without any).
    Raises ConfigError when nothing would be trained or memory runs out, DataError when no sample is left, FireactError
    on a loss that is not finite.
    """
    check_trackers(report_to)
    require_disk(out, gigabytes=0.5)
    require_memory(gigabytes=2.0)
    with silence_libraries():
        model, tokenizer, ends = load_student(student, recipe.kind)
        encoder = Encoder(tokenizer, ends, renderer, everything=recipe.train_on == "all")
        is_recorded = renderer is not None and renderer.name == RENDERER
        context = context_length(model.config.get_text_config()) if is_recorded else None
        fitting = select_fitting(chats, validation, encoder=encoder, recipe=recipe, context=context, progress=progress)
        progress.sample(text_spans(fitting.samples[0], tokenizer))
        with catch_out_of_memory(OUT_OF_MEMORY_ADVICE):
            run = _TrainingRun(
                model, tokenizer, fitting.samples, fitting.validation, recipe=recipe, out=out, progress=progress
            )
            return run.run_training(report_to=report_to, fitting=fitting)


class _TrainingRun:
    """One training run: its model, samples, batches and progress."""

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

        from fireact.training.joined_blocks import can_join_blocks, join_blocks

        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.tokenizer, self.samples = recipe, out, tokenizer, samples
        self.rank, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.progress = progress if self.rank == 0 else SILENT
        self.lengths = [len(sample.input_ids) for sample in samples]
        self.batches = plan_batches(self.lengths, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=recipe.seed)
        self.padding_limit = choose_padding_limit(
            self.batches, self.lengths, size=recipe.micro_batch, processes=self.processes
        )
        self.model, frozen = make_trainable(model, recipe)
        self.is_sharded = is_sharded()
        if self.is_sharded:
            frozen = 0  # running blocks apart would bypass the gathering of shards, so the whole model runs
        self.is_joined = not self.is_sharded and can_join_blocks(self.model)
        self.require_memory(frozen)
        self.require_free_disk()
        if not self.is_sharded:
            move_to_device(self.model, recipe.kind)
        self.checkpoint, self.done = find_last_checkpoint(out / CHECKPOINTS)
        keep_freed_memory()
        if self.is_joined:
            join_blocks(self.model, dtype=choose_product_dtype())
        self.loss = TargetLoss(
            self.model,
            samples,
            frozen=frozen,
            cache_batch_size=recipe.micro_batch or CACHE_BATCH_SIZE,
            is_joined=self.is_joined,
        )
        self.validation = (
            EpochValidation(
                self.model,
                kept_out,
                frozen=frozen,
                batch_size=min(VALIDATION_BATCH_SIZE, recipe.micro_batch or VALIDATION_BATCH_SIZE),
                out=out,
                patience=recipe.patience,
                progress=self.progress,
                done=self.done,
                write=not self.rank,
            )
            if kept_out
            else None
        )

    def require_memory(self, frozen: int) -> None:
        """Raise ConfigError when the largest piece of a batch would not fit."""
        pieces = [piece for batch in self.batches for piece in self.pieces_of_process(batch) if piece]
        on_cpu = training_device() == "cpu"
        require_memory_for_training(
            self.model,
            self.samples,
            pieces or [(0,)],
            frozen=frozen,
            half=has_bfloat16(),
            is_joined=self.is_joined,
            processes=self.processes if self.is_sharded else 1,
            available=None if on_cpu else free_gpu_gb,
        )

    def require_free_disk(self) -> None:
        """Raise ConfigError when checkpoints and weights would not fit on the disk, beside existing ones."""
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        saved = (
            trained if self.recipe.kind in ADAPTED else sum(parameter.numel() for parameter in self.model.parameters())
        )
        needed_gb = estimate_disk_gb(saved=saved, trained=trained) - used_disk_gb(self.out)
        require_disk(self.out, gigabytes=max(0.1, needed_gb))

    def pieces_of_process(self, batch: Batch, *, rank: int | None = None) -> list[Batch]:
        """The pieces of a batch that a process (default: this one) computes."""
        process_batch = split_among_processes(batch, self.processes)[self.rank if rank is None else rank]
        return split_by_length(process_batch, self.lengths, size=self.recipe.micro_batch, limit=self.padding_limit)

    def weighted_pieces(self, batch: Batch) -> list[tuple[Batch, float]]:
        """The pieces that this process computes, each with a factor for its loss.

        Where weights are sharded, all processes must compute equally often, and their gradients are averaged. So a
        process with fewer pieces computes a sample with factor 0, and other losses have the number of processes as
        factor, which turns the average into a sum.
        """
        weighted = [(piece, float(self.processes if self.is_sharded else 1)) for piece in self.pieces_of_process(batch)]
        most_pieces = (
            max(len(self.pieces_of_process(batch, rank=rank)) for rank in range(self.processes))
            if self.is_sharded
            else 0
        )
        return weighted + [(batch[:1], 0.0)] * (most_pieces - len(weighted))

    @property
    def padding_share(self) -> float:
        """The share of padding among all tokens computed."""
        split_options = {"size": self.recipe.micro_batch, "processes": self.processes}
        return measure_padding(
            split_all_batches(self.batches, self.lengths, limit=self.padding_limit, **split_options), self.lengths
        )

    def run_training(self, *, report_to: Sequence[str], fitting: FittingSamples) -> TrainStats:
        trainer = build_trainer(self, report_to=report_to)
        if self.processes > 1:
            self.require_same_checkpoint()
        self.require_same_blocks()
        curve = (
            CurveWriter(self.out / LOG, self.batches, self.samples, self.progress, done_steps=self.done)
            if not self.rank
            else None
        )
        if curve is not None:
            trainer.add_callback(curve.build_callback())
        started = time.perf_counter()
        self.progress.start("train", total=len(self.batches), done=self.done)
        try:
            if self.validation is not None and self.validation.should_stop:  # the run was killed after its last epoch
                trainer.state.global_step = self.done
            else:
                trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        finally:
            self.progress.end()
        seconds = time.perf_counter() - started + self.loss.seconds
        self.save(weights_directory(self.out, self.recipe))
        if not self.rank and self.validation is not None:
            self.validation.restore_best_weights(weights_directory(self.out, self.recipe))
        return self.build_stats(seconds, curve, steps=trainer.state.global_step, fitting=fitting)

    def require_same_checkpoint(self) -> None:
        """Raise DataError where processes would resume from different steps, as on machines without a shared disk."""
        import torch

        extremes = torch.tensor([self.done, -self.done], device=self.loss.device)
        torch.distributed.all_reduce(extremes, op=torch.distributed.ReduceOp.MAX)
        latest, earliest = int(extremes[0]), -int(extremes[1])
        if latest != earliest:
            raise DataError(
                f"the processes find different checkpoints in {self.out}: of step {earliest} and of step {latest}. "
                "To resume a run of several machines, give all of them one directory on a shared disk."
            )

    def require_same_blocks(self) -> None:
        """Raise ConfigError where the adapter to resume has other blocks, as a run that began with another default."""
        file = self.checkpoint / "adapter_config.json" if self.checkpoint else None
        if file is None or not file.exists():
            return
        begun = json.loads(file.read_text(encoding="utf-8")).get("layers_to_transform") or ()
        if begun and sorted(begun) != sorted(self.model.peft_config["default"].layers_to_transform):
            raise ConfigError(
                f"{self.checkpoint} trains the uppermost {len(begun)} blocks, as was once the default. Go on with "
                f"'blocks = {len(begun)}' below [recipe] in {self.out / 'config.toml'}, or begin anew with --force."
            )

    def save(self, directory: Path) -> None:
        """Write the adapter, or the whole model and its tokenizer. All processes call it, and one writes."""
        weights = gather_weights(self.model, trained=self.recipe.kind in ADAPTED) if self.is_sharded else None
        if self.rank:
            return
        self.model.save_pretrained(directory, safe_serialization=True, **({"state_dict": weights} if weights else {}))
        if self.recipe.kind not in ADAPTED:
            self.tokenizer.save_pretrained(directory)

    def compute_gradients(self, batch: Batch, *, number: int, backward: Callable[[Any], None]) -> float:
        """Gradients of the mean loss over a batch, computed piece by piece; returns the loss."""
        batch_weight, total_loss = self.loss.total_weight(batch), 0.0
        for piece, factor in self.weighted_pieces(batch):
            try:
                loss = self.loss.sum_loss(piece) / batch_weight
                backward(loss * factor)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise self.out_of_memory(piece, number) from error
            total_loss += loss.item() if factor else 0.0
        if self.processes > 1:
            total_loss = self.add_up_processes(total_loss)
        if not math.isfinite(total_loss):
            raise self.bad_batch_error(batch, f"the loss is {total_loss}", number)
        if not self.are_gradients_finite():
            raise self.bad_batch_error(batch, f"the loss is {total_loss:.4g} and its gradient is no number", number)
        return total_loss

    def are_gradients_finite(self) -> bool:
        """Whether the gradients of all processes are finite."""
        import torch

        is_finite = has_finite_gradients(self.model)
        if not self.is_sharded:
            return is_finite
        all_finite = torch.tensor(float(is_finite), device=self.loss.device)
        torch.distributed.all_reduce(all_finite, op=torch.distributed.ReduceOp.MIN)
        return bool(all_finite.item())

    def add_up_processes(self, loss: float) -> float:
        """Add up the loss and the gradients of all processes; accelerate adds up sharded gradients itself."""
        import torch

        for parameter in self.model.parameters():
            if parameter.requires_grad and not self.is_sharded:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
        total_loss = torch.tensor(loss, device=self.loss.device)
        torch.distributed.all_reduce(total_loss)
        return float(total_loss.item())

    def out_of_memory(self, piece: Batch, number: int) -> ConfigError:
        longest = max(self.lengths[index] for index in piece)
        half_piece = max(1, len(piece) // 2)
        advice = (
            f"Set micro_batch = {half_piece} in the recipe and run again; what was trained so far is kept."
            if len(piece) > 1
            else f"Set a max_length below {longest}, or fewer blocks, in the recipe and train anew with another -o."
        )
        return ConfigError(
            f"memory ran out at step {number}: {len(piece)} samples of up to {longest} tokens at a time. {advice}"
        )

    def bad_batch_error(self, batch: Batch, problem: str, number: int) -> FireactError:
        """The error for a loss or gradient that is not finite."""
        return write_bad_batch(
            problem,
            step=number,
            indices=batch,
            samples=[self.samples[index] for index in batch],
            tokenizer=self.tokenizer,
            out=self.out,
            write=not self.rank,
        )

    def build_stats(
        self, seconds: float, curve: CurveWriter | None, *, steps: int, fitting: FittingSamples
    ) -> TrainStats:
        done_batches = self.batches[:steps]
        tokens = sum(self.lengths[index] for batch in self.batches[self.done : steps] for index in batch)
        validation_row = self.validation.final_row if self.validation is not None else {}
        return TrainStats(
            samples=len(self.samples),
            dropped=fitting.dropped,
            validation_dropped=fitting.validation_dropped,
            rewritten=fitting.rewritten,
            max_length=fitting.max_length,
            tokens=sum(self.lengths[index] for batch in done_batches for index in batch),
            target_tokens=sum(self.loss.count_targets(batch) for batch in done_batches),
            padding=round(self.padding_share, 4),
            steps=steps,
            trained_parameters=sum(
                parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad
            ),
            final_loss=curve.final_loss() if curve is not None else 0.0,
            validation_loss=validation_row.get("validation_loss"),
            whole_sample_accuracy=validation_row.get("whole_sample_accuracy"),
            training_seconds=round(seconds, 2),
            tokens_per_second=round(tokens / max(seconds, 1e-9), 1),
            peak_memory_gb=peak_training_gb(),
            resumed_from_step=self.done,
            device=str(self.loss.device.type),
            processes=self.processes,
        )


def build_trainer(run: _TrainingRun, *, report_to: Sequence[str] = ()) -> Any:
    """TRL's trainer; each of its examples is one planned batch, and our step replaces its own."""
    import datasets
    import torch
    import transformers
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    recipe = run.recipe
    plan_of_batches = datasets.Dataset.from_dict({"batch": [list(batch) for batch in run.batches]})
    epoch = len(run.batches) // recipe.epochs

    class PlannedSFTTrainer(SFTTrainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            if run.is_sharded and training_device() == "cpu":
                shard_on_cpu(self.accelerator)
                self.is_fsdp_enabled = True

        def get_train_dataloader(self) -> Any:
            """Every process iterates the whole plan in order; ``pieces_of_process`` selects what it computes."""
            return torch.utils.data.DataLoader(plan_of_batches, batch_size=1, collate_fn=self.data_collator)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            loss = run.compute_gradients(
                inputs["batch"], number=self.state.global_step + 1, backward=self.accelerator.backward
            )
            return torch.tensor(loss, device=run.loss.device)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            def rate_share(step: int) -> float:
                return learning_rate_share(
                    step, total=num_training_steps, warmup=recipe.warmup, schedule=recipe.schedule
                )

            optimizer = optimizer or self.optimizer
            if self.lr_scheduler is None and optimizer is not None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_share)
            return self.lr_scheduler

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            measured = run.validation.find_row(self.state.global_step) if run.validation is not None else None
            super().log({**logs, **(to_tracker_names(measured) if measured and "loss" in logs else {})}, start_time)

    class ValidationCallback(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if run.validation is not None and state.global_step % epoch == 0:
                number = state.global_step // epoch
                if run.validation.measure_epoch(step=state.global_step, epoch=number, save=run.save):
                    control.should_training_stop = True

    with set_tensorboard_directory(run.out):
        trainer = PlannedSFTTrainer(
            model=run.model,
            args=SFTConfig(**_trainer_settings(run, report_to)),
            train_dataset=plan_of_batches,
            data_collator=lambda examples: {"batch": tuple(examples[0]["batch"])},
            processing_class=run.tokenizer,
        )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(ValidationCallback())
    return trainer


def _trainer_settings(run: _TrainingRun, report_to: Sequence[str]) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "output_dir": str(run.out / CHECKPOINTS),
        "run_name": run.out.name,
        "num_train_epochs": 1,  # the plan contains every epoch, so that resuming skips the done steps
        "per_device_train_batch_size": 1,
        "learning_rate": recipe.learning_rate,
        "max_grad_norm": 1.0,
        "weight_decay": recipe.weight_decay,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not finite stops the run
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "seed": recipe.seed,
        "use_cpu": training_device() == "cpu",
        "bf16": False,  # autocast is ours
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": list(report_to) or "none",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
    }
