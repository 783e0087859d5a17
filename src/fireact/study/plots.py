"""The plots of a study as SVG and PNG: bars with 95 % intervals, curves over an axis of numbers, and, where methods are
chosen among, which one and how many turns each question ended with.

Invariant: the same rows give the same SVG; seeds are drawn as points, with a line through their means. Colours differ in
lightness as well, so that they are told apart without hue. One file a task and plot.
"""

from __future__ import annotations

import io
import itertools
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.jsonl import replacing
from fireact.reporting.plots import boxes_for_missing_glyphs
from fireact.study.cells import Cell
from fireact.study.file import Plot, StudyFile

COLOURS = ("#1b4f72", "#d9622b", "#1a8f86", "#8568d0", "#a87c12", "#d04a86")
MARKS = ("D", "o", "s", "^", "v", "P")
"""Marks of the paper's models."""
_RC: Any = {
    "svg.hashsalt": "fireact",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": "#d5d8dc",
}
METHODS = ("io", "cot", "react", "reflexion", "no answer")
"""What the steps of an episode can show, in the order in which it is drawn."""
_MANY = 7  # so many turns and more are drawn as one
_PIXELS = 160  # an inch, in PNG


def draw(study: StudyFile, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], directory: Path) -> list[str]:
    """Draw every plot of every task that has rows, and return the names of the files."""
    done = {str(row["cell"]): row for row in rows if "error" not in row}
    written = []
    for plot in study.plots:
        for task in dict.fromkeys(name for row in done.values() for name in row["results"]):
            mine = [cell for cell in cells if task in done.get(cell.name, {}).get("results", {})]
            figure = _curve(study, plot, mine, done, task) if plot.kind == "curve" else _bars(study, mine, done, task)
            if figure is not None:
                name = f"{_safe(task)}-{plot.kind}{f'-{_safe(plot.x)}' if plot.x else ''}"
                written += _save(figure, directory / name)
    for task in dict.fromkeys(name for row in done.values() for name in row["behaviour"]) if study.choice else ():
        ends = {name: row["behaviour"][task]["questions"] for name, row in done.items() if task in row["behaviour"]}
        written += _save(_ends(study, ends, task), directory / f"{_safe(task)}-turns")
    return written


def _ends(study: StudyFile, cells: Mapping[str, Mapping[str, Mapping[str, int]]], task: str) -> Any:
    """The shares of questions by the method and by the number of turns that they ended with, a bar a cell."""
    lines = sum(len(textwrap.wrap(name, 24)) for name in cells)
    figure, (left, right) = _figure(max(1.8, 0.2 * lines + 0.14 * len(cells) + 1.2), columns=2)
    by_turns: dict[str, Counter[int]] = {name: Counter() for name in cells}
    for name, found in cells.items():
        for n, count in ((int(n), count) for counts in found.values() for n, count in counts.items()):
            by_turns[name][min(n, _MANY)] += count
    by_method = {
        name: {method: sum(counts.values()) for method, counts in found.items()} for name, found in cells.items()
    }
    methods = [name for name in METHODS if any(name in found for found in by_method.values())]
    turns = sorted({n for counts in by_turns.values() for n in counts})
    _stacked(left, by_method, {name: (name, COLOURS[METHODS.index(name)]) for name in methods})
    shades = {n: (f"{n}{' or more' if n == _MANY else ''}", str(0.85 - 0.75 * n / _MANY)) for n in turns}
    _stacked(right, by_turns, shades)
    left.set_yticks([-at for at in range(len(cells))], [textwrap.fill(name, 24) for name in cells], linespacing=1.1)
    right.set_yticks([])
    left.set_xlabel("method, % of questions")
    right.set_xlabel("turns, % of questions")
    figure.suptitle(f"{study.title}: {task}", x=0.01, ha="left", fontsize=10)
    return figure


def _stacked(axes: Any, cells: Mapping[str, Mapping[Any, int]], parts: Mapping[Any, tuple[str, str]]) -> None:
    starts = [0.0] * len(cells)
    for key, (label, colour) in parts.items():
        widths = [100 * found.get(key, 0) / sum(found.values()) for found in cells.values()]
        places = [-at for at in range(len(cells))]
        axes.barh(places, widths, left=starts, height=0.7, color=colour, edgecolor="white", label=label)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_xlim(0, 100)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3, fontsize=8, frameon=False)


