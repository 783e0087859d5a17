"""Commands that fine-tune a student, and export what was trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fireact.cli.shared import (
    DryRun,
    Force,
    Json,
    Out,
    RendererName,
    Student,
    Tasks,
    Tools,
    print_result,
    run_verb,
)
from fireact.cli.unused import HOSTED, IMITATION, PREFERENCE, refuse_unused
from fireact.terminal.screen import STDERR
from fireact.terminal.training import print_training
from fireact.training.launch import parse_launch
from fireact.training.recipe import read_recipe


def train_command(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(help="A directory of 'fireact mix' or 'collect', or a JSONL file of trajectories.")
    ],
    student: Student = "smollm2-135m",
    recipe: Annotated[
        str, typer.Option(help="A TOML file, or default, paper-lora, paper-full, qlora; the options below change it.")
    ] = "default",
    renderer: RendererName = "react",
    tool: Tools = None,
    kind: Annotated[str | None, typer.Option(help="lora, int8-lora, qlora or full.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA; alpha becomes twice as much.")] = None,
    blocks: Annotated[
        int | None,
        typer.Option(help="Uppermost blocks that are trained; 0 is all. Default: 10, or all where there are fewer."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Highest learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Trajectories in an optimizer step.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Trajectories computed at a time; 0 is the whole step.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest sample in tokens; longer ones are left out and counted.")
    ] = None,
    validation: Annotated[float | None, typer.Option(help="Share of questions kept out to measure on.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better validation loss before it stops.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initial weights and order.")] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="trackio, mlflow, tensorboard or wandb; repeatable.")
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(
            help="A run of 'fireact train' to continue, by DPO on the successes and failures in DATA. Usable options: "
            "--beta, --lr, --epochs, --batch-size, --micro-batch, --max-length, --seed and --report-to."
        ),
    ] = None,
    hosted: Annotated[
        str | None,
        typer.Option(
            help="Train at a provider instead: openai:MODEL[@BASE_URL], together:MODEL or fireworks:MODEL. Usable "
            "options: --epochs, --seed, --price, --budget, and those of --lr, --rank and --batch-size that the "
            "provider accepts."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="With --hosted: 5usd or 200000tokens; a job that would take more is not made.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Dollars a million tokens that the provider trains on.")] = None,
    beta: Annotated[
        float | None, typer.Option(help="With --preference: how closely it keeps to the run (DPO's beta; default 0.1).")
    ] = None,
    launch: Annotated[
        str,
        typer.Option(help="Number of processes, or an accelerate configuration: ddp, fsdp, fsdp:8, or a YAML file."),
    ] = "1",
    out: Out = Path("runs/train"),
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a student on trajectories, loss on its own words only.

    Example: `fireact train runs/mix --epochs 3 -o runs/train`, or `fireact train runs/tries --preference runs/train`
    """
    if hosted is not None:
        refuse_unused(context, "--hosted", HOSTED)
        tune_settings = {
            "data": str(data), "model": hosted, "seed": seed or 0, "learning_rate": learning_rate, "rank": rank,
            "batch_size": batch_size, "price": price, "budget": budget,
            **({} if epochs is None else {"epochs": epochs}),
        }  # fmt: skip
        print_result(run_verb("tune", tune_settings, out, force=force, dry_run=dry_run), out, as_json=as_json)
        return
    if preference is not None:
        refuse_unused(context, "--preference", PREFERENCE)
        options = {
            "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch,
            "max_length": max_length, "seed": seed, "report_to": tuple(report_to) if report_to else None, "beta": beta,
        }  # fmt: skip
        dpo = {name: value for name, value in options.items() if value is not None}
        preferred = run_verb(
            "prefer", {"data": str(data), "start": preference, **dpo}, out, force=force, dry_run=dry_run
        )
        print_result(preferred, out, as_json=as_json)
        return
    refuse_unused(context, "training here", IMITATION)
    changes = {
        "kind": kind, "epochs": epochs, "rank": rank, "alpha": None if rank is None else 2 * rank, "blocks": blocks,
        "learning_rate": learning_rate, "batch_size": batch_size, "micro_batch": micro_batch, "max_length": max_length,
        "validation": validation, "patience": patience, "seed": seed,
    }  # fmt: skip
    chosen = read_recipe(recipe, **{name: value for name, value in changes.items() if value is not None})
    settings = {
        "data": str(data), "student": student, "recipe": chosen, "renderer": renderer,
        **({"tools": tuple(tool)} if tool else {}), "report_to": tuple(report_to or ()),
        **parse_launch(launch),
    }  # fmt: skip
    manifest = run_verb("train", settings, out, force=force, dry_run=dry_run)
    if manifest is not None:
        print_training(manifest, out, as_json=as_json)


