"""Fine-tunes a student with TRL and PEFT, loss on the student's own words alone, and goes on after a kill.

Faster than the defaults by doing less: only the upper blocks have adapters, so nothing is propagated back through
the lower ones; what the lower ones compute is computed once, not once an epoch (``halves``); logits are made at target
positions only; batches are of like length; and where the CPU multiplies bfloat16 natively, it does.
Checkpoints are Trainer's own. Not done here: rendering (``render``), filtering (``data``), inference (``models``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError, FireactError, missing_extra
from fireact.machine import need_disk, need_memory, peak_memory_gb, release_memory
from fireact.models.quiet import quiet
from fireact.models.weights import student_directory
from fireact.progress import SILENT, Progress
from fireact.render.tokens import IGNORED, Sample, encode
from fireact.training.batches import Batch, padding, plan
from fireact.training.checkpoints import last_whole
from fireact.training.recipe import Recipe
from fireact.training.schedule import share
from fireact.types import Message

if TYPE_CHECKING:
    from torch import Tensor

CURVE = "log.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class TrainStats:
    """What a training run did; ``tokens`` counts every epoch, ``tokens_per_second`` is over training alone."""

    samples: int
    dropped: int
    tokens: int
    target_tokens: int
    padding: float
    steps: int
    trained_parameters: int
    final_loss: float
    training_seconds: float
    tokens_per_second: float
    peak_memory_gb: float
    resumed_from_step: int


def fine_tune(
    chats: Sequence[Sequence[Message]], *, student: str, recipe: Recipe, out: Path, progress: Progress = SILENT
) -> TrainStats:
    """Train an adapter of ``student`` on chats into ``out/adapter``; goes on from the last whole checkpoint in ``out``.

    Raises ConfigError when nothing would be trained, DataError when no sample is left, FireactError on a NaN loss.
    """
    need_disk(out, gigabytes=0.5)
    need_memory(gigabytes=2.0)
    with quiet():
        model, tokenizer, ends = load_student(student)
        samples = [encode(chat, tokenizer, ends=ends) for chat in chats]
        fitting = [sample for sample in samples if len(sample.input_ids) <= recipe.max_length]
        refuse_empty(fitting, len(samples), recipe)
        if len(fitting) < len(samples):
            progress.say(
                f"train: {len(samples) - len(fitting)} samples of over {recipe.max_length} tokens are left out"
            )
        return _run(model, fitting, recipe=recipe, out=out, progress=progress, dropped=len(samples) - len(fitting))


def load_student(student: str) -> tuple[Any, Any, set[int]]:
    """The model in float32, its tokenizer, and the ids that end a turn when it generates."""
    try:
        import torch
        import transformers
        import trl  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "trl", "train") from error
    place = student_directory(student)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    ends = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    return model, tokenizer, ids


def refuse_empty(fitting: Sequence[Sample], total: int, recipe: Recipe) -> None:
    """Raise DataError when there is nothing to train on, or nothing in it that the student writes."""
    if not fitting:
        raise DataError(
            f"none of {total} samples fits into max_length {recipe.max_length} tokens. Raise it, or mix others."
        )
    if not all(sample.targets for sample in fitting):
        raise DataError(
            "a sample has no token that is trained: its trajectory has no step. Filter with --where finished."
        )


def _run(
    model: Any, samples: Sequence[Sample], *, recipe: Recipe, out: Path, progress: Progress, dropped: int
) -> TrainStats:
    import torch

    torch.manual_seed(recipe.seed)
    lengths = [len(sample.input_ids) for sample in samples]
    batches = plan(lengths, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    adapted, frozen = adapt(model, recipe)
    need_room(adapted, samples, batches, frozen=frozen)
    loss = TargetLoss(adapted, samples, frozen=frozen)
    checkpoint, done = last_whole(out / CHECKPOINTS)
    trainer = build_trainer(adapted, batches, recipe=recipe, out=out, loss=loss)
    curve = Curve(out / CURVE, batches, samples, progress, done=done)
    trainer.add_callback(curve.callback())
    started = time.perf_counter()
    progress.start("train", total=len(batches), done=done)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.end()
    seconds = time.perf_counter() - started + loss.seconds
    adapted.save_pretrained(out / "adapter", safe_serialization=True)
    left = batches[done:]
    tokens = sum(lengths[index] for batch in left for index in batch)
    return TrainStats(
        samples=len(samples),
        dropped=dropped,
        tokens=sum(lengths) * recipe.epochs,
        target_tokens=sum(sample.targets for sample in samples) * recipe.epochs,
        padding=round(padding(batches, lengths), 4),
        steps=len(batches),
        trained_parameters=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        final_loss=curve.final_loss(),
        training_seconds=round(seconds, 2),
        tokens_per_second=round(tokens / max(seconds, 1e-9), 1),
        peak_memory_gb=peak_memory_gb(),
        resumed_from_step=done,
    )


def adapt(model: Any, recipe: Recipe) -> tuple[Any, int]:
    """The model with LoRA on its upper blocks, and how many lower blocks stay as they are."""
    import peft

    blocks = model.config.get_text_config().num_hidden_layers
    if recipe.blocks > blocks:
        raise ConfigError(
            f"recipe: blocks is {recipe.blocks}, but the student has {blocks}. Lower it, or give 0 for all."
        )
    frozen = blocks - (recipe.blocks or blocks)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=_linear_names(model),
        layers_to_transform=list(range(frozen, blocks)),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config), frozen


def _linear_names(model: Any) -> list[str]:
    """The last names of the linear layers inside the blocks (q_proj, ..., down_proj)."""
    import torch

    blocks = model.get_decoder().layers
    return sorted(
        {name.rpartition(".")[2] for name, part in blocks.named_modules() if isinstance(part, torch.nn.Linear)}
    )


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; where it is emulated, it is slower than float32."""
    import torch

    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def need_room(model: Any, samples: Sequence[Sample], batches: Sequence[Batch], *, frozen: int) -> None:
    """Raise ConfigError when the largest batch would not fit into memory, so that no run dies of it hours later."""
    config = model.config.get_text_config()
    width, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    number = 2.5 if has_bfloat16() else 4.0  # bytes a kept activation, of which there are about 18 widths a block
    token = number * (config.num_hidden_layers - frozen) * (18 * width + 6 * inner)
    target = (8.0 if has_bfloat16() else 16.0) + number  # bytes a logit: it, its softmax, and the gradients of both

    def size(batch: Batch) -> float:
        tokens = len(batch) * max(len(samples[index].input_ids) for index in batch)
        targets = sum(samples[index].targets for index in batch)
        return float(token * tokens + target * config.vocab_size * targets)

    kept = 4.0 * width * sum(len(sample.input_ids) for sample in samples) if frozen else 0.0
    try:
        need_memory(gigabytes=(kept + max(map(size, batches))) / 1e9)
    except ConfigError as error:
        raise ConfigError(f"{error} Or give the recipe a smaller batch_size, max_length or blocks.") from error


