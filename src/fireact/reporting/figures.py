"""Which plots a report has, and what each shows: results, robustness, scaling, cost against accuracy, training.

Invariant: a plot whose data is not there is absent; every plot says in words what it shows, and colours stand for the
same agents in all of them. How a plot looks in its forms is ``plots``'.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fireact.reporting.data import ReportAgent, ReportData
from fireact.reporting.plots import SERIES, Palette, Plot, canvas
from fireact.reporting.summary import models, robustness
from fireact.reporting.wording import number, percent, who

_MARKERS = "osD^vP"
_SHARES = ([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
_LINES = ("-", "--", ":")
_BESIDE, _ABOVE = 26, 58
"""Characters of a line of text at the left of a plot and above it."""
Row = tuple[str, str, Mapping[str, Any]]
"""A bar: its label, the model whose colour it has, and the summary that it shows."""


def figures(report: ReportData) -> list[Plot]:
    """The plots that the data of a report allows, in the order in which it shows them."""
    found = (results(report), robust(report), scaling(report), costs(report), training(report))
    return [plot for plot in found if plot is not None]


def results(report: ReportData) -> Plot | None:
    """Exact match of each agent on each task: a bar with its 95 % interval."""
    agents = _undisturbed(report)
    groups = {
        task: [(who(agent.name), agent.model, found[agent.name]) for agent in agents if agent.name in found]
        for task, found in report.results.items()
    }
    groups = {task: bars for task, bars in groups.items() if bars}
    if not groups:
        return None
    return Plot(
        "results",
        "Exact match",
        f"Exact match with 95% intervals. {_spoken(report, agents)}",
        "Share of questions answered exactly right; the line is the 95% interval.",
        lambda palette: _bars(report, groups, palette),
    )


def robust(report: ReportData) -> Plot | None:
    """Exact match of each agent without noise and with each kind of it."""
    rows = robustness(report)
    if not rows:
        return None
    groups: dict[str, list[Row]] = {}
    for row in rows:
        bars, clean = groups.setdefault(row.task, []), who(row.agent.model)
        if row.before is not None and (clean, row.agent.model) not in [bar[:2] for bar in bars]:
            bars.append((clean, row.agent.model, row.before))
        bars.append((who(row.agent.name), row.agent.model, row.after))
    words = ". ".join(
        f"{task}: " + ", ".join(f"{label} {percent(result['em'])}" for label, _, result in bars)
        for task, bars in groups.items()
    )
    return Plot(
        "robustness",
        "Under noise",
        f"Exact match without noise and with it. {words}.",
        "The same questions with disturbed tools, such as none=0.5: half of all observations say nothing.",
        lambda palette: _bars(report, groups, palette),
    )


def scaling(report: ReportData) -> Plot | None:
    """Exact match by the number of trajectories that the student learned from, where several were tried.

    Students that differ in their size and seed alone are a line, through the means over the seeds of a size.
    """
    lines = _lines(report)
    if not lines:
        return None
    words = " ".join(
        f"{label}: " + ", ".join(f"{size} {percent(_mean(found))}" for size, found in line.items()) + "."
        for label, line in lines.items()
    )

    def draw(palette: Palette) -> Any:
        names = _Names()
        figure, (axes,) = canvas(palette, 3.0 + names.height(lines))
        for place, (label, line) in enumerate(lines.items()):
            colour, marker = palette.series[(place + 1) % SERIES], _MARKERS[place % len(_MARKERS)]
            dashes = _LINES[place // SERIES % len(_LINES)]
            seeds = [(size, found) for size, found in line.items() if len(found) > 1]
            alone = [(size, found[0]) for size, found in line.items() if len(found) == 1]
            for size, found in seeds:
                axes.plot([size] * len(found), [one["em"] for one in found], "o", color=colour, markersize=4, alpha=0.4)
            if alone:
                _points(axes, alone, colour, marker="")
            means = [_mean(found) for found in line.values()]
            axes.plot(list(line), means, dashes, color=colour, linewidth=1.6, marker=marker, markersize=6)
            names.add(label, color=colour, marker=marker, linestyle=dashes)
        axes.set_xscale("log")
        sizes = sorted({size for line in lines.values() for size in line})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("trajectories trained on")
        names.above(figure)
        return _shares(figure, axes)

    caption = (
        "Exact match by the number of trajectories that the student was trained on: the 95% interval of one student, or "
        "the mean of several that differ in their seed, which are faint."
    )
    return Plot("scaling", "Scaling", f"Exact match by trajectories. {words}", caption, draw)


def _lines(report: ReportData) -> dict[str, dict[int, list[Mapping[str, Any]]]]:
    """Line -> size -> the summaries of its students; only lines of several sizes."""
    found: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = {}
    for task, results in report.results.items():
        sized = [agent for agent in _undisturbed(report) if agent.trajectories and agent.name in results]
        for agent in sorted(sized, key=lambda agent: agent.trajectories or 0):
            by_size = found.setdefault((task, agent.line), {})
            by_size.setdefault(agent.trajectories or 0, []).append(results[agent.name])
    several = {key: line for key, line in found.items() if len(line) > 1}
    one = len({line for _, line in several}) < 2
    return {task if one or not line else f"{task}, {who(line)}": own for (task, line), own in several.items()}


def _mean(found: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(one["em"]) for one in found) / len(found)


def costs(report: ReportData) -> Plot | None:
    """Exact match against what a question costs: dollars where any agent was paid for, else tokens."""
    agents = _undisturbed(report)
    measured = [found[agent.name] for found in report.results.values() for agent in agents if agent.name in found]
    if len(agents) < 2 or len(measured) < 2:
        return None
    known = all(one.get("cost_per_question") is not None for one in measured)
    paid = known and any(one["cost_per_question"] for one in measured)
    key, unit = ("cost_per_question", "US dollars") if paid else ("tokens_per_question", "tokens")
    if any(one[key] is None for one in measured):  # episodes of a file do not always tell
        return None
    words = " ".join(
        f"{task}: " + ", ".join(f"{who(a.name)} {number(f[a.name][key])} {unit}" for a in agents if a.name in f) + "."
        for task, f in report.results.items()
    )

    def draw(palette: Palette) -> Any:
        names, tasks = _Names(), list(report.results) if len(report.results) > 1 else []
        shown = [agent for agent in agents if any(agent.name in found for found in report.results.values())]
        figure, (axes,) = canvas(palette, 3.0 + names.height([*(who(agent.name) for agent in shown), *tasks]))
        for agent in shown:
            hollow = models(report).index(agent.model) >= SERIES  # colours come again
            look = {"color": _colour(report, agent.model, palette), **({"markerfacecolor": "none"} if hollow else {})}
            names.add(who(agent.name), marker="s", markersize=8, linestyle="none", **look)
            for place, found in enumerate(report.results.values()):
                if agent.name in found:
                    marker, point = _MARKERS[place % len(_MARKERS)], [(found[agent.name][key], found[agent.name])]
                    _points(axes, point, look["color"], marker=marker, hollow=hollow)
        for place, task in enumerate(tasks):
            names.add(task, marker=_MARKERS[place % len(_MARKERS)], linestyle="none", color=palette.ink)
        values = [one[key] for one in measured]
        if min(values) > 0:
            _logarithmic(axes, min(values), max(values))
        axes.set_xlabel(f"{unit} a question")
        names.above(figure)
        return _shares(figure, axes)

    caption = f"Exact match against {unit} a question, with 95% intervals; up and to the left is better."
    return Plot("cost", "Cost and accuracy", f"Exact match by {unit} a question. {words}", caption, draw)


def training(report: ReportData) -> Plot | None:
    """Loss and learning rate by optimizer step, or None where nothing was trained."""
    logs = {name: rows for name, rows in report.training.items() if rows}
    if not logs:
        return None
    curves = {
        name: ([row["step"] for row in rows], [float(row["loss"]) for row in rows]) for name, rows in logs.items()
    }
    smooth = {name: running_mean(losses, window=len(losses) // 10) for name, (_, losses) in curves.items()}
    words = " ".join(
        f"The training loss{f' of {name}' if len(curves) > 1 else ''} goes from {losses[0]:.2f} to "
        f"{smooth[name][-1]:.2f} in {len(losses)} steps."
        for name, (_, losses) in curves.items()
    )

    def draw(palette: Palette) -> Any:
        alone = len(logs) == 1
        rows = next(iter(logs.values()))
        rates = [float(row["learning_rate"]) for row in rows if row.get("learning_rate") is not None]
        with_rates = alone and len(rates) == len(rows)
        names, ends = _Names(), {name: f"{name}: {smooth[name][-1]:.2f}" for name in curves}
        height = 3.3 if alone else 3.0 + names.height(ends.values())
        figure, panels = canvas(palette, height, (3.2, 1) if with_rates else (1,))
        for place, (name, (steps, losses)) in enumerate(curves.items()):
            colour = palette.series[(place + len(models(report)) - 1 if alone else place) % SERIES]
            dashes = "-" if alone else _LINES[place // SERIES % len(_LINES)]
            panels[0].plot(steps, losses, color=colour, linewidth=0.9, alpha=0.45 if alone else 0.2)
            panels[0].plot(steps, smooth[name], dashes, color=colour, linewidth=2)
            if alone:
                end = (steps[-1], smooth[name][-1])
                panels[0].annotate(f"{end[1]:.2f}", end, (5, 0), textcoords="offset points", va="center")
            else:
                names.add(ends[name], color=colour, linestyle=dashes, linewidth=2)
        panels[0].set_ylabel("loss")
        panels[0].set_ylim(0, 1.05 * max(max(losses) for _, losses in curves.values()) or 1)
        if with_rates:
            panels[1].plot([row["step"] for row in rows], rates, color=palette.ink, linewidth=1.3)
            panels[1].set_ylabel("learning\nrate")
            panels[1].set_ylim(0, 1.15 * max(rates) or 1)
            panels[1].set_yticks([0, max(rates)], ["0", f"{max(rates):.0e}".replace("e-0", "e-")])
        if not alone:
            names.above(figure)
        for panel in panels:
            panel.grid(axis="y")
        panels[-1].set_xlabel("optimizer step")
        return figure

    caption = "Loss on the student's own words, a point an optimizer step; the bold line is its running mean."
    return Plot("training", "Training", words, caption, draw)


def running_mean(values: Sequence[float], *, window: int) -> list[float]:
    """The mean of each value and of those up to half a window before and after it."""
    reach = window // 2
    parts = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _undisturbed(report: ReportData) -> list[ReportAgent]:
    return [agent for agent in report.agents if agent.noise == report.agents[0].noise]


def _bars(report: ReportData, groups: Mapping[str, Sequence[Row]], palette: Palette) -> Any:
    """Bars with intervals by task, each with its label at its left."""
    shown = {task: rows for task, rows in groups.items() if rows}
    lines = sum(len(textwrap.wrap(label, _BESIDE)) for rows in shown.values() for label, _, _ in rows)
    bars = sum(map(len, shown.values()))
    position, unit = 0.0, 0.15  # inches; a line of a label is one high
    figure, (axes,) = canvas(palette, unit * (lines + bars) + 0.42 * len(shown) + 0.6)
    ticks: list[tuple[float, str]] = []
    for task, rows in shown.items():
        axes.text(0, -position, task, va="center", fontweight="bold")
        position += 0.12
        for label, model, result in rows:
            own = textwrap.wrap(label, _BESIDE)
            room = unit * (len(own) + 1)
            position += room / 2
            ticks.append((-position, "\n".join(own)))
            _bar(axes, result, at=-position, colour=_colour(report, model, palette), palette=palette)
            position += room / 2
        position += 0.3
    axes.set_ylim(-position + 0.2, 0.12)
    axes.set_xlim(0, 1.16)
    axes.set_xticks(*_SHARES)
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=9, linespacing=1.05)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    return figure


def _bar(axes: Any, result: Mapping[str, Any], *, at: float, colour: str, palette: Palette) -> None:
    low, high = result["em_interval"]
    axes.barh(at, result["em"], height=0.19, color=colour, zorder=2)
    style = {"linewidth": 1.3, "marker": "|", "markersize": 5, "markevery": [1], "zorder": 3}
    for end, ink in ((low, palette.on_bar), (high, palette.ink)):
        axes.plot([result["em"], end], [at, at], color=ink, **style)
    axes.text(high + 0.018, at, percent(result["em"]), va="center", fontsize=9.5)


def _points(
    axes: Any,
    points: Sequence[tuple[float, Mapping[str, Any]]],
    colour: str,
    *,
    marker: str,
    hollow: bool = False,
) -> None:
    values = [result["em"] for _, result in points]
    low = [max(0.0, result["em"] - result["em_interval"][0]) for _, result in points]
    high = [max(0.0, result["em_interval"][1] - result["em"]) for _, result in points]
    style: dict[str, Any] = {"marker": marker, "markersize": 6, "linestyle": "none", "elinewidth": 1.1}
    style |= {"markerfacecolor": "none"} if hollow else {}
    axes.errorbar([x for x, _ in points], values, [low, high], color=colour, capsize=2.5, **style)


def _shares(figure: Any, axes: Any) -> Any:
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks(*_SHARES)
    axes.set_ylabel("exact match")
    axes.grid(axis="y")
    return figure


def _logarithmic(axes: Any, low: float, high: float) -> None:
    """A logarithmic axis with a few round numbers, as a person writes them."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        around = [step * 10.0**power for power in range(-9, 12) for step in steps]
        inside = [value for value in around if low / 1.6 <= value <= high * 1.6]
        if len(inside) > 2:
            break
    while len(inside) > 6:
        inside = inside[::2]
    axes.set_xlim(low / 1.6, high * 1.6)
    axes.set_xscale("log")
    axes.set_xticks(inside, [f"{value:,.12g}" for value in inside])
    axes.set_xticks([], minor=True)


