"""The plots of a study as SVG and PNG: bars with 95 % intervals, and curves over an axis of numbers.

A study with a choice of methods also gets a plot of the method and the number of turns of each question.
Invariant: the same rows give the same SVG. Seeds are drawn as points, with a line through their means. There is one
file for each task and plot.
"""

from __future__ import annotations

import itertools
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.evaluation.statistics import Estimate
from fireact.reporting.plots import STUDY, new_figure, save_figure
from fireact.study.cells import Cell
from fireact.study.file import PlotSpec, StudyFile
from fireact.study.rows import Behaviour, StudyRow

COLOURS = STUDY.series
MARKERS = ("D", "o", "s", "^", "v", "P")
"""Markers of the paper's models."""
METHODS = ("io", "cot", "react", "reflexion", "no answer")
"""The methods that an episode's steps can show, in the order of drawing."""
_MAX_TURNS = 7  # this many turns and more share one colour


def draw_plots(study: StudyFile, cells: Sequence[Cell], rows: Sequence[StudyRow], directory: Path) -> list[str]:
    """Draw every plot of every task that has rows, and return the names of the files."""
    rows_by_cell = {row.cell: row for row in rows}
    file_names = []
    for plot in study.plots:
        for task in dict.fromkeys(name for row in rows_by_cell.values() for name in row.results):
            task_cells = [
                cell for cell in cells if cell.name in rows_by_cell and task in rows_by_cell[cell.name].results
            ]
            figure = (
                _draw_curve(study, plot, task_cells, rows_by_cell, task)
                if plot.kind == "curve"
                else _draw_bars(study, task_cells, rows_by_cell, task)
            )
            if figure is not None:
                name = f"{_safe_name(task)}-{plot.kind}{f'-{_safe_name(plot.x)}' if plot.x else ''}"
                file_names += save_figure(figure, directory / name)
    for task in dict.fromkeys(name for row in rows_by_cell.values() for name in row.behaviour) if study.choice else ():
        turn_counts = {name: row.behaviour[task] for name, row in rows_by_cell.items() if task in row.behaviour}
        file_names += save_figure(_draw_turns(study, turn_counts, task), directory / f"{_safe_name(task)}-turns")
    return file_names


def _draw_turns(study: StudyFile, cells: Mapping[str, Behaviour], task: str) -> Any:
    """Draw the shares of questions by their method and by their number of turns, with one bar a cell."""
    lines = sum(len(textwrap.wrap(name, 24)) for name in cells)
    figure, (method_axes, turns_axes) = new_figure(max(1.8, 0.2 * lines + 0.14 * len(cells) + 1.2), columns=2)
    by_turns: dict[str, Counter[int]] = {name: Counter() for name in cells}
    for name, behaviour in cells.items():
        for n, count in ((int(n), count) for counts in behaviour.questions.values() for n, count in counts.items()):
            by_turns[name][min(n, _MAX_TURNS)] += count
    by_method = {name: behaviour.counts_by_method() for name, behaviour in cells.items()}
    methods = [name for name in METHODS if any(name in counts for counts in by_method.values())]
    turns = sorted({n for counts in by_turns.values() for n in counts})
    _draw_stacked_bars(method_axes, by_method, {name: (name, COLOURS[METHODS.index(name)]) for name in methods})
    shades = {n: (f"{n}{' or more' if n == _MAX_TURNS else ''}", str(0.85 - 0.75 * n / _MAX_TURNS)) for n in turns}
    _draw_stacked_bars(turns_axes, by_turns, shades)
    method_axes.set_yticks(
        [-position for position in range(len(cells))], [textwrap.fill(name, 24) for name in cells], linespacing=1.1
    )
    turns_axes.set_yticks([])
    method_axes.set_xlabel("method, % of questions")
    turns_axes.set_xlabel("turns, % of questions")
    figure.suptitle(f"{study.title}: {task}", x=0.01, ha="left", fontsize=10)
    return figure


def _draw_stacked_bars(
    axes: Any, cells: Mapping[str, Mapping[Any, int]], segments: Mapping[Any, tuple[str, str]]
) -> None:
    starts = [0.0] * len(cells)
    for key, (label, colour) in segments.items():
        widths = [100 * counts.get(key, 0) / sum(counts.values()) for counts in cells.values()]
        positions = [-position for position in range(len(cells))]
        axes.barh(positions, widths, left=starts, height=0.7, color=colour, edgecolor="white", label=label)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_xlim(0, 100)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3, fontsize=8, frameon=False)


