"""Prints evaluations and their reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fireact.base.run_directory import shell_path
from fireact.evaluation.failures import FAILURES
from fireact.evaluation.rescore import RescoreResult
from fireact.reporting.terminal import headline_table
from fireact.reporting.wording import number
from fireact.tasks.judge import Judge
from fireact.terminal.screen import STDOUT, new_table, percent_with_interval, print_json


def print_rescored(result: RescoreResult, judge: Judge | None, *, as_json: bool) -> None:
    """The new scores beside the reported ones, and every episode on which they differ."""
    if as_json:
        judge_fields = {} if judge is None else {"judge_model": judge.name, "judge_unclear": judge.unclear}
        spent = {} if judge is None else {"judge_usage": asdict(judge.usage)}
        print_json({**result.to_dict(), **judge_fields, **spent})
        return
    table = Table("score", "mean", "95 % interval", "reported", title=escape(f"{result.task}, {result.n} questions"))
    for name, mean in result.means.items():
        reported = f"{result.reported[name]:.1%}" if name in result.reported else "-"
        table.add_row(escape(name.upper()), f"{mean.mean:.1%}", f"{mean.low:.1%} to {mean.high:.1%}", reported)
    STDOUT.print(table)
    STDOUT.print(
        f"{result.finished} finished, {result.missing} without an episode, {result.faults} faults (not scored); gold "
        f"answers: {result.golds['task']} of the task, {result.golds['run']} of the run."
    )
    if judge is not None:
        cost = "price unknown" if judge.usage.cost is None else f"{judge.usage.cost:.2f} USD"
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
    results: Mapping[str, Mapping[str, Any]] = manifest["results"]
    STDOUT.print(f"[bold]{escape(manifest['description'])}[/]")
    _print_rows("score", _SCORES, results)
    _print_rows("per question", _SPENT, results)
    _print_groups(results)
    failed = {name: result["failures"] for name, result in results.items() if "failures" in result}
    if failed:
        table = new_table("why wrong", *FAILURES)
        for name, counts in failed.items():
            table.add_row(escape(name), *(str(counts[kind]) for kind in FAILURES))
        STDOUT.print(table)
    for name, result in results.items():
        if result.get("recovery"):
            STDOUT.print(escape(f"{name} under noise: {_format_recovery(result['recovery'])}"))
    STDOUT.print(f"{escape(str(out))} is complete. See the trajectories: fireact show {escape(shell_path(out))}")


def _score_cell(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: percent_with_interval(result[name], result[f"{name}_interval"]) if name in result else ""


def _amount_cell(name: str, form: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: "-" if result.get(name) is None else form(result[name])


def _accuracy_cell(result: Mapping[str, Any]) -> str:
    """Accuracy where it is not EM: the answers were judged, or the task has a score of its own."""
    return "" if result.get("accuracy", result["em"]) == result["em"] else _score_cell("accuracy")(result)


Cells = Mapping[str, Callable[[Mapping[str, Any]], str]]

_SCORES: Cells = {
    "n": lambda result: str(result["n"]), "EM": _score_cell("em"), "F1": _score_cell("f1"), "accuracy": _accuracy_cell,
    "finished": _score_cell("finished"),
}  # fmt: skip

_SPENT: Cells = {
    "steps": _amount_cell("steps", "{:.1f}".format), "searches": _amount_cell("searches", "{:.1f}".format),
    "tokens": _amount_cell("tokens_per_question", "{:,.0f}".format),
    "USD": _amount_cell("cost_per_question", "{:.2g}".format),
    "seconds": _amount_cell("seconds_per_question", number), "latency": _amount_cell("latency_mean", number),
    "p50": _amount_cell("latency_p50", number), "p95": _amount_cell("latency_p95", number),
}  # fmt: skip

_GROUPS = 12
"""A kind with more groups of questions than this (the subjects of MMLU) is not printed; the JSON has it."""


def _print_rows(first: str, cells: Cells, results: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a task; columns that no task fills are left out."""
    filled = {name: [cell(result) for result in results.values()] for name, cell in cells.items()}
    filled_columns = {name: column for name, column in filled.items() if any(column)}
    table = new_table(first, *filled_columns)
    for task, *row in zip(results, *filled_columns.values(), strict=True):
        table.add_row(escape(task), *row)
    STDOUT.print(table)


def _print_groups(results: Mapping[str, Mapping[str, Any]]) -> None:
    spent = {name: _SPENT[name] for name in ("steps", "searches", "tokens", "latency")}
    table = new_table("by", "", "n", "EM", "finished", *spent)
    for task, result in results.items():
        for kind, groups in result.get("by", {}).items():
            for index, (value, group) in enumerate(groups.items() if 1 < len(groups) <= _GROUPS else ()):
                cells = [
                    str(group["n"]),
                    percent_with_interval(group["em"], group["em_interval"]),
                    f"{group['finished']:.0%}",
                ]
                cells += [cell(group) for cell in spent.values()]
                table.add_row("" if index else escape(f"{task}: {kind}"), escape(value), *cells)
    table.columns[1].justify = "left"
    if table.row_count:
        STDOUT.print(table)


def _format_recovery(recovery: Mapping[str, Any]) -> str:
    right = percent_with_interval(recovery["right"], recovery["right_interval"])
    retried = percent_with_interval(recovery["retried"], recovery["retried_interval"])
    return (
        f"{recovery['disturbed']} of {recovery['questions']} episodes had a disturbed call "
        f"({recovery['disturbed_calls']} calls). Of these, {right} ended right; "
        f"{retried} repeated the call and then answered."
    )


def print_report(directory: Path, *, as_json: bool) -> None:
    """The before/after table of a report, and its path."""
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print_json(data)
        return
    STDOUT.print(headline_table(data))
    stages = data["timings"]["stages"]
    if stages:
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items())
        memory = data["timings"]["peak_memory_gb"]
        STDOUT.print(
            escape(
                f"Time: {sum(stages.values()) / 60:.1f} min ({spent})"
                + (f"; peak memory {memory:.1f} GB" if memory else "")
            )
        )
    STDOUT.print(f"Report: {escape(str(directory / 'report.html'))}")
