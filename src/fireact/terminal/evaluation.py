"""Prints evaluations and their reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from fireact.base.run_directory import shell_path
from fireact.evaluation.failures import FAILURES
from fireact.evaluation.measures import GroupSummary, Measures
from fireact.evaluation.recovery import Recovery
from fireact.evaluation.rescore import RescoreResult
from fireact.evaluation.statistics import Estimate
from fireact.evaluation.summary import Summary
from fireact.reporting.report_tables import get_amount, read_headline_table, share_cell
from fireact.reporting.table import Row, Table
from fireact.reporting.wording import UNTOLD, count_of, dollars, duration, interval, number, percent, share
from fireact.tasks.judge import Judge
from fireact.terminal.screen import STDOUT, print_json, print_table


def print_rescored(result: RescoreResult, judge: Judge | None, *, as_json: bool) -> None:
    """The new scores beside the reported ones, and every episode on which they differ."""
    if as_json:
        judge_fields = {} if judge is None else {"judge_model": judge.name, "judge_unclear": judge.unclear}
        spent = {} if judge is None else {"judge_usage": asdict(judge.usage)}
        print_json({**result.to_dict(), **judge_fields, **spent})
        return
    rows: list[Row] = [
        [name.upper(), percent(mean.mean), interval(mean.interval), _reported_score(result, name)]
        for name, mean in result.means.items()
    ]
    note = (
        f"{result.finished} finished, {result.missing} without an episode, {result.faults} faults (not scored); gold "
        f"answers: {result.golds['task']} of the task, {result.golds['run']} of the run."
    )
    title = f"{result.task}, {count_of(result.n, 'question')}"
    print_table(Table(title, ["score", "mean", "95% interval", "reported"], rows, notes=[note]))
    if judge is not None:
        cost = "price unknown" if judge.usage.cost is None else dollars(judge.usage.cost)
        tokens = judge.usage.prompt_tokens + judge.usage.completion_tokens
        STDOUT.print(
            escape(f"Judge {judge.name}: {judge.usage.calls} calls, {tokens} tokens, {cost}; {judge.unclear} unclear.")
        )
    for item in result.disagreements:
        STDOUT.print(
            f"[red]{escape(item.id)}[/] {escape(item.question)}\n    answer {escape(repr(item.answer))}, gold "
            f"{escape(repr(item.gold))}: {escape(item.score)} {item.theirs:g} there, {item.ours:g} here"
        )
    STDOUT.print(f"{len(result.disagreements) or 'no'} disagreements with the scores in the run.")


def print_evaluation(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Scores, costs and failures of each task in tables for 80 columns; if ``as_json``, one object, which has more."""
    if as_json:
        print_json({"agents": {manifest["agent"]: manifest["results"]}})
        return
    results = {task: Summary.from_dict(fields) for task, fields in manifest["results"].items()}
    STDOUT.print(f"[bold]{escape(manifest['description'])}[/]")
    _print_amounts(results)
    _print_groups(results)
    failures = [
        [task, *(str(summary.failures[kind]) for kind in FAILURES)]
        for task, summary in results.items()
        if summary.failures
    ]
    if failures:
        print_table(Table("", ["why wrong", *FAILURES], failures))
    for task, summary in results.items():
        if summary.recovery:
            STDOUT.print(escape(f"{task} under noise: {_describe_recovery(summary.recovery)}"))
    _print_scores(results)
    STDOUT.print(f"{escape(str(out))} is complete. See the trajectories: fireact show {escape(shell_path(out))}")


def _reported_score(result: RescoreResult, name: str) -> str:
    return percent(result.reported[name]) if name in result.reported else UNTOLD


_AMOUNTS = {
    "steps": "steps", "searches": "searches", "tokens": "tokens_per_question", "cost": "cost_per_question",
    "seconds": "seconds_per_question", "latency": "latency_mean", "p50": "latency_p50", "p95": "latency_p95",
}  # fmt: skip

_GROUPS = 12
"""A kind with more groups of questions than this (the subjects of MMLU) is not printed; the JSON has it."""


def _print_scores(results: Mapping[str, Summary]) -> None:
    rows: list[Row] = [
        [task, str(summary.n), *(share_cell(estimate, 0) for estimate in _scores_of(summary.measures))]
        for task, summary in results.items()
    ]
    table = Table("", ["score", "n", "EM", "F1", "accuracy", "finished"], rows)
    print_table(table.without_empty_columns())


def _scores_of(measures: Measures) -> list[Estimate | None]:
    return [measures.em, measures.f1, measures.differing_accuracy, measures.finished]


def _print_amounts(results: Mapping[str, Summary]) -> None:
    rows = [[task, *(_amount(summary, name) for name in _AMOUNTS.values())] for task, summary in results.items()]
    print_table(Table("", ["per question", *_AMOUNTS], rows).without_empty_columns())


def _amount(summary: Summary, name: str) -> str:
    """The mean alone: its interval is in the report."""
    amount = get_amount(summary, name)
    mean = amount.mean if isinstance(amount, Estimate) else amount
    return dollars(mean) if name == "cost_per_question" else number(mean)


def _print_groups(results: Mapping[str, Summary]) -> None:
    amounts = {name: _AMOUNTS[name] for name in ("steps", "searches", "tokens", "latency")}
    rows: list[Row] = [
        [f"{task}: {kind}", value, str(group.n), share_cell(group.measures.em, 0),
         percent(group.measures.finished.mean, 0), *(_group_amount(group, name) for name in amounts.values())]
        for task, summary in results.items()
        for kind, groups in summary.by.items()
        for value, group in (groups.items() if 1 < len(groups) <= _GROUPS else ())
    ]  # fmt: skip
    if rows:
        print_table(Table("", ["by", "", "n", "EM", "finished", *amounts], rows, names=2, grouped=True))


def _group_amount(group: GroupSummary, name: str) -> str:
    amount = group.measures.get(name)
    return number(amount.mean if amount else None)


def _describe_recovery(recovery: Recovery) -> str:
    return (
        f"{recovery.episodes} of {recovery.all} episodes had a disturbed call ({recovery.calls} calls). "
        f"Of these, {share(recovery.right, 0)} ended right; "
        f"{share(recovery.retried, 0)} repeated the call and then answered."
    )


def print_report(directory: Path, *, as_json: bool) -> None:
    """The before/after table of a report, and its path."""
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print_json(data)
        return
    print_table(read_headline_table(data))
    timings = data["timings"]
    stages, memory = timings["stages"], timings["peak_memory_gb"]
    if stages:
        spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
        memory_note = f"; peak memory {memory:.1f} GB" if memory else ""
        STDOUT.print(escape(f"Time: {duration(sum(stages.values()))} ({spent}){memory_note}"))
    STDOUT.print(f"Report: {escape(str(directory / 'report.html'))}")
