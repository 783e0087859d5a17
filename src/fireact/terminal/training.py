"""Prints the results of runs and training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from fireact.base.run_directory import shell_path
from fireact.reporting.rows import TrainingFacts
from fireact.reporting.table import Row, Table
from fireact.reporting.wording import dollars, duration
from fireact.rollout.collection import EpisodeCounts, read_counts
from fireact.serving.conformance import Conformance
from fireact.terminal.screen import STDOUT, print_json, print_table
from fireact.types import Usage


def print_manifest(manifest: Mapping[str, Any], out: Path) -> None:
    """What a verb did, in a few lines: counts by task and method, usage, and the path of the run."""
    counts = read_counts(manifest)
    if counts:
        print_table(tabulate_counts(counts))
    if counts and manifest.get("usage"):
        usage, repairs = Usage(**manifest["usage"]), manifest.get("repairs")
        cost = "price not known (see --prices)" if usage.cost is None else dollars(usage.cost)
        tokens = f"{usage.prompt_tokens:,} tokens read ({usage.cached_tokens:,} cached)"
        repaired = f"; {repairs} repairs" if repairs else ""
        STDOUT.print(f"{usage.calls:,} calls, {tokens}, {usage.completion_tokens:,} written, {cost}{repaired}")
    for line in (*manifest.get("history", ()), *manifest.get("endings", ())):
        STDOUT.print(escape(line))
    if remaining := manifest.get("remaining"):
        STDOUT.print(escape(f"Remaining findings: {', '.join(f'{kind} {n}' for kind, n in remaining.items())}."))
    STDOUT.print(f"{escape(str(out))} is complete ({duration(manifest['seconds'])}).")


def print_preview(preview: Mapping[str, Any], *, as_json: bool) -> None:
    """What a run would do and cost: its settings, and what is expected of it."""
    if as_json:
        print_json(preview)
        return
    for table in list_preview_tables(preview):
        print_table(table)
    STDOUT.print(f"{escape(preview['verb'])} would write {escape(preview['out'])}. Nothing was run or written.")


def list_preview_tables(preview: Mapping[str, Any]) -> list[Table]:
    """The tables of a dry run: what is expected, where there is an estimate, after the settings."""
    parts = [("setting", preview["settings"], ""), ("expected", preview.get("expected", {}), "not known")]
    return [
        Table("", [heading, ""], list(_list_facts(facts, unknown)), names=2)
        for heading, facts, unknown in parts
        if facts
    ]


def _list_facts(facts: Mapping[str, Any], unknown: str, prefix: str = "") -> Iterator[Row]:
    """The names and values of facts, those of tables inside with a dotted name; what is not set is left out."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _list_facts(value, unknown, f"{prefix}{name}.")
            continue
        if isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            text = unknown if value is None else str(value)
        else:
            text = f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
        if text:
            yield [f"{prefix}{name}", text]


def tabulate_counts(counts: Mapping[str, EpisodeCounts]) -> Table:
    """How many episodes there are by task and method, and how many are finished and right."""
    rows = [[name, *map(str, (count.n, count.finished, count.correct))] for name, count in counts.items()]
    return Table("", ["task/method", "episodes", "finished", "right (EM 1)"], rows)


def print_conformance(conformance: Conformance) -> None:
    """How many turns and answers were compared, and how many are equal."""
    STDOUT.print(f"{conformance.equal} of {conformance.turns} turns are served in the tokens that were trained on")
    STDOUT.print(
        f"{conformance.differing} of {conformance.prompts} answers differ between merged weights and run-time adapter"
        if conformance.prompts
        else "no answers were compared: there is no adapter, or no room for an answer"
    )
    for line in conformance.left_out:
        STDOUT.print(escape(f"not trained on, so not compared: {line}"))
    for line in conformance.refused:
        STDOUT.print(escape(f"refused by 'fireact serve' without --lenient: {line}"))
    for prompt in conformance.unequal:
        STDOUT.print(escape(f"differs after: {prompt}"))


def print_training(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """What was trained, how fast, and how to ask it something."""
    if as_json:
        print_json(manifest)
        return
    if "machine_rank" in manifest:  # one of several machines; the first one prints the numbers
        return
    facts = TrainingFacts.from_dict(manifest)
    STDOUT.print(
        f"{facts.samples} samples ({facts.dropped} too long), {facts.steps} steps, loss {facts.final_loss:.3f}, "
        f"{facts.tokens_per_second:.0f} tokens/s, {facts.trained_parameters / 1e6:.1f} M parameters trained."
    )
    STDOUT.print(f'{escape(str(out))} is complete. Ask it: fireact ask "QUESTION" --agent {escape(shell_path(out))}')
