"""What several commands share: options, and how a verb is run, shown and stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fireact import verbs
from fireact.models.limits import Endpoint
from fireact.store import plain, typed
from fireact.terminal.screen import Terminal, complain, print_json
from fireact.terminal.training import print_manifest

Out = Annotated[Path, typer.Option("-o", "--out", help="Run directory to write.")]
Force = Annotated[bool, typer.Option("--force", help="Delete what is in the run directory and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the resolved settings and counts; do nothing.")]
TASK = "NAME, NAME:FOLDER, FILE:QUESTION,ANSWER or module:attribute"
Tasks = Annotated[list[str] | None, typer.Option("--task", "-t", help=f"Task: {TASK}; repeatable.")]
Tools = Annotated[list[str] | None, typer.Option("--tool", help="Tool, by name or module:attribute; repeatable.")]
AgentName = Annotated[str, typer.Option("--agent", "-a", help="A directory of 'fireact train', or a model.")]
LimitsOf = Annotated[str, typer.Option("--task", "-t", help="Whose limits, and examples where the agent needs some.")]
Repairs = Annotated[int, typer.Option(help="How often a completion without an action is asked for again; 0 is never.")]
Native = Annotated[bool, typer.Option("--native", help="Native tool calls instead of actions in text.")]
Calls = Annotated[
    str, typer.Option(help="record, replay or off: keep LM and tool calls, answer from them alone, or neither.")
]
Cache = Annotated[Path | None, typer.Option(help="File of kept calls. Default: calls.sqlite in the run directory.")]
BudgetOf = Annotated[
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


def endpoint(*, rpm: int, tpm: int, timeout: float, prices: Path | None) -> Endpoint:
    """How a hosted model is asked, as options give it."""
    return Endpoint(rpm, tpm, timeout, None if prices is None else str(prices.absolute()))


def run_verb(verb: str, settings: dict[str, Any], out: Path, *, force: bool, dry_run: bool) -> dict[str, Any] | None:
    """Run a verb, or only show its resolved settings (then the result is None)."""
    config_class, function = verbs.load(verb)
    config = config_class(**settings)
    if dry_run:
        shown = {"verb": verb, "out": str(out), "settings": plain(asdict(config))}
        if (foreseen := verbs.expected(verb, config)) is not None:
            shown["expected"] = foreseen
        print_json(shown, indent=2)
        return None
    with stoppable(out):
        return function(config, out, force=force, progress=Terminal())


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """Ctrl-C ends a run with one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        complain(f"stopped. What is finished is saved; go on with: fireact resume {typed(out)}")
        raise typer.Exit(130) from None


def print_result(manifest: dict[str, Any] | None, out: Path, *, as_json: bool) -> None:
    if manifest is None:
        return
    if as_json:
        print_json(manifest)
    else:
        print_manifest(manifest, out)