def _bars(study: StudyFile, cells: Sequence[Cell], rows: Mapping[str, Any], task: str) -> Any:
    from matplotlib.patches import Patch

    lines = sum(len(textwrap.wrap(cell.name, 36)) for cell in cells)
    figure, axes = _figure(max(1.6, 0.2 * lines + 0.14 * len(cells) + 1.0))
    for at, cell in enumerate(cells):
        result = rows[cell.name]["results"][task]
        low, high = result["em_interval"]
        colour = COLOURS[1] if cell.tuned else COLOURS[0]
        axes.barh(-at, 100 * result["em"], height=0.7, color=colour, zorder=2)
        axes.plot(
            [100 * low, 100 * high], [-at, -at], color="#1c2833", linewidth=1.2, marker="|", markersize=5, zorder=3
        )
        axes.text(108, -at, f"{100 * result['em']:.3g}", va="center", ha="right", fontsize=9)
    theirs = _theirs(axes, study, cells, rows, task)
    axes.set_yticks(
        [-at for at in range(len(cells))], [textwrap.fill(cell.name, 36) for cell in cells], linespacing=1.1
    )
    axes.set_xlim(0, 108)
    axes.set_xlabel("exact match, %, with 95 % interval")
    axes.grid(axis="x", linewidth=0.6)
    axes.set_title(f"{study.title}: {task}", loc="left", fontsize=10)
    kinds = [("prompted", COLOURS[0], False), ("fine-tuned", COLOURS[1], True)]
    drawn = [Patch(color=colour, label=name) for name, colour, tuned in kinds if any(c.tuned is tuned for c in cells)]
    if len(drawn) > 1 or theirs:
        figure.legend(handles=[*drawn, *theirs], loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    return figure


def _theirs(axes: Any, study: StudyFile, cells: Sequence[Cell], rows: Mapping[str, Any], task: str) -> list[Any]:
    """Draw the paper's figures, a mark for each of its models, and return the entries of the legend."""
    points: dict[str, list[tuple[float, int]]] = {}
    for known in (one for one in study.paper if one.unit == "EM"):
        about = [cell for cell in cells if known.about(task, rows[cell.name]["results"])]
        places = [-cells.index(cell) for cell in about if known.beside(cell.name, cell.group)]
        points.setdefault(known.label.partition(",")[0], []).extend((known.value, at) for at in places)
    drawn = []
    for mark, (model, found) in zip(itertools.cycle(MARKS), ((m, f) for m, f in points.items() if f), strict=False):
        drawn += axes.plot(
            *zip(*found, strict=True), mark, label=f"paper: {model}", markersize=6.5, clip_on=False, zorder=4, linestyle="none",
            markerfacecolor="white", markeredgecolor="#1c2833", markeredgewidth=1.1,
        )  # fmt: skip
    return drawn


def _curve(study: StudyFile, plot: Plot, cells: Sequence[Cell], rows: Mapping[str, Any], task: str) -> Any:
    points: dict[str, dict[float, list[tuple[float, list[float]]]]] = {}
    for cell in cells:
        try:
            x = float(cell.axes[plot.x])
        except (KeyError, ValueError):
            continue
        others = [str(value) for name, value in cell.axes.items() if name not in (plot.x, "seed")]
        result = rows[cell.name]["results"][task]
        points.setdefault(", ".join(others), {}).setdefault(x, []).append((result["em"], result["em_interval"]))
    if not points:
        return None
    figure, axes = _figure(3.6)
    for number, (name, found) in enumerate(points.items()):
        colour, xs = COLOURS[number % len(COLOURS)], sorted(found)
        means = [100 * statistics.fmean(em for em, _ in found[x]) for x in xs]
        axes.plot(xs, means, color=colour, linewidth=1.8, label=name or "fine-tuned", zorder=3)
        for x in xs:
            axes.plot([x] * len(found[x]), [100 * em for em, _ in found[x]], "o", color=colour, markersize=4, zorder=4)
            lows, highs = zip(*(interval for _, interval in found[x]), strict=True)
            axes.plot([x, x], [100 * min(lows), 100 * max(highs)], color=colour, linewidth=0.8, alpha=0.5)
    for number, cell in enumerate(cell for cell in cells if plot.x not in cell.axes):
        em = 100 * rows[cell.name]["results"][task]["em"]
        axes.axhline(em, color="#7b8494", linewidth=1, linestyle=("--", ":", "-.")[number % 3], label=cell.name)
    every = sorted({x for found in points.values() for x in found})
    if every[0] > 0 and every[-1] / every[0] >= 4:
        axes.set_xscale("log")
    axes.set_xticks(every, [f"{x:g}" for x in every])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel(plot.x)
    axes.set_ylabel("exact match, %")
    axes.grid(axis="y", linewidth=0.6)
    axes.legend(fontsize=9, frameon=False)
    axes.set_title(f"{study.title}: {task}", loc="left", fontsize=10)
    return figure


def _figure(height: float, *, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> list[str]:
    import matplotlib

    with matplotlib.rc_context(_RC), boxes_for_missing_glyphs():
        for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=ending, dpi=_PIXELS, metadata=metadata, bbox_inches="tight")
            with replacing(path.with_name(f"{path.name}.{ending}")) as file:
                file.write(drawn.getvalue())
    return [f"{path.name}.svg", f"{path.name}.png"]


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
