"""Commands about a run directory that exists: resume it, cancel its job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape


def resume_command(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that is not complete.")],
    budget: Annotated[
        str | None, typer.Option("--budget", help="5usd, 200000tokens or 1000calls: the run stops before it is passed.")
    ] = None,
) -> None:
    """Example: `fireact resume runs/quickstart`, or `fireact resume runs/collect --budget 10usd` after the first is
    spent
    """
    from fireact.base import verbs
    from fireact.cli.running import explain_interrupt
    from fireact.terminal.screen import STDERR, TerminalProgress

    with explain_interrupt(directory):
        verbs.resume(directory, budget=budget, progress=TerminalProgress())
    STDERR.print(escape(f"{directory} is complete."))


def cancel_command(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A directory of 'fireact tune'.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")
    ] = False,
) -> None:
    """Example: `fireact cancel runs/tune`"""
    import json
    from dataclasses import asdict

    from fireact.hosted.tune import cancel_job
    from fireact.terminal.screen import STDERR

    job = cancel_job(directory)
    if as_json:
        print(json.dumps(asdict(job)))
    else:
        status = job.status if job.status == "cancelled" else "will be stopped by the provider"
        STDERR.print(escape(f"Job {job.id}: {status}."))
