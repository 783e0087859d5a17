"""Training speed and memory against plain TRL: the same weights trained on the same batches, to the same loss.

    python bench/train.py [--sides ours:10 plain:10 ...] [--n 32] [--epochs 2] [--data MIXTURE]
        [--student NAME] [--small] [--json]

A side is a way of computing and a number of trained blocks (0: all). ``plain`` is TRL's SFTTrainer as it comes: its
collator, all logits, its bfloat16 and gradient checkpointing; ``plain-fast`` is it without gradient checkpointing;
``ours`` is what ``fireact train`` does. All get the same samples, masks, batches in the same order, initial adapter,
rate and schedule, so that sides of as many blocks must have the same curve; the table says how far they are apart.

Each side is a process of its own, so that its peak memory is its own, and they take turns step by step, so that a
machine that others use slows all alike. What ``ours`` computes once beforehand counts as training time; loading and
measuring count for none. ``held-out`` is the loss over the target tokens of trajectories that none was trained on,
measured after every few steps: it says what a speed is worth, since fewer blocks learn less from a step.

``to_bound`` of a side of ours is the share of the bound of ``bound.py`` that its steps reach: the products of the very
same pieces alone, forward and for the gradient of what is trained, LoRA's and the head's included. A side measures it
after each of its steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bound import FORMS, Products, Seconds, Shape, linear_shapes
from fireact.base.jsonl import read_objects
from fireact.base.machine import training_device
from fireact.data import MixConfig, mix
from fireact.models.quiet import silence_libraries
from fireact.render.react import ReActRenderer
from fireact.render.tokens import Chat, Sample, encode_chat
from fireact.rollout.collection import CollectConfig, collect
from fireact.training.batches import plan_batches
from fireact.training.loss import TargetLoss
from fireact.training.memory import peak_training_gb
from fireact.training.recipe import Recipe, learning_rate_share
from fireact.training.student import load_student, make_trainable
from fireact.training.trainer import _TrainingRun, build_trainer
from fireact.types import Trajectory

GOAL = 2.5
"""Least ratio of tokens a second at the default recipe's blocks, both sides alike, at the same loss."""
HELD_OUT = 8
"""Trajectories, the last of the mixture, that the sides are measured on."""
SIDES = ("ours:10", "ours:15", "ours:20", "ours:0", "plain:10", "plain:0", "plain-fast:0")
WAYS = ("ours", "plain", "plain-fast")


