"""The command line: options become settings for a verb, and an error becomes one line.

Standard output carries the result (with ``--json`` one JSON object), standard error everything else. Exit
status 0 is success, 1 failure, 2 wrong usage. This package decides nothing: a Python user of the verbs misses nothing.
Invariant: a command's module is imported only when the command is used, so that help is quick.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

from fireact.errors import ConfigError, DataError, FireactError, is_near

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "The whole pipeline": {
        "quickstart": "Everything, from nothing to a fine-tuned, measured agent.",
        "resume": "Resume an interrupted run by its directory alone.",
    },
    "Collect": {
        "collect": "Collect a teacher's trajectories; every episode is kept, failed ones too.",
        "record": "Record your own agent: point its base URL here, and its calls become trajectories until Ctrl-C.",
        "score": "Attach scores to trajectories by a function or a file of answers, or score a run again by a task.",
    },
    "Data": {
        "mix": "Filter trajectories and mix them into training data, by options or by a recipe; options override "
        "the recipe.",
        "doctor": "Describe a set of trajectories and report what is wrong with it, with line numbers. Exit 1 on "
        "errors.",
        "render": "Show what a student is trained on, token by token, or write it for another trainer.",
        "convert": "Convert episodes from one format to another, and say what was damaged and what the format cannot "
        "hold.",
        "show": "Print trajectories of a run.",
        "validate": "Prove that a task is sound, or that a served student gets the tokens it was trained on.",
    },
    "Train": {
        "train": "Fine-tune a student on trajectories, loss on its own words only.",
        "prefer": "Continue a fine-tuned student by preference (DPO) on its successes and failures.",
        "tune": "Fine-tune a model at a provider: openai, together or fireworks.",
        "improve": "Rounds of rejection sampling: the student learns from its own successes, until a round gains "
        "nothing.",
        "export": "Export a fine-tuned student for transformers and vLLM, llama.cpp or Ollama.",
        "cancel": "Stop the job of a run at a provider; its cost so far is still charged.",
    },
    "Measure": {
        "eval": "Measure an agent on held-out questions: scores with intervals, by type of question, cost, reasons for "
        "failures.",
        "compare": "Compare two runs question by question: what changed, how certain that is, its cost, and flipped "
        "questions.",
        "study": "Run the missing stages of a matrix of agents; compare the agents with each other and with the "
        "paper's figures.",
        "report": "Write the report of some runs: one self-contained HTML page with every trajectory, Markdown, plots "
        "and JSON.",
        "view": "Read trajectories in a web browser, also while runs are in progress: filter, search, "
        "two runs side by side.",
    },
    "Use": {
        "ask": "Ask an agent a question, or one after the other; watch each thought, action and observation as it "
        "comes.",
        "serve": "Serve a fine-tuned student, and the agent around it, to OpenAI clients (or the agent to MCP "
        "clients).",
    },
}
"""The summary of every command, in the order and under the headings of ``fireact --help``."""
FUNCTIONS = {
    "resume": "runs", "cancel": "runs", "score": "data", "render": "data", "convert": "data", "show": "data",
    "validate": "data", "compare": "measuring", "view": "measuring", "ask": "using", "serve": "using",
}  # fmt: skip
"""The module of each command that is no verb; its function is ``NAME_command``."""
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
            name: TyperCommand(name, help=summary, rich_help_panel=heading)
            for heading, summaries in COMMANDS.items()
            for name, summary in summaries.items()
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
    """The command of a verb, or of a function."""
    if name in FUNCTIONS:
        function: Callable[..., Any] = getattr(
            importlib.import_module(f"fireact.cli.{FUNCTIONS[name]}"), f"{name}_command"
        )
        details = inspect.getdoc(function) or ""
    else:
        from fireact.base.verbs import load_verb
        from fireact.cli.options import make_verb_function

        verb = load_verb(name)
        function, details = make_verb_function(verb), f"Example: {verb.example}"
    info = CommandInfo(
        name, callback=function, help=f"{summary}\n\n{details}", rich_help_panel=heading, context_settings=HELP_FLAGS
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
