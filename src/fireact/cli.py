"""The command line: options become settings, settings go to a verb, errors become one line.

Standard output carries the result (with ``--json`` one JSON object), standard error everything else. Exit 0 done,
1 failed, 2 usage. Nothing is decided here that a Python user of the verbs would miss.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from fireact import options, terminal, verbs
from fireact.errors import ConfigError, DataError, FireactError, unknown
from fireact.models.limits import Endpoint
from fireact.progress import SILENT
from fireact.store import plain, read_manifest
from fireact.training.launch import parse
from fireact.training.recipe import read_recipe
from fireact.types import answer_of

app = typer.Typer(
    name="fireact",
    help="Make language agents by fine-tuning: collect a teacher's trajectories, train a small student, measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Out = Annotated[Path, typer.Option("-o", "--out", help="Run directory to write.")]
Force = Annotated[bool, typer.Option("--force", help="Delete what is in the run directory and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the resolved settings and counts; do nothing.")]
TASK = "NAME, NAME:FOLDER, FILE:QUESTION,ANSWER or module:attribute"
Tasks = Annotated[list[str] | None, typer.Option("--task", "-t", help=f"Task: {TASK}; repeatable.")]
Tools = Annotated[list[str] | None, typer.Option("--tool", help="Tool, by name or module:attribute; repeatable.")]
AgentName = Annotated[str, typer.Option("--agent", "-a", help="A directory of 'fireact train', or a model.")]
LimitsOf = Annotated[str, typer.Option("--task", "-t", help="Whose limits, and examples where the agent needs some.")]
Repairs = Annotated[int, typer.Option(help="How often a completion without an action is asked for again; 0 is never.")]
Native = Annotated[bool, typer.Option("--native", help="Native tool calls instead of actions in text.")]
Calls = Annotated[
    str, typer.Option(help="record, replay or off: keep LM and tool calls, answer from them alone, or neither.")
]
Cache = Annotated[Path | None, typer.Option(help="File of kept calls. Default: calls.sqlite in the run directory.")]
BudgetOf = Annotated[
    str | None, typer.Option("--budget", help="5usd, 200000tokens or 1000calls: the run stops before it is passed.")
]
Rpm = Annotated[int, typer.Option(help="Requests a minute at a hosted model; 0 is no limit.")]
Tpm = Annotated[int, typer.Option(help="Tokens a minute at a hosted model; 0 is no limit.")]
Timeout = Annotated[float, typer.Option(help="Seconds that a request to a hosted model may take.")]
Prices = Annotated[
    Path | None, typer.Option(help="TOML file with prices of your own. Default: FIREACT_PRICES, then genai-prices.")
]
RendererName = Annotated[
    str, typer.Option("--renderer", help="react, tool_calls (native, by the student's chat template) or alpaca.")
]
Order = Annotated[
    str, typer.Option(help="file, or paper: shuffled as the released code does, so that -n 500 is the paper's 500.")
]
ENGINES = ("transformers", "vllm")
Student = Annotated[str, typer.Option("--student", help="smollm2-135m, a hub id, or a directory with a model.")]


def main() -> None:
    """The entry point ``fireact``."""
    try:
        app(standalone_mode=True)
    except (ConfigError, DataError) as error:
        terminal.complain(str(error))
        sys.exit(2)
    except FireactError as error:
        terminal.complain(str(error))
        sys.exit(1)


@app.command()
def quickstart(
    out: Out = Path("runs/quickstart"),
    student: Student = "smollm2-135m",
    fast: Annotated[bool, typer.Option("--fast", help="A real but small run: about a minute.")] = False,
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Everything, from nothing to a fine-tuned, measured agent.

    Example: `fireact quickstart`, then `fireact ask "QUESTION" --agent runs/quickstart`
    """
    settings = {"student": student, "fast": fast}
    manifest = _run("quickstart", settings, out, force=force, dry_run=dry_run)
    if manifest is not None:
        terminal.print_report(out, as_json=as_json)


