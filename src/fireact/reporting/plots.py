"""The plots of a report as SVG text: results with their intervals, and the training curve.

Invariant: the same data gives the same bytes; the background is transparent, text stays text. Colours are drawn as
placeholders and put in last: as CSS variables for the page, which follow its theme, or, for a file, as tones that read
on a light and on a dark background alike.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.reporting.data import ReportAgent, ReportData
from fireact.reporting.wording import percent, who

SERIES = 6
"""Colours for agents; further agents begin with the first again."""

_INK, _GRID, _ON_BAR = "#010101", "#020202", "#040404"
_SERIES = [f"#0300{index:02}" for index in range(SERIES)]
PAGE = {
    _INK: "var(--ink)",
    _GRID: "var(--line)",
    _ON_BAR: "var(--ink)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)},
}
_MID_TONES = ("#7b8494", "#d9622b", "#1a8f86", "#8568d0", "#a87c12", "#d04a86")
FILE = {_INK: "#767d88", _GRID: "#9aa0a866", _ON_BAR: "#ffffff", **dict(zip(_SERIES, _MID_TONES, strict=True))}
_WIDTH = 5.2  # inches of 72 px: narrow, so that letters stay legible where a phone scales the plot down
_RC: Any = {
    "svg.hashsalt": "fireact",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
}


def results_plot(report: ReportData, colours: Mapping[str, str] = FILE) -> str:
    """Exact match of each agent on each task: a bar with its 95 % interval."""
    rows = [(task, [agent for agent in report.agents if agent.name in found]) for task, found in report.results.items()]
    bars = sum(len(agents) for _, agents in rows)
    height = 0.25 * bars + 0.42 * len(rows) + 0.25 * len(report.agents) + 0.4
    with _style():
        figure, (axes,) = _figure(height, [1])
        position = 0.0
        for task, agents in rows:
            axes.text(0, -position, task, va="center", fontweight="bold")
            for agent in agents:
                position += 0.92
                _bar(axes, report, agent, task=task, at=-position)
            position += 1.45
        _legend(axes, report.agents)
        axes.set_ylim(-position + 0.8, 0.6)
        axes.set_xlim(0, 1.13)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_yticks([])
        axes.grid(axis="x", linewidth=0.6)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure, colours, name="results", title=f"Exact match with 95% intervals. {_spoken(report)}")


def _bar(axes: Any, report: ReportData, agent: ReportAgent, *, task: str, at: float) -> None:
    result = report.results[task][agent.name]
    low, high = result["em_interval"]
    axes.barh(at, result["em"], height=0.72, color=_colour(report.agents, agent), zorder=2)
    for end, colour in ((low, _ON_BAR), (high, _INK)):
        axes.plot(
            [result["em"], end],
            [at, at],
            color=colour,
            linewidth=1.3,
            marker="|",
            markersize=5,
            markevery=[1],
            zorder=3,
        )
    axes.text(high + 0.018, at, percent(result["em"], 0), va="center", fontsize=10)


def _legend(axes: Any, agents: Sequence[ReportAgent]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=_colour(agents, agent), label=who(agent.name)) for agent in agents]
    size = {"handlelength": 1.0, "handleheight": 0.9, "borderpad": 0.2}
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1), **size)


def training_plot(report: ReportData, colours: Mapping[str, str] = FILE) -> str | None:
    """Loss and learning rate by optimizer step, or None where nothing was trained."""
    if not report.training:
        return None
    steps = [row["step"] for row in report.training]
    losses = [float(row["loss"]) for row in report.training]
    rates = [float(row["learning_rate"]) for row in report.training if row.get("learning_rate") is not None]
    smooth = running_mean(losses, window=len(losses) // 10)
    colour = _colour(report.agents, report.agents[-1])
    with _style():
        figure, panels = _figure(3.3, [3.2, 1] if len(rates) == len(steps) else [1])
        panels[0].plot(steps, losses, color=colour, linewidth=0.9, alpha=0.45)
        panels[0].plot(steps, smooth, color=colour, linewidth=2)
        end = (steps[-1], smooth[-1])
        panels[0].annotate(f"{end[1]:.2f}", end, (5, 0), textcoords="offset points", va="center")
        panels[0].set_ylabel("loss")
        panels[0].set_ylim(0, 1.05 * max(losses) or 1)
        if len(panels) > 1:
            panels[1].plot(steps, rates, color=_INK, linewidth=1.3)
            panels[1].set_ylabel("learning\nrate")
            panels[1].set_ylim(0, 1.15 * max(rates) or 1)
            panels[1].set_yticks([0, max(rates)], ["0", f"{max(rates):.0e}".replace("e-0", "e-")])
        for panel in panels:
            panel.grid(axis="y", linewidth=0.6)
            panel.tick_params(length=0)
        panels[-1].set_xlabel("optimizer step")
        said = f"The training loss goes from {losses[0]:.2f} to {smooth[-1]:.2f} in {len(steps)} steps."
        return _svg(figure, colours, name="training", title=said)


def running_mean(values: Sequence[float], *, window: int) -> list[float]:
    """The mean of each value and of those up to half a window before and after it."""
    reach = window // 2
    parts = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _colour(agents: Sequence[ReportAgent], agent: ReportAgent) -> str:
    return _SERIES[list(agents).index(agent) % SERIES]


def _spoken(report: ReportData) -> str:
    """The plot in words, for who cannot see it."""
    return " ".join(
        f"{task}: " + ", ".join(f"{who(agent)} {percent(result['em'], 0)}" for agent, result in found.items()) + "."
        for task, found in report.results.items()
    )


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_RC)


def _figure(height: float, ratios: Sequence[float]) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(ratios)})
    return figure, [row[0] for row in panels]


def _svg(figure: Any, colours: Mapping[str, str], *, name: str, title: str) -> str:
    """The figure as an ``<svg>`` element that can stand in a page beside others: own ids, no style sheet, a title."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1sans-serif", svg)
    svg = re.sub("|".join(colours), lambda match: colours[match[0]], svg)
    attributes = f'role="img" aria-labelledby="{name}-title" stroke-linejoin="round"'
    label = f'<title id="{name}-title">{_escape(title)}</title>'
    return re.sub(r"<svg([^>]*)>", lambda match: f"<svg {attributes}{match[1]}>\n {label}", svg, count=1)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
