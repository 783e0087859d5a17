"""What runs and training came to, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from fireact.serving.conformance import Conformance
from fireact.store import typed

if TYPE_CHECKING:
    pass
from fireact.terminal.screen import RESULT, print_json


def print_manifest(manifest: Mapping[str, Any], out: Path) -> None:
    """What a verb did, in a few lines: counts by task and method, and where it lies."""
    counts = manifest.get("counts")
    if counts:
        table = Table("task/method", "episodes", "finished", "right (EM 1)")
        for name, count in counts.items():
            table.add_row(escape(name), str(count["n"]), str(count["finished"]), str(count["correct"]))
        RESULT.print(table)
    usage = manifest.get("usage")
    if counts and usage:
        cost = "price not known (see --prices)" if usage["cost"] is None else f"${usage['cost']:,.4f}"
        tokens = f"{usage['prompt_tokens']:,} tokens read ({usage['cached_tokens']:,} cached), {usage['completion_tokens']:,} written"
        repaired = f"; {manifest['repairs']} repairs" if manifest.get("repairs") else ""
        RESULT.print(f"{usage['calls']:,} calls, {tokens}, {cost}{repaired}")
    for line in manifest.get("history", ()):
        RESULT.print(escape(line))
    if remaining := manifest.get("remaining"):
        RESULT.print(escape(f"Still to say of it: {', '.join(f'{kind} {n}' for kind, n in remaining.items())}."))
    RESULT.print(f"{escape(str(out))} is complete ({manifest['seconds']:.0f} s).")


def print_conformance(held: Conformance) -> None:
    """What was compared, and how it came out."""
    RESULT.print(f"{held.equal} of {held.turns} turns are served in the tokens that they were trained in")
    RESULT.print(
        f"{held.differing} of {held.prompts} answers differ between merged weights and the adapter at run time"
        if held.prompts
        else "no answers were compared: there is no adapter, or no room for an answer"
    )
    for shown in held.unequal:
        RESULT.print(escape(f"differs after: {shown}"))


def print_training(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """What was trained, how fast, and how to ask it something."""
    if as_json:
        print_json(manifest)
        return
    if "machine_rank" in manifest:  # of several; the first one has the figures
        return
    RESULT.print(
        f"{manifest['samples']} samples ({manifest['dropped']} too long), {manifest['steps']} steps, "
        f"loss {manifest['final_loss']:.3f}, {manifest['tokens_per_second']:.0f} tokens/s, "
        f"{manifest['trained_parameters'] / 1e6:.1f} M parameters trained."
    )
    RESULT.print(f'{escape(str(out))} is complete. Ask it: fireact ask "QUESTION" --agent {escape(typed(out))}')