@app.command()
def collect(
    tasks: Tasks = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="io, cot, react, reflexion or module:attribute; repeatable."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Questions of each task, for each method.")] = None,
    teacher: Annotated[
        str,
        typer.Option(
            help="openai:MODEL[@BASE_URL], scripted:expert, hf:NAME, replay:DIR, a run directory or module:attribute."
        ),
    ] = "scripted:expert",
    tool: Tools = None,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "train",
    order: Order = "file",
    start: Annotated[int, typer.Option(help="The first question of the split that is taken.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of the teacher; 0 is greedy.")] = 0.0,
    repairs: Repairs = 5,
    native: Native = False,
    calls: Calls = "record",
    cache: Cache = None,
    budget: BudgetOf = None,
    rpm: Rpm = 0,
    tpm: Tpm = 0,
    timeout: Timeout = 120.0,
    prices: Prices = None,
    workers: Annotated[int, typer.Option(help="Episodes at a time.")] = 16,
    out: Out = Path("runs/collect"),
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Collect a teacher's trajectories; every episode is kept, failed ones too.

    Example: `fireact collect -t geo-hop -m react -m reflexion -n 50 -o runs/collect`
    """
    settings: dict[str, Any] = {
        "teacher": teacher, "split": split, "order": order, "start": start, "seed": seed, "temperature": temperature, "workers": workers,
        "repairs": repairs, "native": native, "calls": calls, "cache": None if cache is None else str(cache),
        "budget": budget, "endpoint": Endpoint(rpm, tpm, timeout, None if prices is None else str(prices.absolute())),
        **({"tools": tuple(tool)} if tool else {}),
    }  # fmt: skip
    if tasks or method or n is not None:
        if not tasks:
            raise ConfigError("--method and -n need --task. Leave all three out for the default plan.")
        settings["plan"] = {f"{task}/{name}": 20 if n is None else n for task in tasks for name in method or ["react"]}
    _print(_run("collect", settings, out, force=force, dry_run=dry_run), out, as_json=as_json)


@app.command()
def record(
    upstream: Annotated[
        str, typer.Option("--upstream", "-u", help="Base URL of the endpoint that the agent uses now.")
    ],
    task: Annotated[str, typer.Option("--task", "-t", help="Name of the task in the trajectories.")] = "recorded",
    finish: Annotated[
        list[str] | None,
        typer.Option(help="Tool by which the agent gives its answer; repeatable. Default: final_answer, finish, ..."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback others can use it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8100,
    idle: Annotated[float, typer.Option(help="Seconds without a call after which an episode is written.")] = 30.0,
    timeout: Annotated[float, typer.Option(help="Seconds that the endpoint may send nothing.")] = 600.0,
    concurrency: Annotated[int, typer.Option(help="Calls under way at a time; more wait their turn.")] = 256,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = 64_000_000,
    prices: Prices = None,
    out: Out = Path("runs/record"),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Record an agent that exists already: point its base URL here; its calls become trajectories until Ctrl-C.

    Example: `fireact record --upstream https://api.openai.com/v1 -o runs/mine`, then base_url="http://127.0.0.1:8100/v1",
    or "http://127.0.0.1:8100/e/ID/v1" with an ID for each episode
    """
    from fireact.recording.run import RecordConfig, recorder

    config = RecordConfig(
        upstream=upstream, task=task, host=host, port=port, idle=idle, timeout=timeout, concurrency=concurrency,
        max_body=max_body, prices=None if prices is None else str(prices), **({"finish": tuple(finish)} if finish else {}),
    )  # fmt: skip
    with _stoppable(out):
        with recorder(config, out, force=force, progress=terminal.Terminal()) as address:
            terminal.NOTES.print(
                f"Recording at {address}/v1, or {address}/e/ID/v1 for the episode ID (Ctrl-C ends it)."
            )
            terminal.wait_for_the_end()
        _print(read_manifest(out), out, as_json=as_json)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="A directory of record or collect, or a JSONL file of trajectories.")],
    by: Annotated[
        str | None,
        typer.Option("--with", help="module:function of a trajectory; returns a number from 0 to 1, or a dict."),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            help="JSONL, CSV or Parquet file with answer, and question or id: FILE[:QUESTION,ANSWER[,id=COLUMN]]."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Whose scoring --answers takes. Default: EM and F1 as free text.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Attach scores to recorded trajectories, in place: by a function of yours, or by a file of right answers.

    Example: `fireact score runs/mine --answers answers.csv`, or `fireact score runs/mine --with my_scores:correct`
    """
    from fireact.recording.scores import score as attach

    terminal.print_grades(asdict(attach(run, by=by, answers=answers, task=task)), run, as_json=as_json)


@app.command()
def mix(
    sources: Annotated[list[str], typer.Argument(help="Run directories, or files in any format that 'convert' reads.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A recipe: the path of a TOML file, or a name such as paper-hotpotqa."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            help="Filter: correct, steps<=6, method in {react,cot}, not no_repeats; repeatable. Default: correct.",
        ),
    ] = None,
    best_of: Annotated[
        int | None, typer.Option(help="The best N of each question: right, short, not repaired.")
    ] = None,
    take: Annotated[
        list[str] | None, typer.Option("--take", help="TASK/METHOD=N; repeatable. Default: all that pass.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="TASK/METHOD=PROPORTION, in place of --take; repeatable.")
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="Take as many of each task, method or difficulty, in place of --take.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many in all; --take then gives proportions.")] = None,
    holdout: Annotated[
        float | None, typer.Option(help="Share of each task's questions that goes to holdout.jsonl instead.")
    ] = None,
    weigh_bad: Annotated[
        float | None,
        typer.Option(help="How much disturbed, faulty and repeated steps are learned; 0: they are context only."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling and order. Default: 0.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines that cannot be read, and say so.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one for small data, else one a core.")] = 0,
    out: Out = Path("runs/mix"),
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Filter trajectories and mix them into training data, by options or by a recipe; options go before the recipe.

    Example: `fireact mix runs/collect -w correct -w "steps<=5" --take geo-hop/react=60`
    """
    from fireact.data import read_mixture

    given: dict[str, Any] = {
        "where": tuple(where) if where else None, "best_of": best_of, "balance": balance, "n": n, "holdout": holdout,
        "weigh_bad": weigh_bad, "seed": seed, "skip_bad": skip_bad or None, "workers": workers or None,
        "take": {name: int(value) for name, value in map(_pair, take)} if take else None,
        "weights": dict(_share(item) for item in weight) if weight else None,
    }  # fmt: skip
    settings = {
        **(read_mixture(recipe) if recipe else {}),
        **{key: one for key, one in given.items() if one is not None},
    }
    _print(
        _run("mix", {"sources": tuple(sources), **settings}, out, force=force, dry_run=dry_run), out, as_json=as_json
    )


def _pair(item: str) -> tuple[str, int]:
    name, separator, count = item.rpartition("=")
    if not separator or not count.isdigit() or "/" not in name:
        raise ConfigError(f"--take {item!r} is not of the form TASK/METHOD=N, such as geo-hop/react=60.")
    return name, int(count)


def _share(item: str) -> tuple[str, float]:
    name, separator, share = item.rpartition("=")
    try:
        return (name, float(share)) if separator and "/" in name else (name, float("none"))
    except ValueError:
        raise ConfigError(
            f"--weight {item!r} is not of the form TASK/METHOD=NUMBER, such as geo-hop/react=0.5."
        ) from None


@app.command()
def doctor(
    data: Annotated[
        str,
        typer.Argument(help="Training data in any format that 'convert' reads; with --serve a directory of 'train'."),
    ],
    student: Annotated[
        str,
        typer.Option(
            "--student", help="Whose tokens are counted: smollm2-135m, a hub id, a directory. Default: estimated."
        ),
    ] = "",
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Task, TASK:SPLIT or file whose questions must not be in the data; repeatable. Default: held-out splits."
        ),
    ] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Name of a tool that exists; repeatable.")] = None,
    max_length: Annotated[int, typer.Option(help="Longest sample in tokens.")] = 1024,
    max_observation: Annotated[int, typer.Option(help="Longest observation in characters.")] = 2000,
    renderer: RendererName = "react",
    fix: Annotated[bool, typer.Option("--fix", help="Write a repaired copy with a log of every change.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Check instead that a served student is asked the tokens it was trained on.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one for small data, else one a core.")] = 0,
    out: Out = Path("runs/doctor"),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what is in a set of trajectories and what is wrong with it, with line numbers. Exit 1 when there are errors.

    Example: `fireact doctor runs/mix --against geo-compose`, then `fireact doctor runs/mix --fix -o runs/fixed`
    """
    if serve:
        from fireact.serving.conformance import conformance

        held = conformance(data)
        print(json.dumps(asdict(held), ensure_ascii=False)) if as_json else terminal.print_conformance(held)
        raise typer.Exit(0 if held.holds else 1)
    from fireact.data.doctor import DoctorConfig, diagnose

    settings: dict[str, Any] = {
        "data": data, "student": student, "against": tuple(against or ()), "tools": tuple(tool or ()),
        "max_length": max_length, "max_observation": max_observation, "renderer": renderer, "workers": workers,
    }  # fmt: skip
    if fix:
        _print(_run("doctor", settings, out, force=force, dry_run=False), out, as_json=as_json)
        return
    diagnosis = diagnose(DoctorConfig(**settings), progress=terminal.Terminal())
    terminal.print_diagnosis(diagnosis, as_json=as_json)
    if not diagnosis.sound:
        raise typer.Exit(1)


@app.command()
def train(
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
    micro_batch: Annotated[int | None, typer.Option(help="Of these, computed at a time; 0 is all.")] = None,
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
            help="A run of 'fireact train' to go on from, by DPO on successes and failures in DATA. --beta, --lr, --epochs, --batch-size, --micro-batch, --max-length, --seed and --report-to count."
        ),
    ] = None,
    hosted: Annotated[
        str | None,
        typer.Option(
            help="Train at a provider instead: openai:MODEL[@BASE_URL], together:MODEL or fireworks:MODEL. --epochs, --seed, --price and --budget count."
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
        options.refuse_unused(context, "--hosted", options.HOSTED)
        chosen_epochs = {} if epochs is None else {"epochs": epochs}
        order = {
            "data": str(data), "model": hosted, "seed": seed or 0, "price": price, "budget": budget, **chosen_epochs,
        }  # fmt: skip
        _print(_run("tune", order, out, force=force, dry_run=dry_run), out, as_json=as_json)
        return
    if preference is not None:
        options.refuse_unused(context, "--preference", options.PREFERENCE)
        given = {
            "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch,
            "max_length": max_length, "seed": seed, "report_to": tuple(report_to) if report_to else None, "beta": beta,
        }  # fmt: skip
        dpo = {name: value for name, value in given.items() if value is not None}
        preferred = _run("prefer", {"data": str(data), "start": preference, **dpo}, out, force=force, dry_run=dry_run)
        _print(preferred, out, as_json=as_json)
        return
    options.refuse_unused(context, "training here", options.IMITATION)
    changes = {
        "kind": kind, "epochs": epochs, "rank": rank, "alpha": None if rank is None else 2 * rank, "blocks": blocks,
        "learning_rate": learning_rate, "batch_size": batch_size, "micro_batch": micro_batch, "max_length": max_length,
        "validation": validation, "patience": patience, "seed": seed,
    }  # fmt: skip
    chosen = read_recipe(recipe, **{name: value for name, value in changes.items() if value is not None})
    settings = {
        "data": str(data), "student": student, "recipe": chosen, "renderer": renderer,
        **({"tools": tuple(tool)} if tool else {}), "report_to": tuple(report_to or ()),
        **parse(launch),
    }  # fmt: skip
    manifest = _run("train", settings, out, force=force, dry_run=dry_run)
    if manifest is not None:
        terminal.print_training(manifest, out, as_json=as_json)


@app.command()
def improve(
    run: Annotated[str, typer.Argument(help="A directory of 'fireact train' or 'fireact quickstart' to begin with.")],
    tasks: Tasks = None,
    tool: Tools = None,
    start: Annotated[
        int | None,
        typer.Option(
            help="First train question that is tried. Default: the first from which on none is in the run's data."
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
    """Rounds of rejection sampling: the student learns from its own successes, until a round brings nothing.

    Example: `fireact improve runs/quickstart -t geo-hop -n 100 -o runs/improve`
    """
    settings: dict[str, Any] = {
        "run": run, "start": start, "n": n, "tries": tries, "rounds": rounds, "validate": validate,
        "temperature": temperature, "recipe": None if recipe is None else read_recipe(recipe),
        **({"tasks": tuple(tasks)} if tasks else {}), **({"tools": tuple(tool)} if tool else {}),
    }  # fmt: skip
    _print(_run("improve", settings, out, force=force, dry_run=dry_run), out, as_json=as_json)


@app.command("eval")
def evaluate(
    agent: Annotated[
        str,
        typer.Argument(
            help="A directory of 'fireact train', smollm2-135m, a hub id, openai:MODEL[@BASE_URL], replay:DIR, scripted:expert."
        ),
    ],
    tasks: Tasks = None,
    n: Annotated[int, typer.Option("-n", help="Questions of each task.")] = 100,
    method: Annotated[
        str, typer.Option("--method", "-m", help="io, cot, react, reflexion or module:attribute.")
    ] = "react",
    examples: Annotated[
        int | None, typer.Option(help="Examples in the prompt. Default: 3; 0 for a fine-tuned agent.")
    ] = None,
    tool: Tools = None,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "test",
    order: Order = "file",
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.0,
    repairs: Repairs = 0,
    native: Native = False,
    calls: Calls = "record",
    cache: Cache = None,
    budget: BudgetOf = None,
    rpm: Rpm = 0,
    tpm: Tpm = 0,
    timeout: Timeout = 120.0,
    prices: Prices = None,
    workers: Annotated[
        int, typer.Option(help="Episodes at a time; they share the batches of an in-process model.")
    ] = 16,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run directory. Default: runs/eval-AGENT.")] = None,
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Measure an agent on held-out questions: scores with intervals, by type of question, what they took, why they failed.

    Example: `fireact eval runs/quickstart/train -t geo-yesno -t geo-choice -n 50 --json`
    """
    settings: dict[str, Any] = {
        "agent": agent, "n": n, "method": method, "examples": examples, "split": split, "order": order, "seed": seed,
        "temperature": temperature, "workers": workers,
        "repairs": repairs, "native": native, "calls": calls, "cache": None if cache is None else str(cache),
        "budget": budget, "endpoint": Endpoint(rpm, tpm, timeout, None if prices is None else str(prices.absolute())),
        **({"tasks": tuple(tasks)} if tasks else {}), **({"tools": tuple(tool)} if tool else {}),
    }  # fmt: skip
    directory = out or Path("runs") / f"eval-{agent.strip('/').replace('/', '-').replace(':', '-')}"
    manifest = _run("eval", settings, directory, force=force, dry_run=dry_run)
    if manifest is not None:
        terminal.print_evaluation(manifest, directory, as_json=as_json)


