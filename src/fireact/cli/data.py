"""Commands over trajectories and tasks: mix, examine, render, convert, show, validate."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from fireact.cli.shared import (
    TASK,
    DryRun,
    Force,
    Json,
    Out,
    RendererName,
    Student,
    Tools,
    print_result,
    run_verb,
)
from fireact.errors import ConfigError
from fireact.terminal.data_tables import (
    print_conversion,
    print_diagnosis,
    print_rendering,
    print_sample,
    print_validation,
)
from fireact.terminal.screen import TerminalProgress, print_error, print_json
from fireact.terminal.steps import print_trajectory
from fireact.terminal.training import print_conformance


def mix_command(
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

    options: dict[str, Any] = {
        "where": tuple(where) if where else None, "best_of": best_of, "balance": balance, "n": n, "holdout": holdout,
        "weigh_bad": weigh_bad, "seed": seed, "skip_bad": skip_bad or None, "workers": workers or None,
        "take": {name: int(value) for name, value in map(_parse_take, take)} if take else None,
        "weights": dict(_parse_weight(item) for item in weight) if weight else None,
    }  # fmt: skip
    settings = {
        **(read_mixture(recipe) if recipe else {}),
        **{key: value for key, value in options.items() if value is not None},
    }
    print_result(
        run_verb("mix", {"sources": tuple(sources), **settings}, out, force=force, dry_run=dry_run),
        out,
        as_json=as_json,
    )


def _parse_take(item: str) -> tuple[str, int]:
    name, separator, count = item.rpartition("=")
    if not separator or not count.isdigit() or "/" not in name:
        raise ConfigError(f"--take {item!r} is not of the form TASK/METHOD=N, such as geo-hop/react=60.")
    return name, int(count)


def _parse_weight(item: str) -> tuple[str, float]:
    name, separator, share = item.rpartition("=")
    try:
        return (name, float(share)) if separator and "/" in name else (name, float("none"))
    except ValueError:
        raise ConfigError(
            f"--weight {item!r} is not of the form TASK/METHOD=NUMBER, such as geo-hop/react=0.5."
        ) from None


def doctor_command(
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
            help="Task, TASK:SPLIT or file whose questions must not be in the data; repeatable. Default: held-out "
            "splits."
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
    """Describe a set of trajectories and report what is wrong with it, with line numbers. Exit 1 on errors.

    Example: `fireact doctor runs/mix --against geo-compose`, then `fireact doctor runs/mix --fix -o runs/fixed`
    """
    if serve:
        from fireact.serving.conformance import check_conformance

        result = check_conformance(data, tools=tuple(tool or ()), progress=TerminalProgress())
        print_json(asdict(result)) if as_json else print_conformance(result)
        raise typer.Exit(0 if result.holds else 1)
    from fireact.data.doctor import DoctorConfig, diagnose_data
    from fireact.data.findings import KINDS

    settings: dict[str, Any] = {
        "data": data, "student": student, "against": tuple(against or ()), "tools": tuple(tool or ()),
        "max_length": max_length, "max_observation": max_observation, "renderer": renderer, "workers": workers,
    }  # fmt: skip
    if fix:
        manifest = run_verb("doctor", settings, out, force=force, dry_run=False)
        print_result(manifest, out, as_json=as_json)
        remaining_errors = [kind for kind in (manifest or {}).get("remaining", ()) if KINDS[kind].level == "error"]
        if remaining_errors:
            print_error(f"errors are left that --fix does not mend: {', '.join(remaining_errors)}.")
            raise typer.Exit(1)
        return
    diagnosis = diagnose_data(DoctorConfig(**settings), progress=TerminalProgress())
    print_diagnosis(diagnosis, as_json=as_json)
    if not diagnosis.sound:
        raise typer.Exit(1)


def show_command(
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
    from fireact.base.run_directory import read_trajectories
    from fireact.data import predicate

    keep = [predicate(text) for text in where or []]
    for trajectory in islice(
        (trajectory for trajectory in read_trajectories(run) if all(matches(trajectory) for matches in keep)), n
    ):
        if as_json:
            print_json(trajectory.to_dict())
        else:
            print_trajectory(trajectory)


def convert_command(
    source: Annotated[Path, typer.Argument(help="A file of episodes in any known format, or a run directory.")],
    to: Annotated[
        str,
        typer.Option(
            help="alpaca, gpt, sharegpt, messages, openai, prompt-completion, parquet, dataset (a directory) or "
            "fireact."
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
    from fireact.formats.conversion import convert as run
    from fireact.rollout.agents import load_tools

    tools = tuple(load_tools(tool or ()).values())
    report = run(
        source, out, to=to, format=source_format, fix=fix, tools=tools, trainer=trainer, skip=skip, force=force
    )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        print_conversion(report)


def render_command(
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
        counts = rendering.write(out, form, progress=TerminalProgress())
        print(json.dumps(counts)) if as_json else print_rendering(counts, out)
        return
    for sample in islice(rendering.preview_samples(), peek):
        print_json(sample.to_dict()) if as_json else print_sample(sample)


def validate_command(tasks: Annotated[list[str], typer.Argument(help=f"Tasks: {TASK}.")]) -> None:
    """Prove that a task is sound: gold scores 1, empty scores 0, the corpus holds every answer, splits do not leak.

    Without a corpus, answers are not looked up.

    Example: `fireact validate geo-hop geo-compose`
    """
    from fireact.rollout.agents import load_task
    from fireact.tasks.validate import validate_task as check

    findings = [check(load_task(name)) for name in tasks]
    for finding in findings:
        print_validation(finding)
    if any(finding.problems for finding in findings):
        raise typer.Exit(1)
