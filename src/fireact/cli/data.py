"""Commands over trajectories and tasks: score, render, convert, show, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireact.cli.values import TASK_SPEC, Json, JsonLines, SkipBad, Tools, Where


def score_command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run directory, or a file of trajectories in any format that 'convert' reads."
        ),
    ],
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
        str | None,
        typer.Option(
            "--task",
            "-t",
            help=f"Task whose rule scores: {TASK_SPEC}. With --answers the default is EM and F1 as free text.",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="Questions that were asked; those without an episode count as wrong. Default: episodes.",
            rich_help_panel="Score again (--task alone)",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="A model that judges the answers too: one call for each, counted and shown.",
            rich_help_panel="Score again (--task alone)",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="JSONL file for the scored episodes, in place of the source itself.",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """With --with or --answers the scores are attached in place. With --task alone a stored run is scored again, which
    changes nothing in it, and each episode whose own score differs is listed.

    Example: `fireact score runs/mine --answers answers.csv`, `fireact score runs/mine --with my_scores:correct`, or
    `fireact score runs/eval --task hotpotqa:data/hotpotqa -n 500`
    """
    from fireact.evaluation.rescore import RescoreResult
    from fireact.pipeline.functions import score_run
    from fireact.terminal.data_tables import print_grades
    from fireact.terminal.evaluation import print_rescored
    from fireact.terminal.screen import TerminalProgress

    progress = TerminalProgress() if judge else None
    result = score_run(run, by=by, answers=answers, task=task, n=n, judge=judge, out=out, progress=progress).value
    if isinstance(result, RescoreResult):
        print_rescored(result, as_json=as_json)
    else:
        print_grades(result, out or run, as_json=as_json)


def render_command(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Trajectories in any format that 'convert' reads, or a run directory."),
    ],
    student: Annotated[
        str, typer.Option("--student", help="smollm2-135m, a hub id, or a directory with a model.")
    ] = "smollm2-135m",
    renderer: Annotated[
        str,
        typer.Option(
            "--renderer",
            help="react, tool_calls (native, by the student's chat template), recorded (what a recorded agent sends) "
            "or alpaca. auto: recorded for recordings, else react.",
        ),
    ] = "auto",
    tool: Tools = None,
    peek: Annotated[int, typer.Option(min=1, help="How many samples to show.")] = 3,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one for small data, else one a core.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file to write every sample to.")] = None,
    form: Annotated[
        str, typer.Option(help="Of the file: tokens (input_ids, labels) or messages (with what is trained).")
    ] = "tokens",
    skip_bad: SkipBad = False,
    as_json: JsonLines = False,
) -> None:
    """Example: `fireact render runs/mix --peek 3`, or `fireact render runs/mix -o samples.jsonl`"""
    from dataclasses import asdict
    from itertools import islice

    from fireact.terminal.data_tables import print_rendering, print_sample
    from fireact.terminal.screen import TerminalProgress, print_json
    from fireact.training.samples import Rendering

    rendering = Rendering(
        data, renderer=renderer, student=student, tools=tuple(tool or ("search",)), workers=workers, skip_bad=skip_bad
    )
    if out is not None:
        counts = rendering.write(out, form, progress=TerminalProgress())
        print_json(asdict(counts)) if as_json else print_rendering(counts, out)
        return
    for sample in islice(rendering.preview_samples(), peek):
        print_json(sample.to_dict()) if as_json else print_sample(sample)


def convert_command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A file of episodes in any known format, or a run directory.")
    ],
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
    """Example: `fireact convert runs/mix --to sharegpt -o train.jsonl --tool search --for llama-factory`"""
    from fireact.pipeline.functions import convert_file
    from fireact.terminal.data_tables import print_conversion
    from fireact.terminal.screen import print_json

    report = convert_file(
        source, out, to=to, format=source_format, fix=fix, tools=tool or (), trainer=trainer, skip=skip, force=force
    ).value
    if as_json:
        print_json(report.to_dict())
    else:
        print_conversion(report)


def show_command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory, or a file in any format that 'convert' reads."),
    ],
    where: Where = None,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 5,
    as_json: JsonLines = False,
) -> None:
    """Example: `fireact show runs/quickstart/eval-fireact -w "em<1" -n 3`"""
    from fireact.pipeline.functions import show_trajectories
    from fireact.terminal.screen import print_json
    from fireact.terminal.steps import print_trajectory

    for trajectory in show_trajectories(run, where=where or (), n=n):
        print_json(trajectory.to_dict()) if as_json else print_trajectory(trajectory)


def validate_command(
    names: Annotated[
        list[str], typer.Argument(metavar="TASK|RUN", help=f"Tasks: {TASK_SPEC}; or one directory of 'fireact train'.")
    ],
    tool: Annotated[
        list[str] | None, typer.Option("--tool", help="Tool of the student of RUN; repeatable. Default: the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Of a task: gold scores 1, empty scores 0, the corpus holds every answer, splits do not leak. Without a corpus,
    answers are not looked up. Of a run: a client's prompts have the tokens of training, and merged weights answer
    alike.

    Example: `fireact validate geo-hop geo-compose`, or `fireact validate runs/quickstart`
    """
    from dataclasses import asdict

    from fireact.pipeline.functions import validate_names
    from fireact.serving.conformance import Conformance
    from fireact.terminal.data_tables import print_validation
    from fireact.terminal.screen import TerminalProgress, print_json
    from fireact.terminal.training import print_conformance

    result = validate_names(*names, tools=tuple(tool or ()), progress=TerminalProgress()).value
    if isinstance(result, Conformance):
        print_json(asdict(result)) if as_json else print_conformance(result)
        raise typer.Exit(0 if result.holds else 1)
    for finding in result:
        print_json(asdict(finding)) if as_json else print_validation(finding)
    if any(finding.problems for finding in result):
        raise typer.Exit(1)
