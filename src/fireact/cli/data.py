"""Commands over trajectories and tasks: score, render, convert, show, validate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from fireact.cli.running import CommandCall
from fireact.terminal.screen import TerminalProgress, print_json


def score_command(call: CommandCall) -> None:
    """Print the scores that were attached, or those of a run that was scored again."""
    from fireact.evaluation.rescore import RescoreResult
    from fireact.pipeline.commands import score_run
    from fireact.terminal.data_tables import print_grades
    from fireact.terminal.evaluation import print_rescored

    config = call.config
    result = score_run(config, progress=TerminalProgress() if config.judge else None).value
    if isinstance(result, RescoreResult):
        print_rescored(result, as_json=call.as_json)
    else:
        print_grades(result, Path(config.out or config.run), as_json=call.as_json)


def render_command(call: CommandCall) -> None:
    """Print samples, or how many were written."""
    from fireact.pipeline.commands import render_samples
    from fireact.terminal.data_tables import print_rendering, print_sample

    config = call.config
    result = render_samples(config, progress=TerminalProgress()).value
    if config.out is not None:
        print_json(asdict(result)) if call.as_json else print_rendering(result, Path(config.out))
        return
    for sample in result:
        print_json(sample.to_dict()) if call.as_json else print_sample(sample)


def convert_command(call: CommandCall) -> None:
    """Print the report of a conversion."""
    from fireact.pipeline.commands import convert_file
    from fireact.terminal.data_tables import print_conversion

    report = convert_file(call.config).value
    print_json(report.to_dict()) if call.as_json else print_conversion(report)


def show_command(call: CommandCall) -> None:
    """Print trajectories."""
    from fireact.pipeline.commands import show_trajectories
    from fireact.terminal.steps import print_trajectory

    for trajectory in show_trajectories(call.config):
        print_json(trajectory.to_dict()) if call.as_json else print_trajectory(trajectory)


def validate_command(call: CommandCall) -> None:
    """Print what was proven. Exit 1 where something does not hold."""
    from fireact.pipeline.commands import validate_names
    from fireact.serving.conformance import Conformance
    from fireact.terminal.data_tables import print_validation
    from fireact.terminal.training import print_conformance

    result = validate_names(call.config, progress=TerminalProgress()).value
    if isinstance(result, Conformance):
        print_json(asdict(result)) if call.as_json else print_conformance(result)
        raise typer.Exit(0 if result.holds else 1)
    for finding in result:
        print_json(asdict(finding)) if call.as_json else print_validation(finding)
    if any(finding.problems for finding in result):
        raise typer.Exit(1)
