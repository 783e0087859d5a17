"""How the plots of reports and studies are drawn: sizes, colours and file forms.

``figures`` and ``study.plots`` decide what the plots show.

Invariant: the same data gives the same bytes of SVG; the background is transparent, and text stays text. An SVG is
drawn with placeholder colours, which are replaced last: for the page by CSS variables, which follow its theme; for a
file by tones that are legible on a light and on a dark background. A PNG is on white.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.controls import strip_controls
from fireact.base.jsonl import open_replacement
from fireact.reporting.summary import SERIES

WIDTH = 5.2
"""Inches of 72 px: narrow, so that text stays legible where a phone scales the plot down."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours that a plot is drawn with."""

    ink: str
    grid: str
    on_bar: str
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportPlot:
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
_MID_TONES = ("#7b8494", "#d9622b", "#1a8f86", "#8568d0", "#a87c12", "#d04a86")
STUDY = Palette("#1c2833", _MID_TONES[0], "#1c2833", ("#1b4f72", *_MID_TONES[1:]))
"""The colours of a study differ in lightness too, so that a reader who cannot see hue can tell them apart."""
FILE = {
    _MARKS.ink: "#767d88",
    _MARKS.grid: "#9aa0a866",
    _MARKS.on_bar: "#ffffff",
    **dict(zip(_MARKS.series, _MID_TONES, strict=True)),
}


def render_svg(plot: ReportPlot, colours: Mapping[str, str] = FILE) -> str:
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
    label = f'<title id="{plot.name}-title">{_escape(plot.words)}</title>'
    titled_markup = re.sub(r"<svg([^>]*)>", lambda match: f"<svg {attributes}{match[1]}>\n {label}", markup, count=1)
    return strip_controls(titled_markup)


def render_png(plot: ReportPlot) -> bytes:
    """The plot as a picture for papers and slides: on white, 300 dots an inch."""
    return _save(plot, PAPER, "png", dpi=300, facecolor="#ffffff", metadata={"Software": None})


def new_canvas(palette: Palette, height: float, ratios: tuple[float, ...] = (1,)) -> tuple[Any, list[Any]]:
    """A new figure and its panels, one below the other. Call it in ``ReportPlot.draw``, where the style is set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(ratios)})
    for (axes,) in panels:
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
    return figure, [row[0] for row in panels]


@contextmanager
def boxes_for_missing_glyphs() -> Iterator[None]:
    """Draw a box, without a warning, for each character of a name that the font of a plot does not have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def new_figure(height: float, *, columns: int = 1) -> tuple[Any, Any]:
    """A new figure of a study with its panels, side by side, in colours for paper."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STUDY_STYLE):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        return figure, figure.subplots(1, columns)


def save_figure(figure: Any, path: Path) -> list[str]:
    """Save a figure of a study as SVG and PNG beside each other, and return the names of the files."""
    import matplotlib

    metadata = {"svg": {"Date": None}, "png": {"Software": None}}
    with matplotlib.rc_context(_STUDY_STYLE), boxes_for_missing_glyphs():
        for form in metadata:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=160, metadata=metadata[form], bbox_inches="tight")
            with open_replacement(path.with_name(f"{path.name}.{form}")) as file:
                file.write(buffer.getvalue())
    return [f"{path.name}.{form}" for form in metadata]


def _save(plot: ReportPlot, palette: Palette, form: str, **options: Any) -> bytes:
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context(_style(palette)), boxes_for_missing_glyphs():
        plot.draw(palette).savefig(file, format=form, **options)
    return file.getvalue()


def _style(palette: Palette) -> Any:
    return {
        **_COMMON_STYLE,
        "font.size": 10.5,
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


_COMMON_STYLE: Any = {
    "svg.hashsalt": "fireact",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_STUDY_STYLE: Any = {**_COMMON_STYLE, "font.size": 10, "grid.color": "#d5d8dc"}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
