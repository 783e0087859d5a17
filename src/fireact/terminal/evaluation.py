"""Evaluations and their reports, as a person reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from fireact.evaluation.failures import FAILURES
from fireact.evaluation.rescore import Rescored
from fireact.reporting.terminal import table as report_table
from fireact.reporting.wording import number
from fireact.store import typed
from fireact.tasks.judge import Judge

if TYPE_CHECKING:
    pass
from fireact.terminal.screen import RESULT, new_table, percent, print_json


def print_rescored(result: Rescored, judge: Judge | None, *, as_json: bool) -> None:
    """The scores beside those that the run reported, and every episode on which they differ."""
    if as_json:
        asked = {} if judge is None else {"judge_model": judge.name, "judge_unclear": judge.unclear}
        spent = {} if judge is None else {"judge_usage": asdict(judge.usage)}
        print_json({**result.to_dict(), **asked, **spent})
        return
    table = Table("score", "mean", "95 % interval", "reported", title=escape(f"{result.task}, {result.n} questions"))
    for name, mean in result.means.items():
        own = f"{result.reported[name]:.1%}" if name in result.reported else "-"
        table.add_row(escape(name.upper()), f"{mean.mean:.1%}", f"{mean.low:.1%} to {mean.high:.1%}", own)
    RESULT.print(table)
    RESULT.print(
        f"{result.finished} finished, {result.missing} without an episode, {result.faults} faults (not scored); gold "
        f"answers: {result.golds['task']} of the task, {result.golds['run']} of the run."
    )
    if judge is not None:
        cost = "price unknown" if judge.usage.cost is None else f"{judge.usage.cost:.2f} USD"
        tokens = judge.usage.prompt_tokens + judge.usage.completion_tokens
        RESULT.print(
            escape(f"Judge {judge.name}: {judge.usage.calls} calls, {tokens} tokens, {cost}; {judge.unclear} unclear.")
        )
    for item in result.disagreements:
        RESULT.print(
            f"[red]{escape(item.id)}[/] {escape(item.question)}\n    answer {escape(repr(item.answer))}, gold "
            f"{escape(repr(item.gold))}: {escape(item.score)} {item.theirs:g} there, {item.ours:g} here"
        )
    RESULT.print(f"{len(result.disagreements) or 'no'} disagreements with the scores in the run.")


def print_evaluation(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """What each task scored, took and failed by, on tables for 80 columns; with ``as_json`` one object, which has more."""
    if as_json:
        print_json({"agents": {manifest["agent"]: manifest["results"]}})
        return
    results: Mapping[str, Mapping[str, Any]] = manifest["results"]
    RESULT.print(f"[bold]{escape(manifest['description'])}[/]")
    _print_rows("score", _SCORES, results)
    _print_rows("per question", _SPENT, results)
    _print_groups(results)
    failed = {name: result["failures"] for name, result in results.items() if "failures" in result}
    if failed:
        table = new_table("why wrong", *FAILURES)
        for name, found in failed.items():
            table.add_row(escape(name), *(str(found[kind]) for kind in FAILURES))
        RESULT.print(table)
    for name, result in results.items():
        if result.get("recovery"):
            RESULT.print(escape(f"{name} under noise: {_recovered(result['recovery'])}"))
    RESULT.print(f"{escape(str(out))} is complete. See the trajectories: fireact show {escape(typed(out))}")


def _score_cell(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: percent(result[name], result[f"{name}_interval"]) if name in result else ""


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
    "tokens": _amount_cell("tokens_per_question", "{:,.0f}".format), "USD": _amount_cell("cost_per_question", "{:.2g}".format),
    "seconds": _amount_cell("seconds_per_question", number), "latency": _amount_cell("latency_mean", number),
    "p50": _amount_cell("latency_p50", number), "p95": _amount_cell("latency_p95", number),
}  # fmt: skip

_GROUPS = 12
"""So many groups of questions are printed; more (the subjects of MMLU) are in the JSON."""


def _print_rows(first: str, cells: Cells, results: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a task; columns that no task fills are left out."""
    filled = {name: [cell(result) for result in results.values()] for name, cell in cells.items()}
    shown = {name: column for name, column in filled.items() if any(column)}
    table = new_table(first, *shown)
    for task, *row in zip(results, *shown.values(), strict=True):
        table.add_row(escape(task), *row)
    RESULT.print(table)


def _print_groups(results: Mapping[str, Mapping[str, Any]]) -> None:
    spent = {name: _SPENT[name] for name in ("steps", "searches", "tokens", "latency")}
    table = new_table("by", "", "n", "EM", "finished", *spent)
    for task, result in results.items():
        for kind, groups in result.get("by", {}).items():
            for at, (value, group) in enumerate(groups.items() if 1 < len(groups) <= _GROUPS else ()):
                cells = [str(group["n"]), percent(group["em"], group["em_interval"]), f"{group['finished']:.0%}"]
                cells += [cell(group) for cell in spent.values()]
                table.add_row("" if at else escape(f"{task}: {kind}"), escape(value), *cells)
    table.columns[1].justify = "left"
    if table.row_count:
        RESULT.print(table)


def _recovered(found: Mapping[str, Any]) -> str:
    return (
        f"{found['disturbed']} of {found['questions']} episodes had a disturbed call ({found['disturbed_calls']} calls); of "
        f"these {percent(found['right'], found['right_interval'])} ended right, "
        f"{percent(found['retried'], found['retried_interval'])} asked again and went on to an answer."
    )


def print_report(directory: Path, *, as_json: bool) -> None:
    """The before/after table of a report, and where it lies."""
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    if as_json:
        print_json(data)
        return
    RESULT.print(report_table(data))
    stages = data["timings"]["stages"]
    if stages:
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items())
        memory = data["timings"]["peak_memory_gb"]
        RESULT.print(
            escape(
                f"Time: {sum(stages.values()) / 60:.1f} min ({spent})"
                + (f"; peak memory {memory:.1f} GB" if memory else "")
            )
        )
    RESULT.print(f"Report: {escape(str(directory / 'report.html'))}")
