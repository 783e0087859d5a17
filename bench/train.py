"""Tokens a second of ``fireact train`` against TRL's defaults: same trajectories, rank, epochs, batch size and rate.

    python bench/train.py [--data MIXTURE] [--n 64] [--epochs 1] [--student NAME] [--json]

Each side runs in a process of its own, so that its peak memory is its own. ``plain`` is TRL's SFTTrainer as it comes
(LoRA on all linear layers of all blocks, its collator, all logits, its precision and gradient checkpointing), given the
same ids and labels. ``ours`` is ``fine_tune`` with the default recipe; the pass that keeps what the frozen blocks make
counts as training time. Loading the model counts for neither.

``held_out_loss`` is the same for both: float32, over all target tokens of trajectories that neither was trained on. It
says what a speed is worth: fewer blocks learn less an epoch. Run it on an idle machine; a busy one slows both unevenly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fireact.collection import CollectConfig, collect
from fireact.data import MixConfig, mix
from fireact.jsonl import read
from fireact.machine import peak_memory_gb
from fireact.models.quiet import quiet
from fireact.render.react import ReActRenderer
from fireact.render.tokens import Chat, Sample, encode
from fireact.training.recipe import Recipe
from fireact.training.student import load_student
from fireact.training.trainer import fine_tune
from fireact.types import Trajectory

GOAL = 2.5
HELD_OUT = 16
"""Trajectories, the last of the mixture, that the sides are compared on."""
SIDES = ("plain", "ours")


def main() -> None:
    options = _options()
    if options.side:
        print(json.dumps(_side(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or _made(Path(scratch), options.n)
        found = {side: _measured(side, data, options) for side in SIDES}
    found["ratio"] = round(found["ours"]["tokens_per_second"] / found["plain"]["tokens_per_second"], 2)
    print(json.dumps(found) if options.json else _table(found))
    sys.exit(found["ratio"] < GOAL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed against TRL's defaults.")
    parser.add_argument("--data", type=Path, help="a mixture: its directory or its JSONL file (default: made here)")
    parser.add_argument("--n", type=int, default=64, help="how many of its trajectories")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _made(scratch: Path, n: int) -> Path:
    """A mixture of right trajectories by the scripted expert, which errs on purpose: hence more episodes than ``n``."""
    plan = {
        "geo-hop/react": n + 2 * HELD_OUT,
        "geo-yesno/react": n // 4 + HELD_OUT,
        "geo-choice/cot": n // 4 + HELD_OUT,
    }
    collect(CollectConfig(plan=plan), scratch / "collect")
    mix(MixConfig(sources=(str(scratch / "collect"),)), scratch / "mix")
    return scratch / "mix"


def _measured(side: str, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a run of one side says of itself, from a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--data", str(data), "--n", str(options.n)]
    command += ["--epochs", str(options.epochs), "--student", options.student]
    print(f"{side} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _side(options: argparse.Namespace) -> dict[str, Any]:
    file = options.data / "trajectories.jsonl" if options.data.is_dir() else options.data
    chats = [Chat(ReActRenderer().sample(Trajectory.from_dict(row))) for row in read(file)]
    trained, held_out = chats[:-HELD_OUT][: options.n], chats[-HELD_OUT:]
    run = _plain if options.side == "plain" else _ours
    with tempfile.TemporaryDirectory() as out:
        figures = run(trained, options.student, Recipe(epochs=options.epochs), Path(out))
        figures["held_out_loss"] = _loss(options.student, Path(out) / "adapter", held_out)
    return figures


def _ours(chats: Sequence[Chat], student: str, recipe: Recipe, out: Path) -> dict[str, Any]:
    stats = asdict(fine_tune(chats, student=student, recipe=recipe, out=out))
    names = ("samples", "tokens", "steps", "trained_parameters", "tokens_per_second", "peak_memory_gb")
    return {"seconds": stats["training_seconds"], **{name: stats[name] for name in names}}


def _plain(chats: Sequence[Chat], student: str, recipe: Recipe, out: Path) -> dict[str, Any]:
    with quiet():
        model, tokenizer, ends = load_student(student)
        samples = [one for chat in chats for one in encode(chat.messages, tokenizer, ends=ends)]
        trainer = _plain_trainer(model, tokenizer, samples, recipe=recipe, out=out)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        trainer.model.save_pretrained(out / "adapter")
    tokens = recipe.epochs * sum(len(sample.input_ids) for sample in samples)
    return {
        "seconds": round(seconds, 2),
        "samples": len(samples),
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_memory_gb": peak_memory_gb(),
    }


def _plain_trainer(model: Any, tokenizer: Any, samples: Sequence[Sample], *, recipe: Recipe, out: Path) -> Any:
    import datasets
    import peft
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    datasets.disable_progress_bars()
    rows = {name: [list(getattr(sample, name)) for sample in samples] for name in ("input_ids", "labels")}
    lora = peft.LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = SFTConfig(
        output_dir=str(out),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    data = datasets.Dataset.from_dict(rows)
    return SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer, peft_config=lora)


def _loss(student: str, adapter: Path, chats: Sequence[Chat]) -> float:
    """The mean loss of a trained adapter over the target tokens of chats, in float32 and with all logits."""
    import peft
    import torch

    with quiet(), torch.no_grad():
        model, tokenizer, ends = load_student(student)
        adapted = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
        total = targets = 0.0
        for sample in (one for chat in chats for one in encode(chat.messages, tokenizer, ends=ends)):
            ids, labels = torch.tensor([sample.input_ids]), torch.tensor([sample.labels])
            total += float(adapted(input_ids=ids, labels=labels).loss) * sample.targets
            targets += sample.targets
    return round(total / targets, 4)


def _table(found: dict[str, Any]) -> str:
    names = list(found["plain"])
    lines = [f"{'':20}{'plain TRL':>12}{'ours':>12}"]
    lines += [f"{name:20}{found['plain'][name]:>12}{found['ours'][name]:>12}" for name in names]
    return "\n".join([*lines, f"{'ratio':20}{'1':>12}{found['ratio']:>12}   (goal: {GOAL})"])


if __name__ == "__main__":
    main()
