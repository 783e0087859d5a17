"""Commands for the whole line: from nothing to a measured agent, and going on with a run by its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fireact import verbs
from fireact.cli.shared import (
    BudgetOf,
    DryRun,
    Force,
    Json,
    Out,
    Student,
    run_verb,
    stoppable,
)
from fireact.terminal.evaluation import print_report
from fireact.terminal.screen import NOTES, Terminal


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
    manifest = run_verb("quickstart", settings, out, force=force, dry_run=dry_run)
    if manifest is not None:
        print_report(out, as_json=as_json)


def resume(
    directory: Annotated[Path, typer.Argument(help="A run directory that is not complete.")], budget: BudgetOf = None
) -> None:
    """Go on with an interrupted run by nothing but its directory.

    Example: `fireact resume runs/quickstart`, or `fireact resume runs/collect --budget 10usd` where the first was spent
    """
    with stoppable(directory):
        verbs.resume(directory, budget=budget, progress=Terminal())
    NOTES.print(f"{directory} is complete.")
