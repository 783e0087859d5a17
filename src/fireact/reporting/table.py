"""A table of results, and its three forms: in a terminal, in Markdown and on the page.

Invariant: a number is never cut, and text of models, tools and tasks shows as text in every form. In a terminal that is
too narrow, what qualifies a number moves below it; then columns fall away from the right. Only names are folded.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fireact.base.markdown import escape_cell
from fireact.reporting.wording import UNTOLD

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

NAME_WIDTH = 14
"""Characters to which the names of a row are folded in a narrow terminal."""
_LONG_DETAIL = 24  # a longer one is no interval but a name, which may be folded on the page


@dataclass(frozen=True, slots=True)
class TableCell:
    """A value, and the ``details`` that qualify it; the first is its interval or a remark.

    On the page, ``series`` is the colour of an agent, hatched where it is ``noisy``, and ``link`` leads to
    the episodes. A ``faint`` value is grey: a change whose interval holds 0.
    """

    text: str = ""
    details: Sequence[str] = ()
    strong: bool = False
    series: int | None = None
    noisy: bool = False
    link: str = ""
    faint: bool = False

    def __str__(self) -> str:
        return " ".join([self.text, *_beside(self.details)])


def _beside(details: Sequence[str]) -> Iterator[str]:
    """Details on the line of their value: the first in parentheses."""
    yield from (detail if index else f"({detail})" for index, detail in enumerate(details))


Row = Sequence[TableCell | str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under headings; the first ``names`` columns hold names. ``footer`` is a last row of sums.

    With ``grouped``, rows with the same value in the first column belong together.
    """

    title: str
    columns: Sequence[TableCell | str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    names: int = 1
    footer: Row = ()
    grouped: bool = False

    def without_empty_columns(self) -> Table:
        """The table without the columns in which no row has a value; names stay."""
        return self.select_columns(
            [
                index
                for index in range(len(self.columns))
                if index < self.names or any(str(row[index]) not in ("", UNTOLD) for row in self.rows)
            ]
        )

    def select_columns(self, indices: Sequence[int]) -> Table:
        """The table with these columns alone."""
        columns, footer, *rows = (
            [row[index] for index in indices] if row else [] for row in (self.columns, self.footer, *self.rows)
        )
        return replace(self, columns=columns, footer=footer, rows=rows)


def as_cell(value: TableCell | str) -> TableCell:
    return TableCell(value) if isinstance(value, str) else value


def write_markdown_table(table: Table) -> Iterator[str]:
    """The lines of a table in Markdown, without its title and notes."""
    yield _markdown_row(table.columns)
    yield f"|{' --- |' * len(table.columns)}"
    yield from map(_markdown_row, [*table.rows, *([table.footer] if table.footer else [])])


def _markdown_row(row: Row) -> str:
    cells = (as_cell(value) for value in row)
    texts = (f"**{escape_cell(str(cell))}**" if cell.strong else escape_cell(str(cell)) for cell in cells)
    return f"| {' | '.join(texts)} |"


def write_html_table(table: Table, *, plain: bool = True) -> str:
    """The table as an element of the page; ``plain`` tables fit a phone."""
    from markupsafe import escape

    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(str(row[0]) if table.grouped else "", []).append(row)
    body = [f"<tbody>{''.join(_html_rows(table, rows))}</tbody>" for rows in groups.values()]
    foot = f"<tfoot>{_html_row(table, table.footer)}</tfoot>" if table.footer else ""
    head = f"<thead>{_html_row(table, table.columns, scope='col')}</thead>"
    opening = '<table class="plain">' if plain else "<table>"
    return "\n".join([opening, f"<caption>{escape(table.title)}</caption>", head, *body, foot, "</table>"])


def _html_rows(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """Rows of the page; those of a group stand under a heading instead of a first column."""
    if table.grouped:
        yield f"<tr>{_html_group(rows[0][0], len(table.columns) - 1)}</tr>\n"
    yield from (_html_row(table, row) for row in rows)


def _html_row(table: Table, row: Row, scope: str = "") -> str:
    first = int(table.grouped)
    cells = (
        _html_cell(value, scope or ("row" if index == first else ""), left=index < table.names)
        for index, value in enumerate(row)
        if index >= first
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _html_group(value: TableCell | str, width: int) -> str:
    from markupsafe import escape

    cell = as_cell(value)
    details = "".join(f' <span class="muted">{escape(detail)}</span>' for detail in cell.details)
    return f'<th scope="rowgroup" class="left" colspan="{width}">{escape(cell.text)}{details}</th>'


def _html_cell(value: TableCell | str, scope: str, *, left: bool) -> str:
    """One cell; with a ``scope`` it is a heading."""
    from markupsafe import escape

    cell = as_cell(value)
    classes = [
        name
        for name, holds in (
            ("left", left),
            ("agent", cell.series is not None),
            ("now", cell.strong),
            ("faint", cell.faint),
        )
        if holds
    ]
    text = str(escape(cell.text))
    if cell.link:
        text = f'<a href="{escape(cell.link)}">{text}</a>'
    if cell.series is not None:
        hatch = " noisy" if cell.noisy else ""
        text = f'<span class="swatch s{cell.series}{hatch}" aria-hidden="true"></span>{text}'
    for detail in cell.details:
        text += f"{'<small class=other>' if len(detail) > _LONG_DETAIL else '<small>'}{escape(detail)}</small>"
    attributes = (f' scope="{scope}"' if scope else "") + (f' class="{" ".join(classes)}"' if classes else "")
    tag = "th" if scope else "td"
    return f"<{tag}{attributes}>{text}</{tag}>"


def fit_to_terminal(table: Table, console: Console) -> tuple[RichTable, list[str]]:
    """The table in a form that fits the terminal, and the headings of the columns that do not."""
    beside = _build_terminal_table(table, stacked=False)
    if _least_width(beside, console, table.names) <= console.width:
        return beside, []
    for count in range(len(table.columns), min(table.names, len(table.columns) - 1), -1):  # a table of names is folded
        below = _build_terminal_table(table.select_columns(range(count)), stacked=True)
        if _least_width(below, console, table.names) <= console.width:
            break
    return below, [as_cell(value).text for value in table.columns[count:]]


def _least_width(rich_table: RichTable, console: Console, names: int) -> int:
    """The width of a table whose names are folded as far as they may be."""
    from rich.measure import Measurement

    widths = [
        max(Measurement.get(console, console.options, text).maximum for text in (column.header, *column.cells))
        for column in rich_table.columns
    ]
    natural_width = Measurement.get(console, console.options.update(max_width=10_000), rich_table).maximum
    return natural_width - sum(max(0, width - NAME_WIDTH) for width in widths[:names])


def _build_terminal_table(table: Table, *, stacked: bool) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    rich_table = RichTable(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left", title_style="bold",
        title=_escape(table.title) or None,
    )  # fmt: skip
    rows = [[_terminal_text(value, stacked=stacked) for value in row] for row in (*table.rows, table.footer) if row]
    for index, heading in enumerate(as_cell(value) for value in table.columns):
        if index < table.names:
            rich_table.add_column(_escape(str(heading)), overflow="fold")
            continue
        lines = [line for row in table.rows for line in _cell_lines(row[index], stacked=stacked)]
        head_text = _fold_heading(str(heading), max(map(len, lines), default=0)) if stacked else str(heading)
        rich_table.add_column(_escape(head_text), justify="right", no_wrap=True)
    for number, cells in enumerate(rows):
        if table.footer and number == len(rows) - 1:
            rich_table.add_section()
        rich_table.add_row(*cells)
    return rich_table


def _fold_heading(heading: str, width: int) -> str:
    """A heading on as many lines as its column is narrow."""
    if len(heading) <= width:
        return heading
    return "\n".join(textwrap.wrap(heading.replace("/", "/ "), max(1, width), break_long_words=False))


def _cell_lines(value: TableCell | str, *, stacked: bool) -> list[str]:
    cell = as_cell(value)
    return [*cell.text.split("\n"), *cell.details] if stacked else str(cell).split("\n")


def _terminal_text(value: TableCell | str, *, stacked: bool) -> str:
    cell = as_cell(value)
    style = "bold" if cell.strong else "dim" if cell.faint else ""
    text = f"[{style}]{_escape(cell.text)}[/]" if style else _escape(cell.text)
    if stacked:
        return "\n".join([text, *(f"[dim]{_escape(detail)}[/]" for detail in cell.details)])
    return " ".join([text, *map(_escape, _beside(cell.details))])


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
