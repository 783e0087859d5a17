"""Which plots a report has, and what each shows: results, robustness, scaling, cost against accuracy, training.

Invariant: a plot without data is absent. Every plot says in words what it shows, and an agent has the same colour in
all plots. Sizes, colours and file forms are defined in ``plots``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fireact.evaluation.measures import Measures
from fireact.evaluation.statistics import Estimate
from fireact.reporting.plots import Palette, ReportPlot, new_canvas
from fireact.reporting.report_data import ReportAgent, ReportData
from fireact.reporting.summary import SERIES, model_names, robustness_rows
from fireact.reporting.wording import display_name, number, percent

_MARKERS = "osD^vP"
_SHARES = ([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
_LINES = ("-", "--", ":")
_BESIDE, _ABOVE = 26, 58
"""Most characters in a line of text at the left of a plot, and above it."""
Bar = tuple[str, str, Measures]
"""The label of a bar, the model that gives its colour, and the measures that it shows."""


def build_plots(report: ReportData) -> list[ReportPlot]:
    """The plots of a report, in the order in which it shows them."""
    plots = (
        plot_results(report),
        plot_robustness(report),
        plot_scaling(report),
        plot_costs(report),
        plot_training(report),
    )
    return [plot for plot in plots if plot is not None]


def plot_results(report: ReportData) -> ReportPlot | None:
    """Exact match of each agent on each task: a bar with its 95 % interval."""
    agents = _agents_without_noise(report)
    groups = {
        task: [
            (display_name(agent.name), agent.model, by_agent[agent.name].measures)
            for agent in agents
            if agent.name in by_agent
        ]
        for task, by_agent in report.results.items()
    }
    groups = {task: bars for task, bars in groups.items() if bars}
    if not groups:
        return None
    return ReportPlot(
        "results",
        "Exact match",
        f"Exact match with 95% intervals. {_describe_results(report, agents)}",
        "Share of questions answered exactly right; the line is the 95% interval.",
        lambda palette: _draw_bars(report, groups, palette),
    )


def plot_robustness(report: ReportData) -> ReportPlot | None:
    """Exact match of each agent without noise and with each kind of noise."""
    rows = robustness_rows(report)
    if not rows:
        return None
    groups: dict[str, list[Bar]] = {}
    for row in rows:
        bars, clean = groups.setdefault(row.task, []), display_name(row.agent.model)
        if row.before is not None and (clean, row.agent.model) not in [bar[:2] for bar in bars]:
            bars.append((clean, row.agent.model, row.before.measures))
        bars.append((display_name(row.agent.name), row.agent.model, row.after.measures))
    words = ". ".join(
        f"{task}: " + ", ".join(f"{label} {percent(measures.em.mean)}" for label, _, measures in bars)
        for task, bars in groups.items()
    )
    return ReportPlot(
        "robustness",
        "Under noise",
        f"Exact match without noise and with it. {words}.",
        "The same questions with disturbed tools, such as none=0.5: half of all observations say nothing.",
        lambda palette: _draw_bars(report, groups, palette),
    )


def plot_scaling(report: ReportData) -> ReportPlot | None:
    """Exact match by the number of trajectories that the student learned from, where several numbers were tried.

    Students that differ only in this number and their seed form a line through the means over the seeds.
    """
    lines = _scaling_lines(report)
    if not lines:
        return None
    words = " ".join(
        f"{label}: " + ", ".join(f"{size} {percent(_mean_em(students))}" for size, students in line.items()) + "."
        for label, line in lines.items()
    )

    def draw(palette: Palette) -> Any:
        legend = _Legend()
        figure, (axes,) = new_canvas(palette, 3.0 + legend.height(lines))
        for index, (label, line) in enumerate(lines.items()):
            colour, marker = palette.series[(index + 1) % SERIES], _MARKERS[index % len(_MARKERS)]
            dashes = _LINES[index // SERIES % len(_LINES)]
            seeds = [(size, students) for size, students in line.items() if len(students) > 1]
            alone = [(size, students[0]) for size, students in line.items() if len(students) == 1]
            for size, students in seeds:
                axes.plot(
                    [size] * len(students),
                    [measures.em.mean for measures in students],
                    "o",
                    color=colour,
                    markersize=4,
                    alpha=0.4,
                )
            if alone:
                _draw_points(axes, alone, colour, marker="")
            means = [_mean_em(students) for students in line.values()]
            axes.plot(list(line), means, dashes, color=colour, linewidth=1.6, marker=marker, markersize=6)
            legend.add(label, color=colour, marker=marker, linestyle=dashes)
        axes.set_xscale("log")
        sizes = sorted({size for line in lines.values() for size in line})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("trajectories trained on")
        legend.draw_above(figure)
        return _format_share_axis(figure, axes)

    caption = (
        "Exact match by the number of trajectories that the student was trained on. One student has its 95% interval; "
        "of several that differ in their seed, the line is the mean and the faint points are the students."
    )
    return ReportPlot("scaling", "Scaling", f"Exact match by trajectories. {words}", caption, draw)


def _scaling_lines(report: ReportData) -> dict[str, dict[int, list[Measures]]]:
    """Label of a line -> number of trajectories -> summaries of the students; only lines with several numbers."""
    by_line: dict[tuple[str, str], dict[int, list[Measures]]] = {}
    for task, results in report.results.items():
        sized = [agent for agent in _agents_without_noise(report) if agent.trajectories and agent.name in results]
        for agent in sorted(sized, key=lambda agent: agent.trajectories or 0):
            by_size = by_line.setdefault((task, agent.line), {})
            by_size.setdefault(agent.trajectories or 0, []).append(results[agent.name].measures)
    several = {key: line for key, line in by_line.items() if len(line) > 1}
    single_line = len({line for _, line in several}) < 2
    return {
        task if single_line or not line else f"{task}, {display_name(line)}": sizes
        for (task, line), sizes in several.items()
    }


def _mean_em(students: Sequence[Measures]) -> float:
    return sum(measures.em.mean for measures in students) / len(students)


def plot_costs(report: ReportData) -> ReportPlot | None:
    """Exact match against the cost of a question: in dollars where any agent cost money, else in tokens."""
    agents = _agents_without_noise(report)
    measured = [
        by_agent[agent.name].measures
        for by_agent in report.results.values()
        for agent in agents
        if agent.name in by_agent
    ]
    if len(agents) < 2 or len(measured) < 2:
        return None
    key, unit = ("cost_per_question", "US dollars") if _is_paid(measured) else ("tokens_per_question", "tokens")
    if any(measures.get(key) is None for measures in measured):  # episodes of a file do not always record it
        return None

    def amount_of(measures: Measures) -> float:
        amount = measures.get(key)
        assert amount is not None
        return amount.mean

    words = " ".join(
        f"{task}: "
        + ", ".join(
            f"{display_name(agent.name)} {number(amount_of(by_agent[agent.name].measures))} {unit}"
            for agent in agents
            if agent.name in by_agent
        )
        + "."
        for task, by_agent in report.results.items()
    )

    def draw(palette: Palette) -> Any:
        legend, tasks = _Legend(), list(report.results) if len(report.results) > 1 else []
        plotted_agents = [
            agent for agent in agents if any(agent.name in by_agent for by_agent in report.results.values())
        ]
        figure, (axes,) = new_canvas(
            palette, 3.0 + legend.height([*(display_name(agent.name) for agent in plotted_agents), *tasks])
        )
        for agent in plotted_agents:
            hollow = model_names(report).index(agent.model) >= SERIES  # the colours are used a second time
            colour, face = _colour(report, agent.model, palette), {"markerfacecolor": "none"} if hollow else {}
            legend.add(display_name(agent.name), marker="s", markersize=8, linestyle="none", color=colour, **face)
            for index, by_agent in enumerate(report.results.values()):
                if agent.name in by_agent:
                    marker, measures = _MARKERS[index % len(_MARKERS)], by_agent[agent.name].measures
                    _draw_points(axes, [(amount_of(measures), measures)], colour, marker=marker, hollow=hollow)
        for index, task in enumerate(tasks):
            legend.add(task, marker=_MARKERS[index % len(_MARKERS)], linestyle="none", color=palette.ink)
        values = list(map(amount_of, measured))
        if min(values) > 0:
            _set_log_axis(axes, min(values), max(values))
        axes.set_xlabel(f"{unit} a question")
        legend.draw_above(figure)
        return _format_share_axis(figure, axes)

    caption = f"Exact match against {unit} a question, with 95% intervals; up and to the left is better."
    return ReportPlot("cost", "Cost and accuracy", f"Exact match by {unit} a question. {words}", caption, draw)


def _is_paid(measured: Sequence[Measures]) -> bool:
    """Whether the price of every answer is known, and some answers cost money."""
    costs = [measures.cost_per_question for measures in measured]
    return all(costs) and any(cost.mean for cost in costs if cost)


def plot_training(report: ReportData) -> ReportPlot | None:
    """Loss and learning rate by optimizer step, or None where nothing was trained."""
    logs = {name: rows for name, rows in report.training.items() if rows}
    if not logs:
        return None
    curves = {name: (_column(rows, "step"), _column(rows, "loss")) for name, rows in logs.items()}
    smooth = {name: running_mean(losses, window=len(losses) // 10) for name, (_, losses) in curves.items()}
    words = " ".join(
        f"The training loss{f' of {name}' if len(curves) > 1 else ''} goes from {losses[0]:.2f} to "
        f"{smooth[name][-1]:.2f} in {len(losses)} steps."
        for name, (_, losses) in curves.items()
    )

    def draw(palette: Palette) -> Any:
        alone = len(logs) == 1
        rows = next(iter(logs.values()))
        rates = _column(rows, "learning_rate")
        with_rates = alone and len(rates) == len(rows)
        legend, ends = _Legend(), {name: f"{name}: {smooth[name][-1]:.2f}" for name in curves}
        height = 3.3 if alone else 3.0 + legend.height(ends.values())
        figure, panels = new_canvas(palette, height, (3.2, 1) if with_rates else (1,))
        for index, (name, (steps, losses)) in enumerate(curves.items()):
            colour = palette.series[(index + len(model_names(report)) - 1 if alone else index) % SERIES]
            dashes = "-" if alone else _LINES[index // SERIES % len(_LINES)]
            panels[0].plot(steps, losses, color=colour, linewidth=0.9, alpha=0.45 if alone else 0.2)
            panels[0].plot(steps, smooth[name], dashes, color=colour, linewidth=2)
            if alone:
                end = (steps[-1], smooth[name][-1])
                panels[0].annotate(f"{end[1]:.2f}", end, (5, 0), textcoords="offset points", va="center")
            else:
                legend.add(ends[name], color=colour, linestyle=dashes, linewidth=2)
        panels[0].set_ylabel("loss")
        panels[0].set_ylim(0, 1.05 * max(max(losses) for _, losses in curves.values()) or 1)
        if with_rates:
            panels[1].plot(_column(rows, "step"), rates, color=palette.ink, linewidth=1.3)
            panels[1].set_ylabel("learning\nrate")
            panels[1].set_ylim(0, 1.15 * max(rates) or 1)
            panels[1].set_yticks([0, max(rates)], ["0", f"{max(rates):.0e}".replace("e-0", "e-")])
        if not alone:
            legend.draw_above(figure)
        for panel in panels:
            panel.grid(axis="y")
        panels[-1].set_xlabel("optimizer step")
        return figure

    caption = (
        "Loss on the tokens that the student learns, one point per optimizer step; the bold line is the running mean."
    )
    return ReportPlot("training", "Training", words, caption, draw)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The values of a column of a training log, without the rows that lack it."""
    return [row[name] for row in rows if row.get(name) is not None]


