"""Prints studies, planned and complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from fireact.base.jsonl import read_objects
from fireact.reporting.report_tables import share_cell
from fireact.reporting.table import Row, Table, TableCell
from fireact.reporting.wording import points
from fireact.study.rows import BaselineChange, read_complete_rows
from fireact.terminal.screen import STDOUT, print_json, print_table


def print_studies(studies: Mapping[str, str]) -> None:
    """The studies that ship with FireAct, and the question of each."""
    for name, asks in studies.items():
        STDOUT.print(f"[bold]{escape(name)}[/]  {escape(asks)}", soft_wrap=True)


def print_plan(plan: Mapping[str, Any], out: Path) -> None:
    """The plan of a study: what each cell still needs, and the total cost."""
    rows = []
    for cell in plan["cells"]:
        stages_by_verb: dict[str, list[Mapping[str, Any]]] = {verb: [] for verb in ("collect", "mix", "train", "eval")}
        for stage in cell["stages"]:
            verb = stage["stage"].partition("/")[0]
            stages_by_verb["train" if verb == "tune" else verb].append(stage)
        rows.append([cell["cell"], *(_remaining_work(stages, verb) for verb, stages in stages_by_verb.items())])
    print_table(Table(f"{plan['title']} ({plan['size']})", ["cell", "collect", "mix", "train", "eval"], rows))
    if plan["needs"]:
        STDOUT.print(escape(f"It needs {'; '.join(plan['needs'].values())}."), soft_wrap=True)
    tokens, usd, seconds = plan["training_tokens"], plan["usd"], plan["seconds"]
    time = f"{_at_least(seconds)}{seconds['known'] / 60:,.0f} min"
    searches = f"about {plan['searches']:,} paid searches, " if plan["searches"] else ""
    STDOUT.print(
        f"{plan['stages']} stages, {plan['there']} of them done; {plan['episodes']:,} episodes, {searches}"
        f"{_at_least(tokens)}{tokens['known']:,} training tokens, {_at_least(usd)}{usd['known']:,.2f} USD, "
        f"{time if seconds['known'] or seconds['whole'] else 'time not known'}. Nothing was spent. "
        f"The output goes to {escape(str(out))}."
    )
    # the price of a machine is unknown only because its time is, which is listed already
    unpriced = [name for name in usd["unknown"] if not name.startswith("the machine for ")]
    if unknown := [*(f"the time of {name}" for name in seconds["unknown"]), *unpriced]:
        STDOUT.print(
            escape(f"Not in these sums (?), because nobody has measured it: {'; '.join(unknown)}."), soft_wrap=True
        )
    for shortage in plan["short"]:
        STDOUT.print(escape(f"Too few trajectories may be right: {shortage}. Raise the plan."), soft_wrap=True)


def _at_least(amount: Mapping[str, Any]) -> str:
    """The words before a sum that lacks unknown terms."""
    return "" if amount["whole"] else "at least "


def _remaining_work(stages: Sequence[Mapping[str, Any]], verb: str) -> str:
    """What the open stages of a verb still need: episodes or tokens, dollars and seconds."""
    open_stages = [stage for stage in stages if not stage["done"]]
    if not open_stages:
        return "done" if stages else ""
    if verb == "train":
        tokens = [stage["training_tokens"] for stage in open_stages]
        amount = "? tokens" if None in tokens else f"{sum(tokens) / 1000:,.0f}k tokens"
    else:
        amount = "to do" if verb == "mix" else f"{sum(stage['episodes'] for stage in open_stages):,}"
    usd, seconds = (sum(stage[key] or 0 for stage in open_stages) for key in ("usd", "seconds"))
    least = "at least " if seconds and any(stage["seconds"] is None for stage in open_stages) else ""
    cost = f", ${usd:,.2f}" if usd else ""
    cost += (" + ?" if usd else ", $ ?") if any(stage["unpriced"] for stage in open_stages) else ""
    return f"{amount}{cost}, {least}{seconds:,.0f} s" if seconds else f"{amount}{cost}"


def print_study(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """One row per cell and task, and the paths of tables and plots."""
    if as_json:
        print_json({**manifest, "rows": list(read_objects(out / "results.jsonl"))})
        return
    print_table(tabulate_study(manifest, out))
    STDOUT.print(f"Tables: {escape(str(out / 'tables.md'))}, plots: {escape(str(out / 'plots'))}.")


def tabulate_study(manifest: Mapping[str, Any], out: Path) -> Table:
    """A row for each cell of a study and each task."""
    table_rows: list[Row] = [
        [row.cell, task, str(summary.n), share_cell(summary.measures.em, 0), _change_cell(row.against.get(task))]
        for row in read_complete_rows(list(read_objects(out / "results.jsonl")))
        for task, summary in row.results.items()
    ]
    return Table(manifest["title"], ["cell", "task", "n", "EM", "difference"], table_rows, names=2)


def _change_cell(change: BaselineChange | None) -> TableCell:
    """The change in EM, and the cell that it is against."""
    return TableCell() if change is None else TableCell(points(change.em.difference.mean), [f"to {change.cell}"])
