"""Commands that collect trajectories: from a teacher, or from an agent that exists already."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fireact.base.run_directory import read_manifest
from fireact.cli.shared import (
    BudgetLimit,
    Cache,
    Calls,
    DryRun,
    Force,
    Json,
    Native,
    Order,
    Out,
    Prices,
    Repairs,
    Rpm,
    Tasks,
    Timeout,
    Tools,
    Tpm,
    build_endpoint,
    explain_interrupt,
    print_result,
    run_verb,
)
from fireact.errors import ConfigError
from fireact.terminal.data_tables import print_grades
from fireact.terminal.screen import STDERR, TerminalProgress, wait_for_signal


def collect_command(
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
    budget: BudgetLimit = None,
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
        "teacher": teacher, "split": split, "order": order, "start": start, "seed": seed, "temperature": temperature,
        "workers": workers, "repairs": repairs, "native": native, "calls": calls,
        "cache": None if cache is None else str(cache), "budget": budget,
        "endpoint": build_endpoint(rpm=rpm, tpm=tpm, timeout=timeout, prices=prices),
        **({"tools": tuple(tool)} if tool else {}),
    }  # fmt: skip
    if tasks or method or n is not None:
        if not tasks:
            raise ConfigError("--method and -n need --task. Leave all three out for the default plan.")
        settings["plan"] = {f"{task}/{name}": 20 if n is None else n for task in tasks for name in method or ["react"]}
    print_result(run_verb("collect", settings, out, force=force, dry_run=dry_run), out, as_json=as_json)


def record_command(
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

    Example: `fireact record --upstream https://api.openai.com/v1 -o runs/mine`, then
    base_url="http://127.0.0.1:8100/v1", or "http://127.0.0.1:8100/e/ID/v1" with an ID for each episode
    """
    from fireact.recording.recorder import RecordConfig, recorder

    config = RecordConfig(
        upstream=upstream, task=task, host=host, port=port, idle=idle, timeout=timeout, concurrency=concurrency,
        max_body=max_body, prices=None if prices is None else str(prices),
        **({"finish": tuple(finish)} if finish else {}),
    )  # fmt: skip
    with explain_interrupt(out):
        with recorder(config, out, force=force, progress=TerminalProgress()) as address:
            STDERR.print(f"Recording at {address}/v1, or {address}/e/ID/v1 for the episode ID (Ctrl-C ends it).")
            wait_for_signal()
        print_result(read_manifest(out), out, as_json=as_json)


def score_command(
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

    print_grades(asdict(attach(run, by=by, answers=answers, task=task)), run, as_json=as_json)
