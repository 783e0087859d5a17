"""How plots are drawn, those of reports and of studies alike; ``figures`` and ``study.plots`` choose what they show.

Invariant: the same data gives the same bytes of SVG; the background is transparent, and text stays text. An SVG is
drawn with placeholder colours, which are replaced last: for the page by CSS variables, which follow its theme; for a
file by tones that are legible on a light and on a dark background. A PNG is on white.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.controls import strip_controls
from fireact.evaluation.statistics import Estimate
from fireact.reporting.summary import SERIES
from fireact.reporting.wording import percent

WIDTH = 5.2
"""Inches of 72 px: narrow, so that text stays legible where a phone scales the plot down."""
MARKERS = "osD^vP"
_SHARES = ([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
_DASHES = ("-", "--", ":")
_NUMBER_WIDTH = 0.14  # of the axis of shares, for "100.0%"
_BESIDE, _ABOVE = 26, 58
"""Most characters in a line of text at the left of a plot, and above it."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours that a plot is drawn with."""

    ink: str
    grid: str
    on_bar: str
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot before it is drawn: the stem of its file, a heading, what it shows in words, a caption, and ``draw``."""

    name: str
    heading: str
    words: str
    caption: str
    draw: Callable[[Palette], Any]
    """Returns a matplotlib figure."""


_MARKS = Palette("#010101", "#020202", "#040404", tuple(f"#0300{index:02}" for index in range(SERIES)))
PAPER = Palette("#333333", "#d5d5d5", "#ffffff", ("#66707f", "#c8490f", "#0f766e", "#6d4bb8", "#93600a", "#b3256b"))
PAGE = {
    _MARKS.ink: "var(--ink)",
    _MARKS.grid: "var(--line)",
    _MARKS.on_bar: "var(--ink)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_MARKS.series)},
}
FILE = {
    _MARKS.ink: "#767d88",
    _MARKS.grid: "#9aa0a866",
    _MARKS.on_bar: "#ffffff",
    **dict(zip(_MARKS.series, ("#7b8494", "#d9622b", "#1a8f86", "#8568d0", "#a87c12", "#d04a86"), strict=True)),
}


def render_svg(plot: Plot, colours: Mapping[str, str] = FILE) -> str:
    """The plot as an ``<svg>`` element for a page with several plots: ids of its own, no style sheet, a title."""
    markup = _save(plot, _MARKS, "svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>\s*", "", markup, flags=re.DOTALL)
    markup = re.sub(r"<style.*?</style>", "", markup, flags=re.DOTALL)
    markup = re.sub(r'\bid="', f'id="{plot.name}-', markup)
    markup = re.sub(r'(url\(|href=")#', rf"\1#{plot.name}-", markup)
    markup = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1sans-serif", markup)
    markup = re.sub("|".join(colours), lambda match: colours[match[0]], markup)
    attributes = f'role="img" aria-labelledby="{plot.name}-title" stroke-linejoin="round"'
    label = f'<title id="{plot.name}-title">{escape(plot.words, quote=False)}</title>'
    titled_markup = re.sub(r"<svg([^>]*)>", lambda match: f"<svg {attributes}{match[1]}>\n {label}", markup, count=1)
    return strip_controls(titled_markup)


def render_png(plot: Plot) -> bytes:
    """The plot as a picture for papers and slides: on white, 300 dots an inch."""
    return _save(plot, PAPER, "png", dpi=300, facecolor="#ffffff", metadata={"Software": None})


def save_plot(plot: Plot, directory: Path) -> list[str]:
    """Write a plot as SVG and as PNG beside each other, and return the names of the files."""
    jsonl.replace_text(directory / f"{plot.name}.svg", render_svg(plot))
    with jsonl.open_replacement(directory / f"{plot.name}.png") as file:
        file.write(render_png(plot))
    return [f"{plot.name}.svg", f"{plot.name}.png"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A share under a label, in the colour of a series; ``marks`` are figures of others beside it, by their source.

    The bar of an agent with disturbed tools is hatched.
    """

    label: str
    share: Estimate
    series: int
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    is_noisy: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A share at an amount; ``group`` gives the marker. Series from ``SERIES`` on have the colours again, hollow."""

    label: str
    group: str
    amount: float
    share: Estimate
    series: int


@dataclass(frozen=True, slots=True)
class LossCurve:
    """Loss by optimizer step, its running mean, and the learning rate of each step, where that is known."""

    name: str
    series: int
    steps: Sequence[float]
    losses: Sequence[float]
    smooth: Sequence[float]
    rates: Sequence[float] = ()


def draw_bars(groups: Mapping[str, Sequence[Bar]], palette: Palette, kinds: Mapping[str, int] | None = None) -> Any:
    """Bars with intervals in groups under a name; each has its label at the left. ``kinds`` name some series."""
    legend, unit = _Legend(), 0.15  # inches; a line of a label is one unit high
    for name, series in (kinds or {}).items():
        legend.add(name, color=palette.series[series], marker="s", markersize=8, linestyle="none")
    sources = dict.fromkeys(source for bars in groups.values() for bar in bars for source in bar.marks)
    common = {"markersize": 6.5, "linestyle": "none", "markerfacecolor": palette.on_bar, "color": palette.ink}
    markers = {source: {"marker": MARKERS[index % len(MARKERS)], **common} for index, source in enumerate(sources)}
    for source, style in markers.items():
        legend.add(source, **style)
    lines = [len(textwrap.wrap(bar.label, _BESIDE)) for bars in groups.values() for bar in bars]
    figure, (axes,) = _new_canvas(palette, unit * (sum(lines) + len(lines)) + 0.42 * len(groups) + 0.6 + legend.height)
    position, ticks = 0.0, dict[float, str]()
    for name, bars in groups.items():
        axes.text(0, -position, name, va="center", fontweight="bold")
        position += 0.12
        for bar in bars:
            label_lines = textwrap.wrap(bar.label, _BESIDE)
            room = unit * (len(label_lines) + 1)
            middle = -position - room / 2
            ticks[middle] = "\n".join(label_lines)
            _draw_bar(axes, bar, middle, palette)
            for source, shares in bar.marks.items():
                axes.plot(shares, [middle] * len(shares), zorder=4, clip_on=False, **markers[source])
            position += room
        position += 0.3
    axes.set_ylim(-position + 0.2, 0.12)
    axes.set_xlim(0, 1.16)
    axes.set_xticks(*_SHARES)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9, linespacing=1.05)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)
    legend.draw_above(figure)
    return figure


def _draw_bar(axes: Any, bar: Bar, position: float, palette: Palette) -> None:
    """A bar, its interval, and its number beside it, where no mark of others lies."""
    share, colour = bar.share, palette.series[bar.series % SERIES]
    if bar.is_noisy:
        hatch = {"facecolor": "none", "edgecolor": colour, "hatch": "/////", "linewidth": 0.8}
        axes.barh(position, share.mean, height=0.19, zorder=2, **hatch)
    else:
        axes.barh(position, share.mean, height=0.19, color=colour, zorder=2)
    style = {"linewidth": 1.3, "marker": "|", "markersize": 5, "markevery": [1], "zorder": 3}
    for end, ink in ((share.low, palette.ink if bar.is_noisy else palette.on_bar), (share.high, palette.ink)):
        axes.plot([share.mean, end], [position, position], color=ink, **style)
    x = share.high + 0.018
    for mark in sorted(mark for marks in bar.marks.values() for mark in marks):
        if x - 0.03 < mark < x + _NUMBER_WIDTH:
            x = mark + 0.03
    axes.text(x, position, percent(share.mean), va="center", ha="left", fontsize=9.5)


@dataclass(frozen=True, slots=True)
class StackedBars:
    """Shares that make up a whole: segment -> bar -> share. Segments with an order have shades instead of colours."""

    label: str
    segments: Mapping[str, Mapping[str, float]]
    is_ordered: bool = False


def draw_stacked_bars(panels: Sequence[StackedBars], palette: Palette) -> Any:
    """Stacked bars in panels, one below the other, all of the same bars."""
    labels = list(dict.fromkeys(label for panel in panels for bars in panel.segments.values() for label in bars))
    lines = sum(len(textwrap.wrap(label, _BESIDE)) for label in labels)
    figure, all_axes = _new_canvas(palette, len(panels) * (0.15 * (lines + len(labels)) + 1.2), (1,) * len(panels))
    for axes, panel in zip(all_axes, panels, strict=True):
        starts = dict.fromkeys(labels, 0.0)
        for index, (name, bars) in enumerate(panel.segments.items()):
            style: dict[str, Any] = {"color": palette.series[index % SERIES]}
            if panel.is_ordered:
                style = {"color": palette.ink, "alpha": 0.15 + 0.8 * index / len(panel.segments)}
            for position, label in enumerate(labels):
                width = bars.get(label, 0.0)
                heading = name if not position else None
                axes.barh(-position, width, left=starts[label], height=0.7, label=heading, linewidth=0, **style)
                starts[label] += width
        folded = [textwrap.fill(label, _BESIDE) for label in labels]
        axes.set_yticks([-position for position in range(len(labels))], folded, fontsize=9, linespacing=1.05)
        axes.set_xlim(0, 1)
        axes.set_xticks(*_SHARES)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(panel.label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, handlelength=1, columnspacing=1)
    return figure


def draw_lines(
    lines: Mapping[str, Mapping[float, Sequence[Estimate]]],
    palette: Palette,
    *,
    labels: tuple[str, str],
    levels: Mapping[str, float] | None = None,
) -> Any:
    """Shares by an amount. Several shares at one amount differ in their seed: the line goes through their mean.

    ``labels`` are those of the axes; ``levels`` are shares that do not depend on the amount, by name.
    """
    legend, amounts = _Legend(), sorted({amount for line in lines.values() for amount in line})
    figure, (axes,) = _new_canvas(palette, 3.0 + _Legend.measure([*lines, *(levels or {})]))
    for index, (name, line) in enumerate(lines.items()):
        colour, marker = palette.series[(index + 1) % SERIES], MARKERS[index % len(MARKERS)]
        dashes = _DASHES[index // SERIES % len(_DASHES)]
        for amount, shares in line.items():
            if len(shares) == 1:
                _draw_interval(axes, amount, shares[0], colour, marker="")
            else:
                means = [share.mean for share in shares]
                axes.plot([amount] * len(shares), means, "o", color=colour, markersize=4, alpha=0.4)
        style = {"color": colour, "marker": marker, "linestyle": dashes}
        means = [mean_share(line[amount]) for amount in sorted(line)]
        axes.plot(sorted(line), means, linewidth=1.6, markersize=6, **style)
        legend.add(name, **style)
    for index, (name, level) in enumerate((levels or {}).items()):
        style = {"color": palette.ink, "linestyle": ("--", ":", "-.")[index % 3]}
        axes.axhline(level, linewidth=1, **style)
        legend.add(name, **style)
    if amounts[0] > 0 and amounts[-1] / amounts[0] >= 4:
        axes.set_xscale("log")
    axes.set_xticks(amounts, [f"{amount:,g}" for amount in amounts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(labels[0])
    legend.draw_above(figure)
    return _format_share_axis(figure, axes, labels[1])


def mean_share(shares: Sequence[Estimate]) -> float:
    """The mean of the shares of several seeds."""
    return sum(share.mean for share in shares) / len(shares)


def draw_points(points: Sequence[Point], palette: Palette, *, unit: str) -> Any:
    """Shares against an amount, with intervals; the marker tells the groups apart, where there are several."""
    legend, groups = _Legend(), list(dict.fromkeys(point.group for point in points))
    for point in {point.label: point for point in points}.values():
        legend.add(point.label, marker="s", markersize=8, linestyle="none", **_point_style(point, palette))
    for index, group in enumerate(groups if len(groups) > 1 else ()):
        legend.add(group, marker=MARKERS[index % len(MARKERS)], linestyle="none", color=palette.ink)
    figure, (axes,) = _new_canvas(palette, 3.0 + legend.height)
    for point in points:
        marker, style = MARKERS[groups.index(point.group) % len(MARKERS)], _point_style(point, palette)
        _draw_interval(axes, point.amount, point.share, style.pop("color"), marker=marker, **style)
    amounts = [point.amount for point in points]
    if min(amounts) > 0:
        _set_log_axis(axes, min(amounts), max(amounts))
    axes.set_xlabel(f"{unit} a question")
    legend.draw_above(figure)
    return _format_share_axis(figure, axes)


def _point_style(point: Point, palette: Palette) -> dict[str, str]:
    colour = {"color": palette.series[point.series % SERIES]}
    return colour | {"markerfacecolor": "none"} if point.series >= SERIES else colour


def _draw_interval(axes: Any, x: float, share: Estimate, colour: str, *, marker: str, **style: Any) -> None:
    reach = [[max(0.0, share.mean - share.low)], [max(0.0, share.high - share.mean)]]
    style |= {"marker": marker, "markersize": 6, "linestyle": "none", "elinewidth": 1.1}
    axes.errorbar([x], [share.mean], reach, color=colour, capsize=2.5, **style)


def draw_losses(curves: Sequence[LossCurve], palette: Palette) -> Any:
    """Loss by optimizer step; a curve that is alone has its learning rate below."""
    alone, legend = len(curves) == 1, _Legend()
    rates = curves[0].rates if alone else ()
    ends = {curve.name: f"{curve.name}: {curve.smooth[-1]:.2f}" for curve in curves}
    height = 3.3 if alone else 3.0 + _Legend.measure(ends.values())
    figure, panels = _new_canvas(palette, height, (3.2, 1) if rates else (1,))
    for index, curve in enumerate(curves):
        colour, dashes = palette.series[curve.series % SERIES], _DASHES[index // SERIES % len(_DASHES)]
        panels[0].plot(curve.steps, curve.losses, color=colour, linewidth=0.9, alpha=0.45 if alone else 0.2)
        panels[0].plot(curve.steps, curve.smooth, dashes, color=colour, linewidth=2)
        if alone:
            end = (curve.steps[-1], curve.smooth[-1])
            panels[0].annotate(f"{end[1]:.2f}", end, (5, 0), textcoords="offset points", va="center")
        else:
            legend.add(ends[curve.name], color=colour, linestyle=dashes, linewidth=2)
    panels[0].set_ylabel("loss")
    panels[0].set_ylim(0, 1.05 * max(max(curve.losses) for curve in curves) or 1)
    if rates:
        panels[1].plot(curves[0].steps, rates, color=palette.ink, linewidth=1.3)
        panels[1].set_ylabel("learning\nrate")
        panels[1].set_ylim(0, 1.15 * max(rates) or 1)
        panels[1].set_yticks([0, max(rates)], ["0", f"{max(rates):.0e}".replace("e-0", "e-")])
    legend.draw_above(figure)
    for panel in panels:
        panel.grid(axis="y")
    panels[-1].set_xlabel("optimizer step")
    return figure


def _format_share_axis(figure: Any, axes: Any, label: str = "exact match") -> Any:
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks(*_SHARES)
    axes.set_ylabel(label)
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


def _new_canvas(palette: Palette, height: float, ratios: tuple[float, ...] = (1,)) -> tuple[Any, list[Any]]:
    """A new figure and its panels, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(ratios)})
    for (axes,) in panels:
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
    return figure, [row[0] for row in panels]