def _draw_bars(study: StudyFile, cells: Sequence[Cell], rows: Mapping[str, StudyRow], task: str) -> Any:
    from matplotlib.patches import Patch

    lines = sum(len(textwrap.wrap(cell.name, 36)) for cell in cells)
    figure, axes = new_figure(max(1.6, 0.2 * lines + 0.14 * len(cells) + 1.0))
    for position, cell in enumerate(cells):
        em = rows[cell.name].results[task].measures.em
        colour = COLOURS[1] if cell.is_fine_tuned else COLOURS[0]
        axes.barh(-position, 100 * em.mean, height=0.7, color=colour, zorder=2)
        axes.plot(
            [100 * em.low, 100 * em.high],
            [-position, -position],
            color=STUDY.ink,
            linewidth=1.2,
            marker="|",
            markersize=5,
            zorder=3,
        )
        axes.text(108, -position, f"{100 * em.mean:.3g}", va="center", ha="right", fontsize=9)
    paper_handles = _draw_paper_figures(axes, study, cells, rows, task)
    axes.set_yticks(
        [-position for position in range(len(cells))], [textwrap.fill(cell.name, 36) for cell in cells], linespacing=1.1
    )
    axes.set_xlim(0, 108)
    axes.set_xlabel("exact match, %, with 95 % interval")
    axes.grid(axis="x", linewidth=0.6)
    axes.set_title(f"{study.title}: {task}", loc="left", fontsize=10)
    kinds = [("prompted", COLOURS[0], False), ("fine-tuned", COLOURS[1], True)]
    handles = [
        Patch(color=colour, label=name)
        for name, colour, tuned in kinds
        if any(cell.is_fine_tuned is tuned for cell in cells)
    ]
    if len(handles) > 1 or paper_handles:
        figure.legend(handles=[*handles, *paper_handles], loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw_paper_figures(
    axes: Any, study: StudyFile, cells: Sequence[Cell], rows: Mapping[str, StudyRow], task: str
) -> list[Any]:
    """Draw the paper's figures with one marker for each of its models, and return the legend's entries."""
    points: dict[str, list[tuple[float, int]]] = {}
    for figure in (figure for figure in study.paper if figure.unit == "EM"):
        task_cells = [cell for cell in cells if figure.is_about(task, rows[cell.name].results)]
        positions = [-cells.index(cell) for cell in task_cells if figure.matches(cell.name, cell.group)]
        points.setdefault(figure.label.partition(",")[0], []).extend((figure.value, position) for position in positions)
    handles = []
    for mark, (model, model_points) in zip(
        itertools.cycle(MARKERS),
        ((model, model_points) for model, model_points in points.items() if model_points),
        strict=False,
    ):
        handles += axes.plot(
            *zip(*model_points, strict=True), mark, label=f"paper: {model}", markersize=6.5, clip_on=False, zorder=4,
            linestyle="none", markerfacecolor="white", markeredgecolor=STUDY.ink, markeredgewidth=1.1,
        )  # fmt: skip
    return handles


def _draw_curve(
    study: StudyFile, plot: PlotSpec, cells: Sequence[Cell], rows: Mapping[str, StudyRow], task: str
) -> Any:
    points: dict[str, dict[float, list[Estimate]]] = {}
    for cell in cells:
        try:
            x = float(cell.axes[plot.x])
        except (KeyError, ValueError):
            continue
        other_labels = [str(value) for name, value in cell.axes.items() if name not in (plot.x, "seed")]
        em = rows[cell.name].results[task].measures.em
        points.setdefault(", ".join(other_labels), {}).setdefault(x, []).append(em)
    if not points:
        return None
    figure, axes = new_figure(3.6)
    for number, (name, scores_by_x) in enumerate(points.items()):
        colour, xs = COLOURS[number % len(COLOURS)], sorted(scores_by_x)
        means = [100 * statistics.fmean(em.mean for em in scores_by_x[x]) for x in xs]
        axes.plot(xs, means, color=colour, linewidth=1.8, label=name or "fine-tuned", zorder=3)
        for x in xs:
            axes.plot(
                [x] * len(scores_by_x[x]),
                [100 * em.mean for em in scores_by_x[x]],
                "o",
                color=colour,
                markersize=4,
                zorder=4,
            )
            low, high = min(em.low for em in scores_by_x[x]), max(em.high for em in scores_by_x[x])
            axes.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=0.8, alpha=0.5)
    for number, cell in enumerate(cell for cell in cells if plot.x not in cell.axes):
        level = 100 * rows[cell.name].results[task].measures.em.mean
        axes.axhline(level, color=STUDY.grid, linewidth=1, linestyle=("--", ":", "-.")[number % 3], label=cell.name)
    all_xs = sorted({x for scores_by_x in points.values() for x in scores_by_x})
    if all_xs[0] > 0 and all_xs[-1] / all_xs[0] >= 4:
        axes.set_xscale("log")
    axes.set_xticks(all_xs, [f"{x:g}" for x in all_xs])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel(plot.x)
    axes.set_ylabel("exact match, %")
    axes.grid(axis="y", linewidth=0.6)
    axes.legend(fontsize=9, frameon=False)
    axes.set_title(f"{study.title}: {task}", loc="left", fontsize=10)
    return figure


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
