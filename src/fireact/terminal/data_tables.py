"""Prints trajectories, tasks and training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from fireact.formats.conversion import MAX_ROWS, Conversion
from fireact.render.tokens import REWRITTEN
from fireact.reporting.table import Table
from fireact.reporting.wording import UNTOLD, percent
from fireact.tasks.validate import NO_KIND, TaskValidation
from fireact.terminal.screen import STDERR, STDOUT, mark_trained_text, print_json, print_table
from fireact.training.samples import RenderCounts, SamplePreview

if TYPE_CHECKING:
    from fireact.data.doctor import Diagnosis
    from fireact.recording.scores import Grades


def print_sample(sample: SamplePreview) -> None:
    """A training sample: the trained text in green, the rest dim, and the numbers of tokens."""
    part_note = (
        f", part {sample.sample_number} of {sample.sample_count} ({REWRITTEN})" if sample.sample_count > 1 else ""
    )
    STDOUT.rule(escape(f"{sample.key}{part_note}"), align="left")
    STDOUT.print(mark_trained_text(sample.spans, STDOUT), soft_wrap=True)
    STDOUT.print(
        f"{sample.tokens} tokens, [bold green]{sample.trained} trained[/] ({percent(sample.share, 0)})", highlight=False
    )


def print_rendering(counts: RenderCounts, out: Path) -> None:
    """What was written for another trainer: samples, tokens, and skipped lines."""
    summary = f"{counts.samples} samples of {counts.trajectories} trajectories"
    if counts.tokens:
        summary += f", {counts.tokens} tokens, {percent(counts.trained / counts.tokens, 0)} of them trained"
    if counts.rewritten:
        summary += f"; {counts.rewritten} trajectories are one sample a step: {REWRITTEN}"
    if counts.skipped:
        summary += f"; {counts.skipped} lines that cannot be read are left out"
    STDOUT.print(escape(f"{summary}. Written to {out}."), soft_wrap=True)


def print_grades(grades: Grades, run: Path, *, as_json: bool) -> None:
    """How many trajectories were scored, and which were not."""
    if as_json:
        print_json(asdict(grades))
        return
    STDOUT.print(f"{escape(str(run))}: {grades.scored} scored, EM {percent(grades.em)}.")
    for label, keys in (("without a match", grades.unmatched), ("ended in a fault, not scored", grades.faults)):
        if keys:
            more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
            STDOUT.print(escape(f"{len(keys)} {label}: {', '.join(keys[:20])}{more}"))
    for line in grades.endings:
        STDOUT.print(escape(line))


def print_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """The data on one screen, and each kind of finding with its lines and fix; one object if ``as_json``."""
    if as_json:
        print_json(diagnosis.to_dict())
        return
    print_table(tabulate_groups(diagnosis))
    stops = ", ".join(f"{name} {count:,}" for name, count in sorted(diagnosis.stops.items()))
    steps = ", ".join(f"{n} in {count:,}" for n, count in diagnosis.steps.items())
    noun = "trajectory" if diagnosis.n == 1 else "trajectories"
    summary = f"{diagnosis.n:,} {noun}. How they ended: {stops}. Steps: {steps}."
    STDOUT.print(escape(summary if diagnosis.n else "No line is a trajectory."))
    if tokens := diagnosis.tokens:
        STDOUT.print(
            escape(
                f"Tokens ({diagnosis.tokenizer}): {tokens.total:,}; {tokens.mean:.0f} a sample, 95 % have at "
                f"most {tokens.p95:.0f}, the longest {tokens.max:,}. Trained on: {percent(tokens.trained_share, 0)}."
            )
        )
    for finding in diagnosis.findings:
        colour = "red" if finding.level == "error" else "yellow"
        more = ", ..." if finding.count > len(finding.lines) else ""
        lines = ", ".join(map(str, finding.lines[:8])) + (", ..." if len(finding.lines) > 8 else more)
        where = f": lines {lines}" if finding.lines else ""
        example_note = f" ({finding.example})" if finding.example else ""
        STDOUT.print(
            f"[{colour}]{finding.level}[/] {escape(f'{finding.count:,} {finding.message}{where}{example_note}')}"
        )
        STDOUT.print(escape(f"    fix: {finding.fix}"))
    for note in diagnosis.notes:
        STDOUT.print(escape(f"{note[0].upper()}{note[1:]}."))
    STDOUT.print("No errors." if diagnosis.sound else "[red]There are errors.[/]")


def tabulate_groups(diagnosis: Diagnosis) -> Table:
    """The episodes by task and method, and how many are finished and right."""
    rows = [
        [name, f"{group.n:,}", f"{group.finished:,}", f"{group.correct:,}",
         UNTOLD if group.f1 is None else percent(group.f1)]
        for name, group in diagnosis.groups.items()
    ]  # fmt: skip
    return Table("", ["task/method", "episodes", "finished", "right (EM 1)", "F1"], rows)


def tabulate_findings(diagnosis: Diagnosis) -> Table:
    """Each kind of finding: how often it occurs, and its fix."""
    rows = [[finding.level, finding.message, f"{finding.count:,}", finding.fix] for finding in diagnosis.findings]
    return Table("", ["level", "finding", "lines", "fix"], rows, notes=diagnosis.notes, names=2)


def print_validation(finding: TaskValidation) -> None:
    """What ``validate`` found: counts by split and kind, and each problem."""
    for split, kinds in finding.counts.items():
        STDOUT.print(escape(f"{finding.task} {split}: {sum(kinds.values())} questions{_list_kinds(kinds)}"))
    for problem in finding.problems:
        STDOUT.print(f"[red]{escape(problem)}[/]")
    STDOUT.print(escape(f"{finding.task}: {len(finding.problems) or 'no'} problems"))


def _list_kinds(kinds: Mapping[str, int]) -> str:
    """The questions of each kind in brackets; nothing where the task tells no kinds."""
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()) if kind != NO_KIND)
    return f" ({counts})" if counts else ""


def tabulate_validation(findings: Sequence[TaskValidation]) -> Table:
    """The questions of each split of some tasks by kind; every problem is a note."""
    rows = [
        [finding.task, split, ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))]
        for finding in findings
        for split, kinds in finding.counts.items()
    ]
    notes = [f"{finding.task}: {problem}" for finding in findings for problem in finding.problems]
    return Table("", ["task", "split", "questions"], rows, notes=notes, names=3)


def tabulate_conversion(report: Conversion) -> Table:
    """The damage of a converted file, and what its new format cannot hold."""
    damage = [["damage", kind, f"{count:,}"] for kind, count in report.damage.items()]
    dropped = [["dropped", kind, f"{count:,}"] for kind, count in report.dropped.items()]
    return Table("", ["", "kind", "episodes"], [*damage, *dropped], names=2)


def print_conversion(report: Conversion) -> None:
    """What was converted, damaged and dropped, on standard error; only a trainer's entry goes to standard output."""
    counts = ", ".join(f"{name} {n}" for name, n in report.counts.items())
    STDERR.print(
        f"{report.source_format} -> {report.to}: {report.trajectories} episodes, {report.rows} rows in "
        f"{escape(str(report.out))} ({escape(counts)})"
    )
    for kind, count in report.damage.items():
        rows = ", ".join(str(damage.number) for damage in report.first_damage[kind])
        done = "repaired" if kind in report.fixed else "left out" if kind == "unreadable" else "kept"
        STDERR.print(f"  damage: {kind}: {count}, {done} (rows {rows}{', ...' if count > MAX_ROWS else ''})")
    for kind, count in report.dropped.items():
        STDERR.print(f"  dropped: {kind}: {count} of {report.trajectories}")
    if report.trainer is not None:
        print(report.trainer)
