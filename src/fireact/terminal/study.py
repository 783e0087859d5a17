"""Prints studies, planned and complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from fireact.base import jsonl
from fireact.base.cost import CostEstimate
from fireact.reporting.report_tables import share_cell
from fireact.reporting.rows import RESULTS, BaselineChange, read_study_rows
from fireact.reporting.table import Row, Table, TableCell
from fireact.reporting.wording import dollars, points
from fireact.study.forecast import MACHINE, PlannedStage, StudyPlan
from fireact.terminal.screen import STDOUT, print_json, print_table


def print_studies(studies: Mapping[str, str]) -> None:
    """The studies that ship with FireAct, and the question of each."""
    for name, asks in studies.items():
        STDOUT.print(f"[bold]{escape(name)}[/]  {escape(asks)}", soft_wrap=True)


def print_plan(plan: StudyPlan, out: Path) -> None:
    """The plan of a study: what each cell still needs, and the total cost."""
    rows = []
    for name, (_, stages) in plan.cells.items():
        stages_by_verb: dict[str, list[PlannedStage]] = {verb: [] for verb in ("collect", "mix", "train", "eval")}
        for planned in stages:
            stages_by_verb["train" if planned.stage.verb == "tune" else planned.stage.verb].append(planned)
        rows.append([name, *(_remaining_work(stages, verb) for verb, stages in stages_by_verb.items())])
    title = f"{plan.study.title} ({plan.study.size})"
    print_table(Table(title, ["cell", "collect", "mix", "train", "eval"], rows))
    if plan.needs:
        STDOUT.print(escape(f"It needs {'; '.join(plan.needs.values())}."), soft_wrap=True)
    cost = plan.cost
    seconds = round(cost.seconds)
    time = f"{_at_least(cost.untimed)}{seconds / 60:,.0f} min" if seconds or not cost.untimed else "time not known"
    searches = f"about {cost.searches:,} paid searches, " if cost.searches else ""
    STDOUT.print(
        f"{len(plan.stages)} stages, {plan.complete_stages} of them done; {cost.episodes:,} episodes, {searches}"
        f"{_at_least(cost.uncounted)}{cost.tokens:,} training tokens, {_at_least(cost.unpriced)}{cost.dollars:,.2f} "
        f"USD, {time}. Nothing was spent. The output goes to {escape(str(out))}."
    )
    # the price of a machine is unknown only because its time is, which is listed already
    unpriced = [name for name in cost.unpriced if not name.startswith(MACHINE)]
    if unknown := [*(f"the time of {name}" for name in cost.untimed), *unpriced]:
        STDOUT.print(
            escape(f"Not included (shown as ?), because it was never measured: {'; '.join(unknown)}."), soft_wrap=True
        )
    for shortage in plan.shortages:
        STDOUT.print(escape(f"Too few trajectories may be right: {shortage}. Raise the plan."), soft_wrap=True)


def _at_least(unknown: Sequence[str]) -> str:
    """The words before a sum that lacks unknown terms."""
    return "at least " if unknown else ""


def _remaining_work(stages: Sequence[PlannedStage], verb: str) -> str:
    """What the open stages of a verb still need: episodes or tokens, dollars and seconds."""
    open_stages = [planned for planned in stages if not planned.is_complete]
    if not open_stages:
        return "done" if stages else ""
    cost = sum((planned.cost for planned in open_stages), CostEstimate())
    if verb == "train":
        amount = "? tokens" if cost.uncounted else f"{cost.tokens / 1000:,.0f}k tokens"
    else:
        amount = "to do" if verb == "mix" else f"{cost.episodes:,}"
    price = f", {dollars(cost.dollars)}" if cost.dollars else ""
    price += (" + ?" if price else ", $ ?") if cost.unpriced else ""
    seconds = f", {_at_least(cost.untimed)}{cost.seconds:,.0f} s" if cost.seconds else ""
    return f"{amount}{price}{seconds}"


def print_study(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """One row per cell and task, and the paths of tables and plots."""
    if as_json:
        print_json({**manifest, "rows": list(jsonl.read_objects(out / RESULTS))})
        return
    print_table(tabulate_study(manifest, out))
    STDOUT.print(f"Tables: {escape(str(out / 'tables.md'))}, plots: {escape(str(out / 'plots'))}.")


def tabulate_study(manifest: Mapping[str, Any], out: Path) -> Table:
    """A row for each cell of a study and each task."""
    table_rows: list[Row] = [
        [row.cell, task, str(summary.n), share_cell(summary.measures.em, 0), _change_cell(row.against.get(task))]
        for row in read_study_rows(out / RESULTS)
        for task, summary in row.results.items()
    ]
    return Table(manifest["title"], ["cell", "task", "n", "EM", "difference"], table_rows, names=2)


def _change_cell(change: BaselineChange | None) -> TableCell:
    """The change in EM, and the cell that it is against."""
    return TableCell() if change is None else TableCell(points(change.em.difference.mean), [f"to {change.cell}"])
