"""Shared by the commands: options, and functions that run a verb and print its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fireact.base.run_directory import shell_path, to_toml_table
from fireact.models.limits import Endpoint
from fireact.pipeline import verbs
from fireact.terminal.screen import TerminalProgress, print_error, print_json
from fireact.terminal.training import print_manifest

Out = Annotated[Path, typer.Option("-o", "--out", help="Run directory to write.")]
Force = Annotated[bool, typer.Option("--force", help="Delete what is in the run directory and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the resolved settings and counts; do nothing.")]
TASK = "NAME, NAME:FOLDER, FILE:QUESTION,ANSWER or module:attribute"
Tasks = Annotated[list[str] | None, typer.Option("--task", "-t", help=f"Task: {TASK}; repeatable.")]
Tools = Annotated[list[str] | None, typer.Option("--tool", help="Tool, by name or module:attribute; repeatable.")]
AgentName = Annotated[str, typer.Option("--agent", "-a", help="A directory of 'fireact train', or a model.")]
LimitsTask = Annotated[str, typer.Option("--task", "-t", help="Whose limits, and examples where the agent needs some.")]
Repairs = Annotated[int, typer.Option(help="How often a completion without an action is requested again; 0 is never.")]
Native = Annotated[bool, typer.Option("--native", help="Native tool calls instead of actions in text.")]
Calls = Annotated[
    str, typer.Option(help="record, replay or off: store LM and tool calls, answer only from stored calls, or neither.")
]
Cache = Annotated[Path | None, typer.Option(help="File of stored calls. Default: calls.sqlite in the run directory.")]
BudgetLimit = Annotated[
    str | None, typer.Option("--budget", help="5usd, 200000tokens or 1000calls: the run stops before it is passed.")
]
Rpm = Annotated[int, typer.Option(help="Requests a minute at a hosted model; 0 is no limit.")]
Tpm = Annotated[int, typer.Option(help="Tokens a minute at a hosted model; 0 is no limit.")]
Timeout = Annotated[float, typer.Option(help="Seconds that a request to a hosted model may take.")]
Prices = Annotated[
    Path | None, typer.Option(help="TOML file with prices of your own. Default: FIREACT_PRICES, then genai-prices.")
]
RendererName = Annotated[
    str, typer.Option("--renderer", help="react, tool_calls (native, by the student's chat template) or alpaca.")
]
Order = Annotated[
    str, typer.Option(help="file, or paper: shuffled as the released code does, so that -n 500 is the paper's 500.")
]
Student = Annotated[str, typer.Option("--student", help="smollm2-135m, a hub id, or a directory with a model.")]


def build_endpoint(*, rpm: int, tpm: int, timeout: float, prices: Path | None) -> Endpoint:
    """The settings of a hosted model from its options."""
    return Endpoint(rpm, tpm, timeout, None if prices is None else str(prices.absolute()))


def run_verb(verb: str, settings: dict[str, Any], out: Path, *, force: bool, dry_run: bool) -> dict[str, Any] | None:
    """Run a verb, or only show its resolved settings (then the result is None)."""
    config_class, function = verbs.load_verb(verb)
    config = config_class(**settings)
    if dry_run:
        preview = {"verb": verb, "out": str(out), "settings": to_toml_table(asdict(config))}
        if (foreseen := verbs.estimate_verb(verb, config)) is not None:
            preview["expected"] = foreseen
        print_json(preview, indent=2)
        return None
    with explain_interrupt(out):
        return function(config, out, force=force, progress=TerminalProgress())


@contextmanager
def explain_interrupt(out: Path) -> Iterator[None]:
    """On Ctrl-C, print one line that says how to resume the run, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        print_error(f"stopped. What is finished is saved; resume it with: fireact resume {shell_path(out)}")
        raise typer.Exit(130) from None


def print_result(manifest: dict[str, Any] | None, out: Path, *, as_json: bool) -> None:
    if manifest is None:
        return
    if as_json:
        print_json(manifest)
    else:
        print_manifest(manifest, out)
