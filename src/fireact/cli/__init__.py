"""The command line: options become settings for a verb, and an error becomes one line.

Standard output carries the result (with ``--json`` one JSON object), standard error everything else. Exit
status 0 is success, 1 failure, 2 wrong usage. This package decides nothing: a Python user of the verbs misses nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer

from fireact.cli.collecting import collect_command, record_command, score_command
from fireact.cli.data import (
    convert_command,
    doctor_command,
    mix_command,
    render_command,
    show_command,
    validate_command,
)
from fireact.cli.line import quickstart_command, resume_command
from fireact.cli.measuring import (
    compare_command,
    evaluate_command,
    report_command,
    rescore_command,
    study_command,
    view_command,
)
from fireact.cli.training import cancel_command, export_command, improve_command, train_command
from fireact.cli.using import ask_command, chat_command, serve_command
from fireact.errors import ConfigError, DataError, FireactError
from fireact.terminal.screen import print_error

COMMANDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "The whole line": {"quickstart": quickstart_command, "resume": resume_command},
    "Collect": {"collect": collect_command, "record": record_command, "score": score_command},
    "Data": {
        "mix": mix_command,
        "doctor": doctor_command,
        "render": render_command,
        "convert": convert_command,
        "show": show_command,
        "validate": validate_command,
    },
    "Train": {"train": train_command, "improve": improve_command, "export": export_command, "cancel": cancel_command},
    "Measure": {
        "eval": evaluate_command,
        "compare": compare_command,
        "study": study_command,
        "rescore": rescore_command,
        "report": report_command,
        "view": view_command,
    },
    "Use": {"ask": ask_command, "chat": chat_command, "serve": serve_command},
}
"""Every command by its name, in the order and under the headings of ``fireact --help``."""

app = typer.Typer(
    name="fireact",
    help="Make language agents by fine-tuning: collect a teacher's trajectories, train a small student, measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=heading)(command)


def main() -> None:
    """The entry point ``fireact``."""
    try:
        app(standalone_mode=True)
    except (ConfigError, DataError) as error:
        print_error(str(error))
        sys.exit(2)
    except FireactError as error:
        print_error(str(error))
        sys.exit(1)
