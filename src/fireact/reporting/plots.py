"""How the plots of a report are drawn: sizes, colours, and the forms that they are written in.

Invariant: the same data gives the same bytes of SVG; the background is transparent, text stays text. In SVG, colours are
drawn as placeholders and put in last: as CSS variables for the page, which follow its theme, or, for a file, as tones
that read on a light and on a dark background alike. PNG is on white. What a plot shows is ``figures``' to say.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fireact.controls import without_controls

SERIES = 6
"""Colours for agents; further agents begin with the first again."""
WIDTH = 5.2
"""Inches of 72 px: narrow, so that letters stay legible where a phone scales the plot down."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours that a plot is drawn with."""

    ink: str
    grid: str
    on_bar: str
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot before it is drawn: the name of its file, itself in words for who cannot see it, a caption, the drawing."""

    name: str
    heading: str
    words: str
    caption: str
    draw: Callable[[Palette], Any]
    """Makes a matplotlib figure."""


_MARKS = Palette("#010101", "#020202", "#040404", tuple(f"#0300{index:02}" for index in range(SERIES)))
PAPER = Palette("#333333", "#d5d5d5", "#ffffff", ("#66707f", "#c8490f", "#0f766e", "#6d4bb8", "#93600a", "#b3256b"))
PAGE = {
    _MARKS.ink: "var(--ink)",
    _MARKS.grid: "var(--line)",
    _MARKS.on_bar: "var(--ink)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_MARKS.series)},
}
_MID_TONES = ("#7b8494", "#d9622b", "#1a8f86", "#8568d0", "#a87c12", "#d04a86")
FILE = {
    _MARKS.ink: "#767d88",
    _MARKS.grid: "#9aa0a866",
    _MARKS.on_bar: "#ffffff",
    **dict(zip(_MARKS.series, _MID_TONES, strict=True)),
}


def svg(plot: Plot, colours: Mapping[str, str] = FILE) -> str:
    """The plot as an ``<svg>`` element that can stand in a page beside others: own ids, no style sheet, a title."""
    drawn = _saved(plot, _MARKS, "svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<style.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\bid="', f'id="{plot.name}-', drawn)
    drawn = re.sub(r'(url\(|href=")#', rf"\1#{plot.name}-", drawn)
    drawn = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1sans-serif", drawn)
    drawn = re.sub("|".join(colours), lambda match: colours[match[0]], drawn)
    attributes = f'role="img" aria-labelledby="{plot.name}-title" stroke-linejoin="round"'
    label = f'<title id="{plot.name}-title">{_escape(plot.words)}</title>'
    whole = re.sub(r"<svg([^>]*)>", lambda match: f"<svg {attributes}{match[1]}>\n {label}", drawn, count=1)
    return without_controls(whole)


def png(plot: Plot) -> bytes:
    """The plot as a picture for papers and slides: on white, 300 dots an inch."""
    return _saved(plot, PAPER, "png", dpi=300, facecolor="#ffffff", metadata={"Software": None})


def canvas(palette: Palette, height: float, ratios: tuple[float, ...] = (1,)) -> tuple[Any, list[Any]]:
    """A figure and its panels, one below the other, in the style of the report; only for use while it is drawn."""
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


def _saved(plot: Plot, palette: Palette, form: str, **options: Any) -> bytes:
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
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.ink,
        "text.color": palette.ink,
        "xtick.color": palette.grid,
        "ytick.color": palette.grid,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "grid.color": palette.grid,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
    }


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