def running_mean(values: Sequence[float], *, window: int) -> list[float]:
    """The mean of each value and its neighbours, up to half a window before and after it."""
    reach = window // 2
    spans = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def _agents_without_noise(report: ReportData) -> list[ReportAgent]:
    return [agent for agent in report.agents if agent.noise == report.agents[0].noise]


def _draw_bars(report: ReportData, groups: Mapping[str, Sequence[Bar]], palette: Palette) -> Any:
    """Bars with intervals, grouped by task; each has its label at the left."""
    filled_groups = {task: rows for task, rows in groups.items() if rows}
    lines = sum(len(textwrap.wrap(label, _BESIDE)) for rows in filled_groups.values() for label, _, _ in rows)
    bars = sum(map(len, filled_groups.values()))
    position, unit = 0.0, 0.15  # inches; a line of a label is one unit high
    figure, (axes,) = new_canvas(palette, unit * (lines + bars) + 0.42 * len(filled_groups) + 0.6)
    ticks: list[tuple[float, str]] = []
    for task, rows in filled_groups.items():
        axes.text(0, -position, task, va="center", fontweight="bold")
        position += 0.12
        for label, model, measures in rows:
            label_lines = textwrap.wrap(label, _BESIDE)
            room = unit * (len(label_lines) + 1)
            position += room / 2
            ticks.append((-position, "\n".join(label_lines)))
            _draw_bar(axes, measures.em, position=-position, colour=_colour(report, model, palette), palette=palette)
            position += room / 2
        position += 0.3
    axes.set_ylim(-position + 0.2, 0.12)
    axes.set_xlim(0, 1.16)
    axes.set_xticks(*_SHARES)
    axes.set_yticks([tick for tick, _ in ticks], [label for _, label in ticks], fontsize=9, linespacing=1.05)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    return figure


