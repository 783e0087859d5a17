"""Commands that measure agents, compare them, run studies and write reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fireact.base.progress import SILENT
from fireact.cli.shared import (
    TASK,
    BudgetLimit,
    Cache,
    Calls,
    DryRun,
    Force,
    Json,
    Native,
    Order,
    Prices,
    Repairs,
    Rpm,
    Tasks,
    Timeout,
    Tools,
    Tpm,
    build_endpoint,
    run_verb,
)
from fireact.errors import ConfigError
from fireact.terminal.comparison import print_comparison, print_differences
from fireact.terminal.evaluation import print_evaluation, print_report, print_rescored
from fireact.terminal.screen import STDERR, TerminalProgress, print_json
from fireact.terminal.study import print_plan, print_studies, print_study


def evaluate_command(
    agent: Annotated[
        str,
        typer.Argument(
            help="A directory of 'fireact train', smollm2-135m, a hub id, openai:MODEL[@BASE_URL], replay:DIR, "
            "scripted:expert."
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
    budget: BudgetLimit = None,
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
    """Measure an agent on held-out questions: scores with intervals, by type of question, cost, reasons for failures.

    Example: `fireact eval runs/quickstart/train -t geo-yesno -t geo-choice -n 50 --json`
    """
    settings: dict[str, Any] = {
        "agent": agent, "n": n, "method": method, "examples": examples, "split": split, "order": order, "seed": seed,
        "temperature": temperature, "workers": workers,
        "repairs": repairs, "native": native, "calls": calls, "cache": None if cache is None else str(cache),
        "budget": budget, "endpoint": build_endpoint(rpm=rpm, tpm=tpm, timeout=timeout, prices=prices),
        **({"tasks": tuple(tasks)} if tasks else {}), **({"tools": tuple(tool)} if tool else {}),
    }  # fmt: skip
    directory = out or Path("runs") / f"eval-{agent.strip('/').replace('/', '-').replace(':', '-')}"
    manifest = run_verb("eval", settings, directory, force=force, dry_run=dry_run)
    if manifest is not None:
        print_evaluation(manifest, directory, as_json=as_json)


def compare_command(
    before: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="A directory of 'fireact eval', or a file of scored episodes.")
    ],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, on the same questions.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="What may differ on purpose: noise, tools, limits, split, questions or seed; repeatable. Default: "
            "nothing."
        ),
    ] = None,
    flips: Annotated[int, typer.Option(help="Questions to show that one run has right and the other wrong.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare two runs question by question: what changed, how certain that is, its cost, and flipped questions.

    Runs compare only when task, split, questions, tools, noise, limits and seed agree; otherwise it says what differs.

    Example: `fireact compare runs/eval-base runs/eval-fireact --flips 10`, or with `--allow noise` for a noisy run
    """
    from fireact.evaluation.comparison import compare_runs, find_blocking_differences, read_scored_run

    first_run, second_run = read_scored_run(before), read_scored_run(after)
    wrong = find_blocking_differences(first_run, second_run, allow or ())
    if wrong:
        print_differences(wrong, first_run.name, second_run.name, as_json=as_json)
        raise typer.Exit(1)
    print_comparison(compare_runs(first_run, second_run, allow=allow or ()), flips=flips, as_json=as_json)


def study_command(
    file: Annotated[str, typer.Argument(help="A study that ships (see --list), or the path of a TOML file.")] = "",
    size: Annotated[
        str, typer.Option(help="small, for two cores; paper, for GPUs and hosted models; or what FILE has.")
    ] = "small",
    assignments: Annotated[
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
    force: Force = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run the missing stages of a matrix of agents; compare the agents with each other and with the paper's figures.

    Example: `fireact study scaling --dry-run`, then `fireact study scaling`, or `fireact study mine.toml -o runs/mine`
    """
    from fireact.study.file import list_shipped_studies, read_study
    from fireact.study.runner import StudyConfig, plan_study

    if names or not file:
        questions_by_study = {name: read_study(name).asks for name in list_shipped_studies()}
        print_json(questions_by_study) if as_json else print_studies(questions_by_study)
        return
    values = {}
    for item in assignments or ():
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
        expected = plan_study(StudyConfig(**settings), directory)
        print_json(expected) if as_json else print_plan(expected, directory)
        return
    manifest = run_verb("study", settings, directory, force=force, dry_run=False)
    if manifest is not None:
        print_study(manifest, directory, as_json=as_json)


def rescore_command(
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
    from fireact.base import jsonl
    from fireact.evaluation.rescore import read_run_trajectories
    from fireact.evaluation.rescore import rescore as score_again
    from fireact.rollout.agents import load_model, load_task
    from fireact.tasks.judge import Judge

    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already. Choose another -o.")
    chosen, referee = load_task(task), Judge(load_model(judge).lm) if judge else None
    progress = TerminalProgress() if referee else SILENT
    result = score_again(read_run_trajectories(run, task=chosen.name), chosen, n=n, judge=referee, progress=progress)
    if out is not None:
        jsonl.write_objects(out, (trajectory.to_dict() for trajectory in result.trajectories))
    print_rescored(result, referee, as_json=as_json)


def report_command(
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
    run_verb("report", {"runs": tuple(runs)}, out, force=force, dry_run=False)
    if markdown:
        from fireact.reporting.write import read_printable_markdown

        print(read_printable_markdown(out), end="")
    else:
        print_report(out, as_json=as_json)


def view_command(
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
    from fireact.reporting.view import serve_view

    def started(url: str) -> None:
        STDERR.print(f"Reading {', '.join(map(str, runs))} at {url} (Ctrl-C ends it).", soft_wrap=True)

    serve_view([run.absolute() for run in runs], host=host, port=port, on_started=started)
