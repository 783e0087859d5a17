"""Commands for all stages together: from nothing to a measured agent, and resuming a run by its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireact.cli.shared import (
    BudgetLimit,
    DryRun,
    Force,
    Json,
    Out,
    Student,
    explain_interrupt,
    run_verb,
)
from fireact.pipeline import verbs
from fireact.terminal.evaluation import print_report
from fireact.terminal.screen import STDERR, TerminalProgress


def quickstart_command(
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
    manifest = run_verb("quickstart", settings, out, force=force, dry_run=dry_run)
    if manifest is not None:
        print_report(out, as_json=as_json)


def resume_command(
    directory: Annotated[Path, typer.Argument(help="A run directory that is not complete.")], budget: BudgetLimit = None
) -> None:
    """Resume an interrupted run by its directory alone.

    Example: `fireact resume runs/quickstart`, or `fireact resume runs/collect --budget 10usd` after the first is spent
    """
    with explain_interrupt(directory):
        verbs.resume(directory, budget=budget, progress=TerminalProgress())
    STDERR.print(f"{directory} is complete.")