class _Names:
    """The legend of a plot, above it and as wide: a name a row, long ones wrapped, the plot as much higher."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def height(self, names: Iterable[str]) -> float:
        """Inches that the legend will take."""
        return sum(0.055 + 0.155 * len(textwrap.wrap(name, _ABOVE)) for name in names)

    def add(self, name: str, **look: Any) -> None:
        from matplotlib.lines import Line2D

        self._handles.append(Line2D([], [], label="\n".join(textwrap.wrap(name, _ABOVE)), **look))

    def above(self, figure: Any) -> None:
        size = {"handlelength": 1.6, "borderpad": 0.2, "labelspacing": 0.35, "fontsize": 9.5}
        figure.legend(handles=self._handles, loc="outside upper left", **size)


def _colour(report: ReportData, model: str, palette: Palette) -> str:
    return palette.series[models(report).index(model) % SERIES]


def _spoken(report: ReportData, agents: Sequence[ReportAgent]) -> str:
    """Results in words, for who cannot see the plot."""
    parts: Iterator[str] = (
        f"{task}: " + ", ".join(f"{who(a.name)} {percent(found[a.name]['em'])}" for a in agents if a.name in found)
        for task, found in report.results.items()
        if any(a.name in found for a in agents)
    )
    return ". ".join(parts) + "."