@app.command()
def compare(
    before: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="A directory of 'fireact eval', or a file of scored episodes.")
    ],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, on the same questions.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="What may differ on purpose: noise, tools, limits, split, questions or seed; repeatable. Default: nothing."
        ),
    ] = None,
    flips: Annotated[int, typer.Option(help="Questions to show that one run has right and the other wrong.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare two runs question by question: what changed and how certain that is, what it took, which questions flipped.

    Runs compare only when task, split, questions, tools, noise, limits and seed agree; otherwise it says what differs.

    Example: `fireact compare runs/eval-base runs/eval-fireact --flips 10`, or with `--allow noise` for a noisy run
    """
    from fireact.evaluation.comparison import compare_runs, incomparable, read_measured

    one, other = read_measured(before), read_measured(after)
    wrong = incomparable(one, other, allow or ())
    if wrong:
        terminal.print_differences(wrong, one.name, other.name, as_json=as_json)
        raise typer.Exit(1)
    terminal.print_comparison(compare_runs(one, other, allow=allow or ()), flips=flips, as_json=as_json)


@app.command()
def study(
    file: Annotated[str, typer.Argument(help="A study that ships (see --list), or the path of a TOML file.")] = "",
    size: Annotated[
        str, typer.Option(help="small, for two cores; paper, for GPUs and hosted models; or what FILE has.")
    ] = "small",
    given: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE for {NAME} in the file, such as data=DIR; repeatable.")
    ] = None,
    stages: Annotated[
        Path | None,
        typer.Option(help="Where stages lie, so that several studies share them. Default: the -o directory."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What all stages together may take of hosted models, jobs and searches (at the file's price): 50usd."
        ),
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="List the studies that ship.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Run directory. Default: runs/study-NAME-SIZE.")
    ] = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run a matrix of agents, what is missing of it, and compare them with each other and with the paper's figures.

    Example: `fireact study scaling --dry-run`, then `fireact study scaling`, or `fireact study mine.toml -o runs/mine`
    """
    from fireact.study.file import read_study, shipped
    from fireact.study.run import StudyConfig, plan

    if names or not file:
        found = {name: read_study(name).asks for name in shipped()}
        print(json.dumps(found, ensure_ascii=False)) if as_json else terminal.print_studies(found)
        return
    values = {}
    for item in given or ():
        name, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r} is not of the form NAME=VALUE, such as data=DIR.")
        values[name] = str(Path(value).absolute()) if Path(value).exists() else value
    directory = out or Path("runs") / f"study-{Path(file).stem}-{size}"
    settings: dict[str, Any] = {
        "study": file,
        "size": size,
        "values": values,
        "stages": None if stages is None else str(stages),
        "budget": budget,
    }
    if dry_run:
        expected = plan(StudyConfig(**settings), directory)
        print(json.dumps(expected, ensure_ascii=False)) if as_json else terminal.print_plan(expected, directory)
        return
    manifest = _run("study", settings, directory, force=False, dry_run=False)
    if manifest is not None:
        terminal.print_study(manifest, directory, as_json=as_json)


@app.command()
def rescore(
    run: Annotated[
        Path, typer.Argument(help="A directory of collect or eval, a JSONL file, or a released evaluation (.json).")
    ],
    task: Annotated[str, typer.Option("--task", "-t", help=f"Whose rule scores: {TASK}.")],
    n: Annotated[
        int | None,
        typer.Option(
            "-n", help="Questions that were asked; those without an episode count as wrong. Default: episodes."
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model that judges the answers too: one call for each, counted and shown.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file for the episodes, scored anew.")] = None,
    as_json: Json = False,
) -> None:
    """Score a stored run again, and list each episode whose own score differs.

    Example: `fireact rescore runs/eval --task hotpotqa:data/hotpotqa -n 500 --json`
    """
    from fireact import jsonl
    from fireact.agents import load_model, load_task
    from fireact.evaluation.rescore import read_run
    from fireact.evaluation.rescore import rescore as score_again
    from fireact.tasks.judge import Judge

    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already. Choose another -o.")
    chosen, referee = load_task(task), Judge(load_model(judge).lm) if judge else None
    progress = terminal.Terminal() if referee else SILENT
    result = score_again(read_run(run, task=chosen.name), chosen, n=n, judge=referee, progress=progress)
    if out is not None:
        jsonl.write(out, (trajectory.to_dict() for trajectory in result.trajectories))
    terminal.print_rescored(result, referee, as_json=as_json)


@app.command()
def export(
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

    Example: `fireact export runs/quickstart --to ollama -o runs/ollama && ollama create my-agent -f runs/ollama/Modelfile`
    """
    directory = out or Path("runs") / f"export-{to}"
    manifest = _run("export", {"run": run, "to": to, "dtype": dtype}, directory, force=force, dry_run=dry_run)
    _print(manifest, directory, as_json=as_json)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Directories of eval (and train, mix, collect), of a quickstart or study, or files of episodes."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where report.html, report.md and report.json go.")] = Path(
        "runs/report"
    ),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report in Markdown.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the report of some runs: one self-contained HTML page with every trajectory, Markdown, plots and JSON.

    Example: `fireact report runs/eval-base runs/eval-fireact runs/train -o runs/report`
    """
    _run("report", {"runs": tuple(runs)}, out, force=force, dry_run=False)
    if markdown:
        from fireact.reporting.write import printed

        print(printed(out), end="")
    else:
        terminal.print_report(out, as_json=as_json)


@app.command()
def view(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, complete or going on, directories that hold some, or files of episodes."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback FIREACT_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8200,
) -> None:
    """Read trajectories in a web browser, also while runs go on: filter, search, two runs side by side.

    Example: `fireact view runs/quickstart`
    """
    from fireact.reporting.view import view as listen

    def started(url: str) -> None:
        terminal.NOTES.print(f"Reading {', '.join(map(str, runs))} at {url} (Ctrl-C ends it).", soft_wrap=True)

    listen([run.absolute() for run in runs], host=host, port=port, started=started)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(help="A run directory that is not complete.")], budget: BudgetOf = None
) -> None:
    """Go on with an interrupted run by nothing but its directory.

    Example: `fireact resume runs/quickstart`, or `fireact resume runs/collect --budget 10usd` where the first was spent
    """
    with _stoppable(directory):
        verbs.resume(directory, budget=budget, progress=terminal.Terminal())
    terminal.NOTES.print(f"{directory} is complete.")


@app.command()
def cancel(
    directory: Annotated[Path, typer.Argument(help="A directory of 'fireact train --hosted'.")], as_json: Json = False
) -> None:
    """Stop the job of a run at a provider; what it has cost so far is paid.

    Example: `fireact cancel runs/train`
    """
    from fireact.hosted.run import cancel as stop

    job = stop(directory)
    if as_json:
        print(json.dumps(asdict(job)))
    else:
        terminal.NOTES.print(f"Job {job.id}: {job.status if job.status == 'cancelled' else 'asked to stop'}.")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    agent: AgentName = "runs/quickstart",
    tool: Tools = None,
    task: LimitsOf = "geo-hop",
    as_json: Json = False,
) -> None:
    """Ask an agent one question, and watch each thought and action as it is written, and each observation as it comes.

    Example: `fireact ask "What is the currency of the country whose capital is Tashkent?" -a runs/quickstart`
    """
    from fireact.serving import voice

    chosen = _agent(agent, task, tool)
    steps = voice.ask(chosen, question, (lambda piece: None) if as_json else terminal.Speech())
    answer = answer_of(steps)
    if as_json:
        print(json.dumps({"question": question, "answer": answer, "steps": [step.to_dict() for step in steps]}))
    elif answer is None:
        terminal.NOTES.print(f"No answer within {chosen.limits.max_steps} steps.")


@app.command()
def chat(agent: AgentName = "runs/quickstart", tool: Tools = None, task: LimitsOf = "geo-hop") -> None:
    """Ask an agent one question after the other; each is answered on its own. End with Ctrl-D or an empty line.

    Example: `fireact chat -a runs/quickstart`
    """
    from fireact.serving import voice

    chosen = _agent(agent, task, tool)
    while question := terminal.read_line("Question: "):
        voice.ask(chosen, question, terminal.Speech())


@app.command()
def serve(
    agent: Annotated[str, typer.Argument(help="A directory of 'fireact train', or a model.")] = "runs/quickstart",
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback FIREACT_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[str, typer.Option(help="Name of the model; NAME-agent is the agent with its tools.")] = "fireact",
    tool: Tools = None,
    task: LimitsOf = "geo-hop",
    slots: Annotated[int, typer.Option(help="Texts that are written at a time.")] = 16,
    engine: Annotated[
        str, typer.Option(help="transformers, in this process; or vllm, started beside it (for GPUs).")
    ] = "transformers",
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Serve the agent as an MCP tool on standard input and output.")
    ] = False,
) -> None:
    """Serve a fine-tuned student, and the agent around it, to OpenAI clients (or the agent to MCP clients).

    Example: `fireact serve runs/quickstart --port 8000`, then base_url="http://127.0.0.1:8000/v1", model="fireact-agent"
    """
    from fireact.serving.server import key_for, service
    from fireact.serving.server import serve as listen

    if not mcp:
        key_for(host)  # before a model is loaded
    with _engine(engine, agent, name=name, slots=slots) as model:
        chosen = _around(model, task, tool)
        if mcp:
            from fireact.serving.mcp import mcp_server

            mcp_server(name, chosen).run()
            return
        served = service(name, chosen, host=host)

        def started(url: str) -> None:
            terminal.NOTES.print(f"Serving {', '.join(served.names)} at {url} (Ctrl-C ends it).")

        listen(served, host=host, port=port, started=started)


