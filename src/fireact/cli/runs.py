"""Commands about run directories that exist: resume one, cancel its job, join shards, compare two, view some."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from fireact.cli.running import CommandCall, explain_interrupt, run_until_signal
from fireact.terminal.screen import STDERR, TerminalProgress, print_json


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


def join_command(call: CommandCall) -> None:
    """Join shards and print what the joined run's own verb prints."""
    from fireact.pipeline.join import join_runs
    from fireact.terminal.evaluation import print_evaluation
    from fireact.terminal.training import print_manifest

    run = join_runs(call.config, progress=TerminalProgress())
    if run.results:
        print_evaluation(run.manifest, run.path, as_json=call.as_json)
    else:
        print_json(run.manifest) if call.as_json else print_manifest(run.manifest, run.path)


def publish_command(call: CommandCall) -> None:
    """Print what a repository holds, or would hold."""
    from fireact.pipeline.publication import publish_run
    from fireact.terminal.screen import STDOUT, print_table

    publication = publish_run(call.config).value
    if call.as_json:
        print_json(publication.to_dict())
        return
    print_table(publication.tabulate())
    if not publication.url:
        STDOUT.print(publication.files["README.md"], markup=False)
    STDOUT.print(f"Pushed to {publication.url}" if publication.url else "Nothing was pushed: --push pushes.")


def compare_command(call: CommandCall) -> None:
    """Print a comparison, or what keeps two runs from being compared. Exit 1 for the latter."""
    from fireact.evaluation.compared_runs import read_scored_runs
    from fireact.evaluation.comparison import compare_runs, find_blocking_differences
    from fireact.terminal.comparison import print_comparison, print_differences

    config = call.config
    first_run, second_run = read_scored_runs(Path(config.before), Path(config.after))
    if wrong := find_blocking_differences(first_run, second_run, config.allow):
        print_differences(wrong, first_run.name, second_run.name, as_json=call.as_json)
        raise typer.Exit(1)
    comparison = compare_runs(first_run, second_run, allow=config.allow)
    print_comparison(comparison, flips=call.options.flips, as_json=call.as_json)


def view_command(call: CommandCall) -> None:
    """Serve the page of some runs until a signal comes."""
    from fireact.pipeline.commands import view_runs

    run_until_signal(view_runs(call.config), lambda url: f"Reading {', '.join(call.config.runs)} at {url}")