class _Legend:
    """The legend of a plot, above it and as wide: one name per row, long names wrapped."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    @staticmethod
    def measure(names: Iterable[str]) -> float:
        """The height of a legend of these names in inches; the figure is made higher by it."""
        return sum(0.055 + 0.155 * len(textwrap.wrap(name, _ABOVE)) for name in names)

    @property
    def height(self) -> float:
        """Its own height in inches."""
        return self.measure(handle.get_label().replace("\n", " ") for handle in self._handles)

    def add(self, name: str, **style: Any) -> None:
        from matplotlib.lines import Line2D

        self._handles.append(Line2D([], [], label="\n".join(textwrap.wrap(name, _ABOVE)), **style))

    def draw_above(self, figure: Any) -> None:
        if self._handles:
            size = {"handlelength": 1.6, "borderpad": 0.2, "labelspacing": 0.35, "fontsize": 9.5}
            figure.legend(handles=self._handles, loc="outside upper left", **size)


@contextmanager
def boxes_for_missing_glyphs() -> Iterator[None]:
    """Draw a box, without a warning, for each character of a name that the font of a plot does not have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def _save(plot: Plot, palette: Palette, form: str, **options: Any) -> bytes:
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context(_style(palette)), boxes_for_missing_glyphs():
        plot.draw(palette).savefig(file, format=form, **options)
    return file.getvalue()


def _style(palette: Palette) -> Any:
    return {
        "svg.hashsalt": "fireact",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.ink,
        "text.color": palette.ink,
        "xtick.color": palette.grid,
        "ytick.color": palette.grid,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "grid.color": palette.grid,
        "grid.linewidth": 0.6,
    }