@contextmanager
def _engine(engine: str, agent: str, *, name: str, slots: int) -> Iterator[Any]:
    """The student of an agent, in this process or behind vLLM."""
    from fireact.agents import load_model

    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if engine == "transformers":
        yield load_model(agent, slots=slots)
        return
    from fireact.serving.vllm import served

    with served(agent, name=name, slots=slots, say=terminal.Terminal().say) as model:
        yield model


def _agent(model: str, task: str, tools: list[str] | None) -> Any:
    from fireact.agents import load_model

    return _around(load_model(model, slots=1), task, tools)


def _around(model: Any, task: str, tools: list[str] | None) -> Any:
    from fireact.agents import build, load_task, load_tools

    return build(model, load_task(task), method="react", tools=load_tools(tools or ["search"]))


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A directory of collect, mix or eval, or a JSONL file.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help="Filter: correct, em<1, steps<=6, task=geo-hop; repeatable."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print trajectories of a run.

    Example: `fireact show runs/quickstart/eval-fireact -w "em<1" -n 3`
    """
    from fireact.data import predicate
    from fireact.store import read_trajectories

    keep = [predicate(text) for text in where or []]
    for trajectory in islice((t for t in read_trajectories(run) if all(wanted(t) for wanted in keep)), n):
        if as_json:
            print(json.dumps(trajectory.to_dict(), ensure_ascii=False))
        else:
            terminal.print_trajectory(trajectory)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A file of episodes in any known format, or a run directory.")],
    to: Annotated[
        str,
        typer.Option(
            help="alpaca, gpt, sharegpt, messages, openai, prompt-completion, parquet, dataset (a directory) or fireact."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write (a directory for dataset).")],
    source_format: Annotated[
        str | None, typer.Option("--from", help="Format of the source. Default: recognised from what is in it.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair known damage instead of keeping it.")] = False,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", help="Tool whose schema episodes without schemas get; repeatable. Default: inferred."),
    ] = None,
    trainer: Annotated[
        str | None, typer.Option("--for", help="Print the dataset entry for llama-factory, axolotl or trl.")
    ] = None,
    skip: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be read, and count them.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Convert episodes from one format to another, and say what was damaged and what the format cannot hold.

    Example: `fireact convert runs/mix --to sharegpt -o train.jsonl --tool search --for llama-factory`
    """
    from fireact.agents import load_tools
    from fireact.formats.conversion import convert as run

    tools = tuple(load_tools(tool or ()).values())
    report = run(
        source, out, to=to, format=source_format, fix=fix, tools=tools, trainer=trainer, skip=skip, force=force
    )  # fmt: skip
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        terminal.print_conversion(report)


