"""Which plots a study has: bars with 95 % intervals, curves over an axis of numbers, and methods by turns.

Invariant: the same rows give the same SVG. There is one file for each task and plot; ``reporting.plots`` draws them.
Only a study with a choice of methods shows the method and the number of turns of its questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fireact.evaluation.statistics import Estimate
from fireact.reporting.plots import (
    Bar,
    Plot,
    StackedBars,
    draw_bars,
    draw_lines,
    draw_stacked_bars,
    mean_share,
    save_plot,
)
from fireact.reporting.rows import StudyRow
from fireact.reporting.wording import percent
from fireact.study.cells import Cell
from fireact.study.file import PlotSpec, StudyFile

KINDS = {"prompted": 0, "fine-tuned": 1}
"""The colours of bars."""
METHODS = ("io", "cot", "react", "reflexion", "no answer")
"""The methods that an episode's steps can show, in the order of drawing."""
_MAX_TURNS = 7  # this many turns and more share one colour


def draw_plots(study: StudyFile, cells: Sequence[Cell], rows: Sequence[StudyRow], directory: Path) -> list[str]:
    """Draw every plot of every task that has rows, and return the names of the files."""
    plots = list(_choose_plots(study, cells, {row.cell: row for row in rows}))
    return [name for plot in plots for name in save_plot(plot, directory)]


def _choose_plots(study: StudyFile, cells: Sequence[Cell], rows: Mapping[str, StudyRow]) -> Iterator[Plot]:
    tasks = list(dict.fromkeys(name for row in rows.values() for name in row.results))
    for spec in study.plots:
        for task in tasks:
            task_cells = [cell for cell in cells if cell.name in rows and task in rows[cell.name].results]
            plot = (_plot_curve if spec.kind == "curve" else _plot_bars)(study, spec, task_cells, rows, task)
            if plot is not None:
                yield plot
    for task in tasks if study.choice else ():
        if any(row.behaviour[task].questions for row in rows.values() if task in row.behaviour):
            yield _plot_turns(study, rows, task)


def _name_plot(study: StudyFile, task: str, *kind: str) -> tuple[str, str]:
    """The stem of the file and the heading of a plot."""
    return "-".join(re.sub(r"[^\w.-]+", "-", word) for word in (task, *kind) if word), f"{study.title} ({task})"


def _plot_bars(
    study: StudyFile, spec: PlotSpec, cells: Sequence[Cell], rows: Mapping[str, StudyRow], task: str
) -> Plot | None:
    """Exact match of each cell, with the paper's figures beside it: one marker for each of the paper's models."""
    bars = []
    for cell in cells:
        row, marks = rows[cell.name], dict[str, list[float]]()
        for figure in study.paper:
            matches = figure.matches(cell.name, cell.group) and figure.is_about(task, row.results)
            if figure.unit == "EM" and matches:
                marks.setdefault(f"paper: {figure.label.partition(',')[0]}", []).append(figure.value / 100)
        bars.append(Bar(cell.name, row.results[task].measures.em, int(cell.is_fine_tuned), marks, bool(cell.noise)))
    kinds = {name: series for name, series in KINDS.items() if any(bar.series == series for bar in bars)}
    words = ", ".join(f"{bar.label} {percent(bar.share.mean)}" for bar in bars)
    name, heading = _name_plot(study, task, "bars")
    return Plot(
        name, heading, f"{heading}. Exact match with 95% intervals: {words}.", "",
        lambda palette: draw_bars({task: bars}, palette, kinds if len(kinds) > 1 else {}),
    )  # fmt: skip


def _plot_curve(
    study: StudyFile, spec: PlotSpec, cells: Sequence[Cell], rows: Mapping[str, StudyRow], task: str
) -> Plot | None:
    """Exact match over an axis of numbers; a cell that is not on the axis is a level. None without any number."""
    lines: dict[str, dict[float, list[Estimate]]] = {}
    for cell in cells:
        try:
            amount = float(cell.axes[spec.x])
        except (KeyError, ValueError):
            continue
        other_labels = [str(value) for name, value in cell.axes.items() if name not in (spec.x, "seed")]
        line = lines.setdefault(", ".join(other_labels) or "fine-tuned", {})
        line.setdefault(amount, []).append(rows[cell.name].results[task].measures.em)
    if not lines:
        return None
    levels = {cell.name: rows[cell.name].results[task].measures.em.mean for cell in cells if spec.x not in cell.axes}
    words = "; ".join(
        f"{label}: {', '.join(f'{amount:g} {percent(mean_share(ems))}' for amount, ems in sorted(line.items()))}"
        for label, line in lines.items()
    )
    name, heading = _name_plot(study, task, "curve", spec.x)
    return Plot(
        name, heading, f"{heading}. Exact match by {spec.x}: {words}.", "",
        lambda palette: draw_lines(lines, palette, labels=(spec.x, f"exact match, {task}"), levels=levels),
    )  # fmt: skip


def _plot_turns(study: StudyFile, rows: Mapping[str, StudyRow], task: str) -> Plot:
    """The shares of questions by their method and by their number of turns."""
    by_method: dict[str, dict[str, float]] = {method: {} for method in METHODS}
    by_turns: dict[int, dict[str, float]] = {}
    for name, behaviour in ((name, row.behaviour[task]) for name, row in rows.items() if task in row.behaviour):
        turns = Counter[int]()
        for counts in behaviour.questions.values():
            for n, count in counts.items():
                turns[min(int(n), _MAX_TURNS)] += count
        for method, count in behaviour.counts_by_method().items():
            by_method[method][name] = count / turns.total()
        for turn_count, count in turns.items():
            by_turns.setdefault(turn_count, {})[name] = count / turns.total()
    methods = {method: shares for method, shares in by_method.items() if shares}
    turn_names = {n: f"{n}{' or more' if n == _MAX_TURNS else ''}" for n in sorted(by_turns)}
    panels = [
        StackedBars("share of questions by method", methods),
        StackedBars("share of questions by turns", {turn_names[n]: by_turns[n] for n in turn_names}, is_ordered=True),
    ]
    name, heading = _name_plot(study, task, "turns")
    words = f"{heading}. Questions by method and by number of turns; tables.md has the numbers."
    return Plot(name, heading, words, "", lambda palette: draw_stacked_bars(panels, palette))