def _draw_bar(axes: Any, em: Estimate, *, position: float, colour: str, palette: Palette) -> None:
    axes.barh(position, em.mean, height=0.19, color=colour, zorder=2)
    style = {"linewidth": 1.3, "marker": "|", "markersize": 5, "markevery": [1], "zorder": 3}
    for end, ink in ((em.low, palette.on_bar), (em.high, palette.ink)):
        axes.plot([em.mean, end], [position, position], color=ink, **style)
    axes.text(em.high + 0.018, position, percent(em.mean), va="center", fontsize=9.5)


def _draw_points(
    axes: Any,
    points: Sequence[tuple[float, Measures]],
    colour: str,
    *,
    marker: str,
    hollow: bool = False,
) -> None:
    ems = [measures.em for _, measures in points]
    low = [max(0.0, em.mean - em.low) for em in ems]
    high = [max(0.0, em.high - em.mean) for em in ems]
    style: dict[str, Any] = {"marker": marker, "markersize": 6, "linestyle": "none", "elinewidth": 1.1}
    style |= {"markerfacecolor": "none"} if hollow else {}
    axes.errorbar([x for x, _ in points], [em.mean for em in ems], [low, high], color=colour, capsize=2.5, **style)


def _format_share_axis(figure: Any, axes: Any) -> Any:
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks(*_SHARES)
    axes.set_ylabel("exact match")
    axes.grid(axis="y")
    return figure


