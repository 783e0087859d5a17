"""Commands that read runs beside each other: compare them, view them."""

from __future__ import annotations

from pathlib import Path

import typer

from fireact.cli.running import CommandCall, run_until_signal


def compare_command(call: CommandCall) -> None:
    """Print a comparison, or what keeps two runs from being compared. Exit 1 for the latter."""
    from fireact.evaluation.comparison import compare_runs, find_blocking_differences, read_scored_runs
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
