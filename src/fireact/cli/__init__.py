"""The command line: options become settings, settings go to a verb, errors become one line.

Standard output carries the result (with ``--json`` one JSON object), standard error everything else. Exit 0 done,
1 failed, 2 usage. Nothing is decided here that a Python user of the verbs would miss.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer

from fireact.cli.collecting import collect, record, score
from fireact.cli.data import convert, doctor, mix, render, show, validate
from fireact.cli.line import quickstart, resume
from fireact.cli.measuring import compare, evaluate, report, rescore, study, view
from fireact.cli.training import cancel, export, improve, train
from fireact.cli.using import ask, chat, serve
from fireact.errors import ConfigError, DataError, FireactError
from fireact.terminal.screen import complain

COMMANDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "The whole line": {"quickstart": quickstart, "resume": resume},
    "Collect": {"collect": collect, "record": record, "score": score},
    "Data": {"mix": mix, "doctor": doctor, "render": render, "convert": convert, "show": show, "validate": validate},
    "Train": {"train": train, "improve": improve, "export": export, "cancel": cancel},
    "Measure": {
        "eval": evaluate,
        "compare": compare,
        "study": study,
        "rescore": rescore,
        "report": report,
        "view": view,
    },
    "Use": {"ask": ask, "chat": chat, "serve": serve},
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
        complain(str(error))
        sys.exit(2)
    except FireactError as error:
        complain(str(error))
        sys.exit(1)
