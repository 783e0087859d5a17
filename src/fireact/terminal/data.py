"""Trajectories, tasks and training data, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from fireact.render.tokens import REWRITTEN
from fireact.tasks.validate import Validation
from fireact.training.samples import Peek

if TYPE_CHECKING:
    from fireact.data.doctor import Diagnosis
from fireact.terminal.screen import NOTES, RESULT, marked, print_json


def print_sample(sample: Peek) -> None:
    """A training sample: the trained words in green, the others dim, and how many they are."""
    part = f", part {sample.part} of {sample.parts} ({REWRITTEN})" if sample.parts > 1 else ""
    RESULT.rule(escape(f"{sample.key}{part}"), align="left")
    RESULT.print(marked(sample.spans, RESULT), soft_wrap=True)
    RESULT.print(
        f"{sample.tokens} tokens, [bold green]{sample.trained} trained[/] ({sample.share:.0%})", highlight=False
    )


def print_rendering(counts: Mapping[str, Any], out: Path) -> None:
    """What was written for another trainer."""
    shown = f"{counts['samples']} samples of {counts['trajectories']} trajectories"
    if counts["tokens"]:
        shown += f", {counts['tokens']} tokens, {counts['trained'] / counts['tokens']:.0%} of them trained"
    if counts["rewritten"]:
        shown += f"; {counts['rewritten']} trajectories are one sample a step: {REWRITTEN}"
    if counts["skipped"]:
        shown += f"; {counts['skipped']} lines that cannot be read are left out"
    RESULT.print(escape(f"{shown}. Written to {out}."), soft_wrap=True)


def print_grades(grades: Mapping[str, Any], run: Path, *, as_json: bool) -> None:
    """How many trajectories were scored, and which were not."""
    if as_json:
        print_json(grades)
        return
    RESULT.print(f"{escape(str(run))}: {grades['scored']} scored, EM {grades['em']:.1%}.")
    for what, found in (("without a match", grades["unmatched"]), ("ended in a fault, not scored", grades["faults"])):
        if found:
            more = f" and {len(found) - 20} more" if len(found) > 20 else ""
            RESULT.print(escape(f"{len(found)} {what}: {', '.join(found[:20])}{more}"))


def print_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """What is in the data on one screen, and each kind of finding with lines and fix; with ``as_json`` one object."""
    if as_json:
        print_json(diagnosis.to_dict())
        return
    table = Table("task/method", "episodes", "finished", "right (EM 1)", "F1")
    for name, group in diagnosis.groups.items():
        counts = (f"{group[column]:,.0f}" for column in ("n", "finished", "correct"))
        table.add_row(escape(name), *counts, f"{group['f1']:.1%}" if "f1" in group else "-")
    RESULT.print(table)
    stops = ", ".join(f"{name} {count:,}" for name, count in sorted(diagnosis.stops.items()))
    steps = ", ".join(f"{n}: {count:,}" for n, count in diagnosis.steps.items())
    told = f"{diagnosis.n:,} trajectories. Stopped: {stops}. Steps: {steps}."
    RESULT.print(escape(told if diagnosis.n else "No line is a trajectory."))
    if tokens := diagnosis.tokens:
        RESULT.print(
            escape(
                f"Tokens ({diagnosis.tokenizer}): {tokens['total']:,}; {tokens['mean']:.0f} a sample, 95 % have at most "
                f"{tokens['p95']:.0f}, the longest {tokens['max']:,}. Trained on: {tokens['trained_share']:.0%}."
            )
        )
    for finding in diagnosis.findings:
        colour = "red" if finding.level == "error" else "yellow"
        more = ", ..." if finding.count > len(finding.lines) else ""
        lines = ", ".join(map(str, finding.lines[:8])) + (", ..." if len(finding.lines) > 8 else more)
        where = f": lines {lines}" if finding.lines else ""
        such = f" ({finding.example})" if finding.example else ""
        RESULT.print(f"[{colour}]{finding.level}[/] {escape(f'{finding.count:,} {finding.says}{where}{such}')}")
        RESULT.print(escape(f"    fix: {finding.fix}"))
    for note in diagnosis.notes:
        RESULT.print(escape(f"{note[0].upper()}{note[1:]}."))
    RESULT.print("No errors." if diagnosis.sound else "[red]There are errors.[/]")


def print_validation(finding: Validation) -> None:
    """What ``validate`` found: counts by split and kind, and each problem."""
    for split, kinds in finding.counts.items():
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        RESULT.print(escape(f"{finding.task} {split}: {sum(kinds.values())} questions ({counts})"))
    for problem in finding.problems:
        RESULT.print(f"[red]{escape(problem)}[/]")
    RESULT.print(escape(f"{finding.task}: {len(finding.problems) or 'no'} problems"))


def print_conversion(report: Mapping[str, Any]) -> None:
    """What was converted, what was damaged and what was dropped; a trainer's entry alone goes to standard output."""
    NOTES.print(
        f"{report['from']} -> {report['to']}: {report['trajectories']} episodes, {report['rows']} rows in "
        f"{escape(str(report['out']))} ({escape(', '.join(f'{name} {n}' for name, n in report['counts'].items()))})"
    )
    for kind, found in report["damage"].items():
        rows = ", ".join(str(row["row"]) for row in found["first"])
        done = "repaired" if kind in report["fixed"] else "left out" if kind == "unreadable" else "kept"
        NOTES.print(f"  damage: {kind}: {found['n']}, {done} (rows {rows}{', ...' if found['n'] > 3 else ''})")
    for kind, count in report["dropped"].items():
        NOTES.print(f"  dropped: {kind}: {count} of {report['trajectories']}")
    if "trainer" in report:
        print(report["trainer"])