@app.command()
def render(
    data: Annotated[Path, typer.Argument(help="Trajectories in any format that 'convert' reads, or a run directory.")],
    student: Student = "smollm2-135m",
    renderer: RendererName = "react",
    tool: Tools = None,
    peek: Annotated[int, typer.Option(min=1, help="How many samples to show.")] = 3,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one for small data, else one a core.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file to write every sample to.")] = None,
    form: Annotated[
        str, typer.Option(help="Of the file: tokens (input_ids, labels) or messages (with what is trained).")
    ] = "tokens",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines that cannot be read, and say so.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what a student is trained on, token by token, or write it for another trainer.

    Example: `fireact render runs/mix --peek 3`, or `fireact render runs/mix -o samples.jsonl`
    """
    from fireact.training.samples import Rendering

    rendering = Rendering(
        data, renderer=renderer, student=student, tools=tuple(tool or ("search",)), workers=workers, skip_bad=skip_bad
    )
    if out is not None:
        counts = rendering.write(out, form, progress=terminal.Terminal())
        print(json.dumps(counts)) if as_json else terminal.print_rendering(counts, out)
        return
    for sample in islice(rendering.peek(), peek):
        print(json.dumps(sample.to_dict(), ensure_ascii=False)) if as_json else terminal.print_sample(sample)


@app.command()
def validate(tasks: Annotated[list[str], typer.Argument(help=f"Tasks: {TASK}.")]) -> None:
    """Prove that a task is sound: gold scores 1, empty scores 0, the corpus holds every answer, splits do not leak.

    What a task has no corpus for is not checked.

    Example: `fireact validate geo-hop geo-compose`
    """
    from fireact.agents import load_task
    from fireact.tasks.validate import validate as check

    findings = [check(load_task(name)) for name in tasks]
    for finding in findings:
        terminal.print_validation(finding)
    if any(finding.problems for finding in findings):
        raise typer.Exit(1)


def _run(verb: str, settings: dict[str, Any], out: Path, *, force: bool, dry_run: bool) -> dict[str, Any] | None:
    """Run a verb, or only show its resolved settings (then the result is None)."""
    config_class, function = verbs.load(verb)
    config = config_class(**settings)
    if dry_run:
        shown = {"verb": verb, "out": str(out), "settings": plain(asdict(config))}
        if (foreseen := verbs.expected(verb, config)) is not None:
            shown["expected"] = foreseen
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return None
    with _stoppable(out):
        return function(config, out, force=force, progress=terminal.Terminal())


@contextmanager
def _stoppable(out: Path) -> Iterator[None]:
    """Ctrl-C ends a run with one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        terminal.complain(f"stopped. What is finished is saved; go on with: fireact resume {out}")
        raise typer.Exit(130) from None


def _print(manifest: dict[str, Any] | None, out: Path, *, as_json: bool) -> None:
    if manifest is None:
        return
    if as_json:
        print(json.dumps(manifest, ensure_ascii=False))
    else:
        terminal.print_manifest(manifest, out)
