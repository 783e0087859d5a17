"""Commands that read runs beside each other: compare them, view them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireact.cli.values import Json


def compare_command(
    before: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_A", help="A directory of 'fireact eval', 'record' or 'collect', or a file of scored episodes."
        ),
    ],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, on the same questions.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="What may differ on purpose: noise, tools, limits, split, questions or seed; or trained: show "
            "questions that an agent was trained on, apart. Repeatable. Default: nothing."
        ),
    ] = None,
    flips: Annotated[int, typer.Option(help="Questions to show that one run has right and the other wrong.")] = 3,
    as_json: Json = False,
) -> None:
    """Runs compare only when task, split, questions, tools, noise, limits and seed agree; otherwise it says what
    differs. Questions pair by their id, or else by their words.

    Example: `fireact compare runs/eval-base runs/eval-fireact --flips 10`, `fireact compare runs/mine runs/eval` for a
    recorded teacher and its student, or with `--allow noise` for a noisy run
    """
    from fireact.evaluation.comparison import compare_runs, find_blocking_differences, read_scored_runs
    from fireact.terminal.comparison import print_comparison, print_differences

    first_run, second_run = read_scored_runs(before, after)
    wrong = find_blocking_differences(first_run, second_run, allow or ())
    if wrong:
        print_differences(wrong, first_run.name, second_run.name, as_json=as_json)
        raise typer.Exit(1)
    print_comparison(compare_runs(first_run, second_run, allow=allow or ()), flips=flips, as_json=as_json)


def view_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS",
            help="Run directories, complete or in progress, directories that hold some, or files of episodes.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback FIREACT_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8200,
) -> None:
    """Example: `fireact view runs/quickstart`"""
    from fireact.reporting.view import serve_view
    from fireact.terminal.screen import STDERR

    def started(url: str) -> None:
        STDERR.print(f"Reading {', '.join(map(str, runs))} at {url} (Ctrl-C ends it).", soft_wrap=True, markup=False)

    serve_view([run.absolute() for run in runs], host=host, port=port, on_started=started)