class TargetLoss:
    """Mean cross-entropy over a batch's target tokens; keeps what the frozen blocks compute."""

    def __init__(self, model: Any, samples: Sequence[Sample], *, frozen: int) -> None:
        import torch

        from fireact.training.halves import Halves

        started = time.perf_counter()
        self.samples = samples
        self.bfloat16 = has_bfloat16()
        probe = torch.tensor([max((sample.input_ids for sample in samples), key=len)])
        halves = Halves(model, frozen=frozen)
        self.halves = halves if not frozen or halves.check(probe) else Halves(model, frozen=0)
        self.kept: dict[int, Tensor] = {}
        if self.halves.frozen:
            with self.autocast():
                self.kept = dict(self.halves.keep([sample.input_ids for sample in samples]))
        self.seconds = time.perf_counter() - started

    def autocast(self) -> Any:
        """bfloat16 products where the CPU has them; weights, sums and the loss stay float32."""
        import torch

        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16)

    def __call__(self, batch: Batch) -> Tensor:
        import torch
        from torch.nn import functional

        from fireact.training.halves import pad

        labels = pad([torch.tensor(self.samples[index].labels) for index in batch], value=IGNORED)[:, 1:]
        wanted = labels != IGNORED
        with self.autocast():
            if self.kept:
                final = self.halves.upper(pad([self.kept[index] for index in batch], value=0))
            else:
                ids = pad([torch.tensor(self.samples[index].input_ids) for index in batch], value=0)
                final = self.halves.body(input_ids=ids, use_cache=False).last_hidden_state
            logits = self.halves.head(final[:, :-1][wanted])
        return functional.cross_entropy(logits.float(), labels[wanted])


