"""The command line: options become settings for a verb, and an error becomes one line.

Standard output carries the result (with ``--json`` one JSON object), standard error everything else. Exit
status 0 is success, 1 failure, 2 wrong usage. This package decides nothing: a Python user of the verbs misses nothing.
Invariant: a command's module is imported only when the command is used, so that help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

from fireact.base.commands import HEADINGS
from fireact.errors import ConfigError, DataError, FireactError, is_near

RENAMED = {
    ("chat", ""): "ask without a question",
    ("rescore", ""): "score FILE --task TASK",
    ("train", "--hosted"): "tune DATA KIND:MODEL",
    ("train", "--preference"): "prefer DATA RUN",
    ("doctor", "--serve"): "validate RUN",
}
"""Commands and options of earlier versions, and what to type now."""
HELP_FLAGS = {"help_option_names": ["-h", "--help"]}
_is_verbose = False


class CommandGroup(TyperGroup):
    """The group of all commands; each is built when it is used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {
            name: TyperCommand(name, help=entry.summary, rich_help_panel=heading)
            for heading, entries in HEADINGS.items()
            for name, entry in entries.items()
        }
        self._built: set[str] = set()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command with its options. Its module is imported here."""
        if cmd_name in self.commands and cmd_name not in self._built:
            self._built.add(cmd_name)
            summary: Any = self.commands[cmd_name]
            self.commands[cmd_name] = build_command(cmd_name, summary.help or "", summary.rich_help_panel)
            self.commands[cmd_name].params += [entry for entry in self.params if entry.name in ("quiet", "verbose")]
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. Raises ConfigError for a spelling of earlier versions."""
        refuse_renamed(args)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; of the options that a wrong one may mean, only those are named that are near it."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            wrong, near = getattr(error, "option_name", ""), getattr(error, "possibilities", None)
            if near:
                near_options = [option for option in near if is_near(wrong.strip("-"), option.strip("-"))]
                error.possibilities = near_options  # type: ignore[attr-defined]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help from the summaries alone."""
        built, self._built = self._built, set(self.commands)
        super().format_help(ctx, formatter)
        self._built = built


def refuse_renamed(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a command or option of earlier versions, with the name that it has now."""
    for (command, option), spelling in RENAMED.items():
        is_used = not option or any(text.partition("=")[0] == option for text in arguments)
        if arguments and arguments[0] == command and is_used:
            raise ConfigError(f"'fireact {f'{command} {option}'.strip()}' is now: fireact {spelling}")


def build_command(name: str, summary: str, heading: str | None) -> Any:
    """A command with its options; its record is loaded here."""
    from fireact.base.verbs import load_command
    from fireact.cli.options import make_callback

    record = load_command(name)
    details = "\n\n".join(filter(None, [summary, record.details, f"Example: {record.example}"]))
    context = {**HELP_FLAGS, "ignore_unknown_options": record.passes_options}
    info = CommandInfo(
        name, callback=make_callback(record), help=details, rich_help_panel=heading, context_settings=context
    )
    return typer.main.get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode="markdown")


app = typer.Typer(
    name="fireact",
    cls=CommandGroup,
    help="Make language agents by fine-tuning: collect a teacher's trajectories, train a small student, measure it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=HELP_FLAGS,
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"fireact {version('fireact')}")
        raise typer.Exit


def _be_quiet(is_wanted: bool) -> None:
    if is_wanted:
        from fireact.terminal.screen import TerminalProgress

        TerminalProgress.is_quiet = True


def _be_verbose(is_wanted: bool) -> None:
    global _is_verbose
    if is_wanted:
        import logging

        _is_verbose = True
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)


@app.callback()
def set_manners(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", callback=_be_quiet, expose_value=False, help="Show no progress on standard error.",
            rich_help_panel="Output",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v", "--verbose", callback=_be_verbose, expose_value=False, rich_help_panel="Output",
            help="Show the log of libraries, and the traceback of an error.",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Options of all commands."""


def main() -> None:
    """The entry point ``fireact``."""
    try:
        app(standalone_mode=True)
    except FireactError as error:
        from fireact.terminal.screen import print_error

        if _is_verbose:
            import traceback

            traceback.print_exc()
        print_error(str(error))
        sys.exit(2 if isinstance(error, ConfigError | DataError) else 1)