def _set_log_axis(axes: Any, low: float, high: float) -> None:
    """Make the x axis logarithmic, with 3 to 6 round numbers as ticks."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        candidates = [step * 10.0**power for power in range(-9, 12) for step in steps]
        ticks = [value for value in candidates if low / 1.6 <= value <= high * 1.6]
        if len(ticks) > 2:
            break
    while len(ticks) > 6:
        ticks = ticks[::2]
    axes.set_xlim(low / 1.6, high * 1.6)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{value:,.12g}" for value in ticks])
    axes.set_xticks([], minor=True)


class _Legend:
    """The legend of a plot, above it and as wide: one name per row, long names wrapped."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def height(self, names: Iterable[str]) -> float:
        """The height of the legend in inches; the caller makes the figure higher by it."""
        return sum(0.055 + 0.155 * len(textwrap.wrap(name, _ABOVE)) for name in names)

    def add(self, name: str, **style: Any) -> None:
        from matplotlib.lines import Line2D

        self._handles.append(Line2D([], [], label="\n".join(textwrap.wrap(name, _ABOVE)), **style))

    def draw_above(self, figure: Any) -> None:
        size = {"handlelength": 1.6, "borderpad": 0.2, "labelspacing": 0.35, "fontsize": 9.5}
        figure.legend(handles=self._handles, loc="outside upper left", **size)


def _colour(report: ReportData, model: str, palette: Palette) -> str:
    return palette.series[model_names(report).index(model) % SERIES]


def _describe_results(report: ReportData, agents: Sequence[ReportAgent]) -> str:
    """The results in words, for readers who cannot see the plot."""
    parts: Iterator[str] = (
        f"{task}: "
        + ", ".join(
            f"{display_name(agent.name)} {percent(by_agent[agent.name].measures.em.mean)}"
            for agent in agents
            if agent.name in by_agent
        )
        for task, by_agent in report.results.items()
        if any(agent.name in by_agent for agent in agents)
    )
    return ". ".join(parts) + "."