def build_trainer(model: Any, batches: Sequence[Batch], *, recipe: Recipe, out: Path, loss: TargetLoss) -> Any:
    """TRL's trainer, given one planned batch as one example, and our loss in place of its own."""
    import datasets
    import transformers
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    plan_of_batches = datasets.Dataset.from_dict({"batch": [list(batch) for batch in batches]})

    class Trainer(SFTTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            value = loss(inputs["batch"])
            if not math.isfinite(value.item()):
                raise FireactError(
                    f"the loss is {value.item()} at step {self.state.global_step + 1}. Lower the learning rate."
                )
            return (value, None) if return_outputs else value

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            import torch

            def height(step: int) -> float:
                return share(step, total=num_training_steps, warmup=recipe.warmup, schedule=recipe.schedule)

            optimizer = optimizer or self.optimizer
            if self.lr_scheduler is None and optimizer is not None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, height)
            return self.lr_scheduler

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            import torch

            return torch.utils.data.SequentialSampler(plan_of_batches)  # the plan is the order

    settings = SFTConfig(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=1,  # the plan holds every epoch, so that going on is skipping what is done
        per_device_train_batch_size=1,
        learning_rate=recipe.learning_rate,
        max_grad_norm=1.0,
        weight_decay=recipe.weight_decay,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not a number stops the run
        save_steps=recipe.save_every,
        save_total_limit=2,
        seed=recipe.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=plan_of_batches,
        data_collator=lambda examples: {"batch": tuple(examples[0]["batch"])},
        processing_class=_tokenizer(model),
    )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _tokenizer(model: Any) -> Any:
    """TRL insists on a tokenizer; it has nothing to tokenise here."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)


class Curve:
    """The learning curve in ``log.jsonl``: a line an optimizer step, none twice after a resume."""

    def __init__(
        self, path: Path, batches: Sequence[Batch], samples: Sequence[Sample], progress: Progress, *, done: int
    ) -> None:
        self.path, self.batches, self.samples, self.progress = path, batches, samples, progress
        self.last = time.perf_counter()
        if path.exists():
            jsonl.cut_torn_tail(path)
            jsonl.write(path, [row for row in jsonl.read(path) if row["step"] <= done])

    def callback(self) -> Any:
        import transformers

        curve = self

        class Log(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                curve.last = time.perf_counter()

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    curve.add(state.global_step, logs)

        return Log()

    def add(self, step: int, logs: dict[str, Any]) -> None:
        batch = self.batches[step - 1]
        seen = sum(map(len, self.batches[:step]))
        row = {
            "step": step,
            "epoch": round(seen / len(self.samples), 4),
            "loss": round(float(logs["loss"]), 6),
            "learning_rate": logs.get("learning_rate"),
            "gradient_norm": round(float(logs.get("grad_norm", 0.0)), 4),
            "tokens": sum(len(self.samples[index].input_ids) for index in batch),
            "target_tokens": sum(self.samples[index].targets for index in batch),
            "seconds": round(time.perf_counter() - self.last, 3),
        }
        with jsonl.Appender(self.path) as file:
            file.append(row)
        self.progress.advance(f"loss {row['loss']:.3f}")
        if step % 10 == 0:
            release_memory()  # batches differ in shape, so freed blocks seldom fit again and would pile up

    def final_loss(self) -> float:
        """The mean loss of the last tenth of the steps."""
        losses = [float(row["loss"]) for row in jsonl.read(self.path)]
        last = losses[-max(1, len(losses) // 10) :]
        return round(sum(last) / len(last), 4)
