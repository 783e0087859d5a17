"""Prints evaluations and their reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from fireact.base.run_directory import shell_path
from fireact.evaluation.breakdown import TRAINED
from fireact.evaluation.failures import FAILURES
from fireact.evaluation.measures import GroupSummary, Measures
from fireact.evaluation.recovery import Recovery
from fireact.evaluation.rescore import RescoreResult
from fireact.evaluation.statistics import Estimate
from fireact.evaluation.summary import Summary, read_summaries
from fireact.reporting.report_tables import get_amount, read_headline_table, read_run_table, share_cell
from fireact.reporting.table import Row, Table
from fireact.reporting.wording import (
    UNTOLD,
    count_of,
    describe_prompt_tokens,
    describe_trained_questions,
    dollars,
    duration,
    interval,
    number,
    percent,
    share,
)
from fireact.terminal.screen import STDOUT, print_json, print_table
from fireact.tools.replayed import ReplayCounts


def print_rescored(result: RescoreResult, *, as_json: bool) -> None:
    """The new scores beside the reported ones, and every episode on which they differ."""
    if as_json:
        print_json(result.to_dict())
        return
    print_table(tabulate_rescored(result))
    judge = result.judge
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


def tabulate_rescored(result: RescoreResult) -> Table:
    """The new scores beside the reported ones."""
    rows: list[Row] = [
        [name.upper(), percent(mean.mean), interval(mean.interval), _reported_score(result, name)]
        for name, mean in result.means.items()
    ]
    note = (
        f"{result.finished} finished, {result.missing} without an episode, {result.faults} faults (not scored); gold "
        f"answers: {result.golds['task']} of the task, {result.golds['run']} of the run."
    )
    title = f"{result.task}, {count_of(result.n, 'question')}"
    return Table(title, ["score", "mean", "95% interval", "reported"], rows, notes=[note])


def print_evaluation(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Scores, costs and failures of each task in tables for 80 columns; if ``as_json``, the manifest."""
    if as_json:
        print_json(manifest)
        return
    STDOUT.print(f"[bold]{escape(manifest['description'])}[/]")
    results = read_summaries(manifest)
    *details, scores = list_evaluation_tables(results)
    for table in details:
        print_table(table)
    for task, summary in results.items():
        if summary.recovery:
            STDOUT.print(escape(f"{task} under noise: {_describe_recovery(summary.recovery)}"))
    for line in list_evaluation_notes(manifest):
        STDOUT.print(escape(line), soft_wrap=True)
    print_table(scores)
    STDOUT.print(f"{escape(str(out))} is complete. See the trajectories: fireact show {escape(shell_path(out))}")


def list_evaluation_notes(manifest: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the numbers: trained questions, tools that answered as recorded, prompt tokens."""
    results = read_summaries(manifest)
    trained = {task: summary.by[TRAINED] for task, summary in results.items() if TRAINED in summary.by}
    notes = [describe_trained_questions(task, groups) for task, groups in trained.items()]
    notes += [
        f"{task}: {count} questions were left out, since the run has no right answer to them"
        for task, count in manifest.get("left_out", {}).items()
        if count
    ]
    if "replayed" in manifest:
        notes.append(str(ReplayCounts(**manifest["replayed"])))
    if "prompt" in manifest:
        notes.append(describe_prompt_tokens(manifest["prompt"]))
    return notes


def list_evaluation_tables(results: Mapping[str, Summary]) -> list[Table]:
    """The tables of an evaluation, by task: what a question takes, kinds of questions, failures, and last the scores.

    Without groups of questions or failures, their tables are absent.
    """
    failures = [
        [task, *(str(summary.failures[kind]) for kind in FAILURES)]
        for task, summary in results.items()
        if summary.failures
    ]
    groups = _list_group_rows(results)
    return [
        _tabulate_amounts(results),
        *(
            [Table("", ["by", "", "n", "EM", "finished", *_GROUP_AMOUNTS], groups, names=2, grouped=True)]
            if groups
            else []
        ),
        *([Table("", ["why wrong", *FAILURES], failures)] if failures else []),
        tabulate_scores(results),
    ]


def _reported_score(result: RescoreResult, name: str) -> str:
    return percent(result.reported[name]) if name in result.reported else UNTOLD


_AMOUNTS = {
    "steps": "steps", "searches": "searches", "tokens": "tokens_per_question", "cost": "cost_per_question",
    "seconds": "seconds_per_question", "latency": "latency_mean", "p50": "latency_p50", "p95": "latency_p95",
}  # fmt: skip

_GROUP_AMOUNTS = ("steps", "searches", "tokens", "latency")
"""The amounts of each kind of question."""
_GROUPS = 12
"""A kind with more groups of questions than this (the subjects of MMLU) is not printed; the JSON has it."""


def tabulate_scores(results: Mapping[str, Summary]) -> Table:
    """The scores of each task with their intervals."""
    rows: list[Row] = [
        [task, str(summary.n), *(share_cell(estimate, 0) for estimate in _scores_of(summary.measures))]
        for task, summary in results.items()
    ]
    return Table("", ["score", "n", "EM", "F1", "accuracy", "finished"], rows).without_empty_columns()


def _scores_of(measures: Measures) -> list[Estimate | None]:
    return [measures.em, measures.f1, measures.differing_accuracy, measures.finished]


def _tabulate_amounts(results: Mapping[str, Summary]) -> Table:
    rows = [[task, *(_amount(summary, name) for name in _AMOUNTS.values())] for task, summary in results.items()]
    return Table("", ["per question", *_AMOUNTS], rows).without_empty_columns()


def _amount(summary: Summary, name: str) -> str:
    """The mean alone: its interval is in the report."""
    amount = get_amount(summary, name)
    mean = amount.mean if isinstance(amount, Estimate) else amount
    return dollars(mean) if name == "cost_per_question" else number(mean)


def _list_group_rows(results: Mapping[str, Summary]) -> list[Row]:
    """A row for each kind of question of each task, where a task has several kinds."""
    return [
        [f"{task}: {kind}", value, str(group.n), share_cell(group.measures.em, 0),
         percent(group.measures.finished.mean, 0), *(_group_amount(group, _AMOUNTS[name]) for name in _GROUP_AMOUNTS)]
        for task, summary in results.items()
        for kind, groups in summary.by.items()
        for value, group in (groups.items() if 1 < len(groups) <= _GROUPS else ())
    ]  # fmt: skip


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
    shown = {name for line in data["headlines"] for name in (line["before"], line["after"])}
    if set(data["agents"]) - shown:
        print_table(read_run_table(data))
    timings = data["timings"]
    stages, memory = timings["stages"], timings["peak_memory_gb"]
    if stages:
        spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
        memory_note = f"; peak memory {memory:.1f} GB" if memory else ""
        STDOUT.print(escape(f"Time: {duration(sum(stages.values()))} ({spent}){memory_note}"))
    STDOUT.print(f"Report: {escape(str(directory / 'report.html'))}")