def improve_command(
    run: Annotated[str, typer.Argument(help="A directory of 'fireact train' or 'fireact quickstart' to begin with.")],
    tasks: Tasks = None,
    tool: Tools = None,
    start: Annotated[
        int | None,
        typer.Option(
            help="First train question to try. Default: the first after which no question is in the run's data."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="New questions of each task, each round.")] = 100,
    tries: Annotated[int, typer.Option(help="Tries of each question.")] = 2,
    rounds: Annotated[int, typer.Option(help="Most rounds.")] = 3,
    validate: Annotated[int, typer.Option(help="Dev questions of each task that a round is measured on.")] = 60,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of the tries.")] = 0.8,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of each round's training, by name or TOML file. Default: the run's.")
    ] = None,
    out: Out = Path("runs/improve"),
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Rounds of rejection sampling: the student learns from its own successes, until a round gains nothing.

    Example: `fireact improve runs/quickstart -t geo-hop -n 100 -o runs/improve`
    """
    settings: dict[str, Any] = {
        "run": run, "start": start, "n": n, "tries": tries, "rounds": rounds, "validate": validate,
        "temperature": temperature, "recipe": None if recipe is None else read_recipe(recipe),
        **({"tasks": tuple(tasks)} if tasks else {}), **({"tools": tuple(tool)} if tool else {}),
    }  # fmt: skip
    print_result(run_verb("improve", settings, out, force=force, dry_run=dry_run), out, as_json=as_json)


def export_command(
    run: Annotated[str, typer.Argument(help="A directory of 'fireact train' or 'fireact quickstart'.")],
    to: Annotated[
        str, typer.Option(help="merged (safetensors), gguf (llama.cpp) or ollama (GGUF and Modelfile).")
    ] = "merged",
    dtype: Annotated[
        str,
        typer.Option(help="Type of the numbers: bfloat16, float16, float32, or auto: bfloat16 where the student's is."),
    ] = "auto",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Directory. Default: runs/export-FORM.")] = None,
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Export a fine-tuned student for transformers and vLLM, llama.cpp or Ollama.

    Example: `fireact export runs/quickstart --to ollama -o runs/ollama`, then
    `ollama create my-agent -f runs/ollama/Modelfile`
    """
    directory = out or Path("runs") / f"export-{to}"
    manifest = run_verb("export", {"run": run, "to": to, "dtype": dtype}, directory, force=force, dry_run=dry_run)
    print_result(manifest, directory, as_json=as_json)


def cancel_command(
    directory: Annotated[Path, typer.Argument(help="A directory of 'fireact train --hosted'.")], as_json: Json = False
) -> None:
    """Stop the job of a run at a provider; its cost so far is still charged.

    Example: `fireact cancel runs/train`
    """
    from fireact.hosted.tune import cancel_job as stop

    job = stop(directory)
    if as_json:
        print(json.dumps(asdict(job)))
    else:
        STDERR.print(f"Job {job.id}: {job.status if job.status == 'cancelled' else 'asked to stop'}.")