def main() -> None:
    options = _options()
    if options.side:
        _side(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or _made(Path(scratch), options.n)
        found = _raced(data, options)
    report = {"sides": found, "pairs": _pairs(found), "reached": _reached(found)}
    print(json.dumps(report) if options.json else _table(report))
    default = "plain:10"
    sys.exit(any(pair["ratio"] < GOAL for pair in report["pairs"] if pair["plain"] == default))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed against plain TRL.")
    parser.add_argument("--sides", nargs="+", default=SIDES, help=f"WAY:BLOCKS, of the ways {', '.join(WAYS)}")
    parser.add_argument("--data", type=Path, help="a mixture: its directory or its JSONL file (default: made here)")
    parser.add_argument("--n", type=int, default=32, help="how many of its trajectories; a multiple of the batch size")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--every", type=int, default=4, help="steps between two measures of the held-out loss")
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--small", action="store_true", help="ours alone, with 10 and all blocks, 4 steps: minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:
        options.sides, options.n, options.epochs = ("ours:10", "ours:0"), 8, 2
    return options


def _made(scratch: Path, n: int) -> Path:
    """A mixture of right trajectories by the scripted expert, which errs on purpose: hence more episodes than ``n``."""
    episodes = {
        "geo-hop/react": n + 2 * HELD_OUT,
        "geo-yesno/react": n // 4 + HELD_OUT,
        "geo-choice/cot": n // 4 + HELD_OUT,
    }
    collect(CollectConfig(plan=episodes), scratch / "collect")
    mix(MixConfig(sources=(str(scratch / "collect"),)), scratch / "mix")
    return scratch / "mix"


# --- the race, in this process ---


def _raced(data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What each side says of itself, step by step in turns."""
    runners, found = {}, {}
    for side in options.sides:  # one after the other: what ours computes beforehand is timed
        runners[side] = _started(side, data, options)
        found[side] = _answer(runners[side]) | {"curve": [], "held_out": []}
        found[side]["beforehand"] = round(found[side]["seconds"], 1)
    for step in range(1, found[options.sides[0]]["steps"] + 1):
        order = list(options.sides)[:: 1 if step % 2 else -1]
        for side in order:
            print(f"step {step}, {side}", end="\r", file=sys.stderr, flush=True)
            runners[side].stdin.write("go\n")
            runners[side].stdin.flush()
            row = _answer(runners[side])
            found[side]["seconds"] += row["seconds"]
            found[side]["curve"].append(row["loss"])
            if "held_out" in row:
                found[side]["held_out"].append([step, round(found[side]["seconds"], 1), row["held_out"]])
    for side, runner in runners.items():
        found[side] |= _answer(runner)
        found[side]["tokens_per_second"] = round(found[side]["tokens"] / found[side]["seconds"], 1)
        found[side]["seconds"] = round(found[side]["seconds"], 1)
        runner.wait()
    return found


def _started(side: str, data: Path, options: argparse.Namespace) -> Any:
    command = [sys.executable, __file__, "--side", side, "--data", str(data), "--n", str(options.n)]
    command += ["--epochs", str(options.epochs), "--student", options.student, "--every", str(options.every)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(runner: Any) -> dict[str, Any]:
    line = runner.stdout.readline()
    if not line:
        raise SystemExit(f"a side ended with status {runner.wait()}; what it said is above.")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _pairs(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Sides of as many blocks: how much faster ours is, and how far the curves are apart."""
    made = []
    for plain in (side for side in found if not side.startswith("ours")):
        ours = f"ours:{plain.partition(':')[2]}"
        if ours in found:
            mine, theirs = found[ours], found[plain]
            apart = max(abs(a - b) / b for a, b in zip(mine["curve"], theirs["curve"], strict=True))
            last = abs(mine["held_out"][-1][2] - theirs["held_out"][-1][2]) / theirs["held_out"][-1][2]
            made.append(
                {
                    "ours": ours,
                    "plain": plain,
                    "ratio": round(mine["tokens_per_second"] / theirs["tokens_per_second"], 2),
                    "memory_ratio": round(mine["peak_memory_gb"] / theirs["peak_memory_gb"], 2),
                    "curves_apart": round(apart, 4),
                    "held_out_apart": round(last, 4),
                }
            )
    return made


def _reached(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The first time at which each side had the held-out loss that each other ended with."""
    rows = []
    for goal in found:
        loss = found[goal]["held_out"][-1][2]
        times = {side: next((at for _, at, one in found[side]["held_out"] if one <= loss), None) for side in found}
        rows.append({"goal": goal, "loss": loss, "seconds": times})
    return rows


# --- one side, in a process of its own ---


def _side(options: argparse.Namespace) -> None:
    way, _, blocks = options.side.partition(":")
    file = options.data / "trajectories.jsonl" if options.data.is_dir() else options.data
    chats = [Chat(ReActRenderer().sample(Trajectory.from_dict(row))) for row in read_objects(file)]
    recipe = replace(Recipe(), blocks=int(blocks), epochs=options.epochs)
    with silence_libraries(), tempfile.TemporaryDirectory() as out:
        model, tokenizer, ends = load_student(options.student)
        kept_out, samples = (
            [one for chat in part for one in encode_chat(chat.messages, tokenizer, ends=ends)]
            for part in (chats[-HELD_OUT:], chats[:-HELD_OUT])
        )
        samples = samples[: options.n - options.n % recipe.batch_size]
        run = _ours if way == "ours" else _plain
        trainer, before = run(model, tokenizer, samples, recipe=recipe, out=Path(out), checkpointing=way == "plain")
        bound = _Bound(run_of_ours, options.student) if (run_of_ours := getattr(trainer, "run_of_ours", None)) else None
        turns = _Turns(trainer.model, kept_out, every=options.every, bound=bound)
        trainer.add_callback(turns.callback())
        tokens = recipe.epochs * sum(len(sample.input_ids) for sample in samples)
        steps = recipe.epochs * (len(samples) // recipe.batch_size)
        _say(steps=steps, seconds=before, tokens=tokens, samples=len(samples))
        trainer.train()
        trained = sum(one.numel() for one in trainer.model.parameters() if one.requires_grad)
        _say(peak_memory_gb=turns.peak, trained_parameters=trained, **turns.compare())


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class _Bound:
    """The products of a step of ours alone, piece by piece; packed, in the type that it multiplies in."""

    def __init__(self, run: _TrainingRun, student: str) -> None:
        form = next(form for form in FORMS if form.packed and form.dtype == run.loss.product_dtype)
        blocks = None if not run.loss.frozen_blocks.frozen else run.recipe.blocks
        linears, rank = linear_shapes(student, head=False, blocks=blocks), run.recipe.rank
        head = linear_shapes(student)[-1]
        lora: list[Shape] = [shape for outputs, inputs in linears for shape in ((rank, inputs), (outputs, rank))]
        self.run = run
        self.forward = Products([*linears, *lora], form)
        self.backward = Products([(inputs, outputs) for outputs, inputs in [*linears, *lora]], form)
        self.head = Products([head, (head[1], head[0])], form)

    def lap(self, step: int) -> tuple[float, float]:
        """Wall and processor seconds of the products of one step; LoRA's own gradients take as long as its forward."""
        laps = []
        for piece in self.run.pieces_of_process(self.run.batches[step]):
            rows = len(piece) * max(self.run.lengths[index] for index in piece)
            laps += [self.forward.lap(rows), self.backward.lap(rows)]
            laps.append(self.head.lap(sum(self.run.samples[index].targets for index in piece)))
        return sum(wall for wall, _ in laps), sum(processor for _, processor in laps)


class _Turns:
    """Waits for its turn before a step, and says afterwards how long it took and what came of it."""

    def __init__(self, model: Any, kept_out: Sequence[Sample], *, every: int, bound: _Bound | None) -> None:
        self.model, self.every, self.peak, self.bound = model, every, 0.0, bound
        self.laps: list[tuple[tuple[float, float], tuple[float, float]]] = []
        self.loss = TargetLoss(model, kept_out, frozen=0)

    def callback(self) -> Any:
        import transformers

        turns = self

        class Turn(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                sys.stdin.readline()
                turns.began, turns.processor = time.perf_counter(), time.process_time()

            def on_step_end(self, *args: Any, **_: Any) -> None:
                turns.seconds = time.perf_counter() - turns.began
                if turns.bound is not None:
                    lap = (turns.seconds, time.process_time() - turns.processor)
                    turns.laps.append((lap, turns.bound.lap(args[1].global_step - 1)))

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    row = {"seconds": turns.seconds, "loss": float(logs["loss"])}
                    turns.peak = peak_training_gb()
                    if state.global_step % turns.every == 0 or state.global_step == state.max_steps:
                        row["held_out"] = turns.held_out()
                    _say(**row)

        return Turn()

    def compare(self) -> dict[str, Any]:
        """``to_bound`` over all steps but the first, which packs weights."""
        if len(self.laps) < 2:
            return {}
        steps, bounds = (
            Seconds(*(sum(column) for column in zip(*side, strict=True))) for side in zip(*self.laps[1:], strict=True)
        )
        return {"to_bound": bounds.share_of(steps)}

    def held_out(self) -> float:
        self.model.eval()
        total = sum(self.loss.measure_batch((index,))[0] for index in range(len(self.loss.samples)))
        self.model.train()
        return round(total / sum(sample.targets for sample in self.loss.samples), 4)


def _ours(model: Any, tokenizer: Any, samples: Sequence[Sample], *, recipe: Recipe, out: Path, **_: Any) -> Any:
    from fireact.base.progress import SILENT

    run = _TrainingRun(
        model, tokenizer, samples, [], recipe=replace(recipe, save_every=10**6), out=out, progress=SILENT
    )
    trainer = build_trainer(run)
    trainer.run_of_ours = run
    return trainer, run.loss.seconds


def _plain(
    model: Any, tokenizer: Any, samples: Sequence[Sample], *, recipe: Recipe, out: Path, checkpointing: bool
) -> Any:
    """TRL's trainer, given the very batches of ours one after the other, and our schedule."""
    import datasets
    import torch
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    datasets.disable_progress_bars()
    lengths = [len(sample.input_ids) for sample in samples]
    batches = plan_batches(lengths, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    adapted, _ = make_trainable(model, recipe)
    row = [samples[index] for batch in batches for index in batch]
    data = datasets.Dataset.from_dict(
        {name: [list(getattr(sample, name)) for sample in row] for name in ("input_ids", "labels")}
    )

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            def height(step: int) -> float:
                return learning_rate_share(
                    step, total=num_training_steps, warmup=recipe.warmup, schedule=recipe.schedule
                )

            if self.lr_scheduler is None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, height)
            return self.lr_scheduler

    settings = SFTConfig(
        output_dir=str(out),
        num_train_epochs=1,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        max_length=None,
        use_cpu=training_device() == "cpu",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        **({} if checkpointing else {"gradient_checkpointing": False}),
    )
    trainer = Trainer(model=adapted, args=settings, train_dataset=data, processing_class=tokenizer)
    _without_printing(trainer)
    return trainer, 0.0


def _without_printing(trainer: Any) -> None:
    import transformers

    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)


# --- the table ---


def _table(report: dict[str, Any]) -> str:
    names = ("samples", "tokens", "trained_parameters", "beforehand", "seconds", "tokens_per_second", "peak_memory_gb")
    lines = [f"{'side':14}" + "".join(f"{name:>20}" for name in (*names, "first loss", "last loss", "held-out"))]
    for side, facts in report["sides"].items():
        ends = (round(facts["curve"][0], 4), round(facts["curve"][-1], 4), facts["held_out"][-1][2])
        lines.append(f"{side:14}" + "".join(f"{value:>20}" for value in (*(facts[name] for name in names), *ends)))
    for side, facts in report["sides"].items():
        if "to_bound" in facts:
            shares = ", ".join(f"{share:.2f} in {time} time" for time, share in facts["to_bound"].items())
            lines.append(f"{side} reaches of the bound: {shares}")
    for pair in report["pairs"]:
        lines.append(
            f"{pair['ours']} against {pair['plain']}: {pair['ratio']:.2f}x tokens/s, "
            f"{pair['memory_ratio']:.2f}x memory; "
            f"training losses at most {pair['curves_apart']:.1%} apart, held-out {pair['held_out_apart']:.1%}"
        )
    for row in report["reached"]:
        times = ", ".join(f"{side} {'never' if at is None else f'{at:.0f} s'}" for side, at in row["seconds"].items())
        lines.append(f"held-out {row['loss']:.4f}, where {row['goal']} ended: {times}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
