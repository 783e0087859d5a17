"""Commands about a run directory that exists: resume it, cancel its job."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from fireact.cli.running import CommandCall, explain_interrupt
from fireact.terminal.screen import STDERR, TerminalProgress


def resume_command(call: CommandCall) -> None:
    """Resume a run."""
    from fireact.base import verbs

    directory = Path(call.config.run)
    with explain_interrupt(directory):
        verbs.resume(directory, budget=call.config.budget, progress=TerminalProgress())
    STDERR.print(escape(f"{directory} is complete."))


def cancel_command(call: CommandCall) -> None:
    """Print the state of the job of a run."""
    from fireact.hosted.tune import cancel_job

    job = cancel_job(Path(call.config.run))
    if call.as_json:
        print(json.dumps(asdict(job)))
    else:
        status = job.status if job.status == "cancelled" else "will be stopped by the provider"
        STDERR.print(escape(f"Job {job.id}: {status}."))
