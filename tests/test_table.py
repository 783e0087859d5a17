"""One table in three forms: no number is cut in a narrow terminal, and text of others is text in all of them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import sample_report
from fireact.reporting.report_tables import headline_table, read_headline_table, result_table
from fireact.reporting.summary import headlines, report_to_dict
from fireact.reporting.table import Table, TableCell, as_cell, fit_to_terminal, write_html_table, write_markdown_table

HOSTILE = "<b>[bold]|a|[/] *x*"
SMALL = Table("t", ["name", "n", "EM"], [[HOSTILE, "3", TableCell("50.0%", ["10.0 to 90.0"])]], footer=["all", "3", ""])


def printed(table: Table, width: int) -> tuple[str, list[str]]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    rich_table, left_out = fit_to_terminal(table, console)
    console.print(rich_table)
    return console.file.getvalue(), left_out  # type: ignore[attr-defined]


def wide_tables() -> list[Table]:
    report = sample_report.sample(n=8)
    return [
        read_headline_table(report_to_dict(report)),
        result_table(report),
        headline_table(headlines(report), "t", one_pair=False, labels=report.labels),
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut_and_what_has_no_room_is_named(width: int) -> None:
    for table in wide_tables():
        shown, left_out = printed(table, width)
        assert max(map(len, shown.splitlines())) <= width and "…" not in shown
        headings = [as_cell(heading).text for heading in table.columns]
        assert left_out == headings[len(headings) - len(left_out) :]  # they fall away from the right
        for row in table.rows:
            for value in row[table.names : len(headings) - len(left_out)]:
                assert all(piece in shown for piece in (as_cell(value).text, *as_cell(value).details))


def test_what_qualifies_a_number_moves_below_it_before_a_column_falls_away() -> None:
    rows = [["geo-hop", *(TableCell(f"{index}0.0%", ["10.0 to 90.0"]) for index in range(1, 5))]]
    table = Table("", ["task", "a", "b", "c", "d"], rows)
    beside, none_left_out = printed(table, 120)
    below, none_either = printed(table, 70)
    assert "10.0% (10.0 to 90.0)" in beside and "10.0% (" not in below and not none_left_out + none_either
    assert printed(table, 40)[1]


def test_a_table_of_names_alone_is_folded() -> None:
    answer = "0123456789" * 20
    text, left_out = printed(Table("", ["question", "answer"], [["Why?", answer]], names=2), 40)
    assert not left_out and max(map(len, text.splitlines())) <= 40 and text.count("0123") >= 4


def test_text_of_others_is_text_in_every_form() -> None:
    assert HOSTILE in printed(SMALL, 80)[0]
    lines = list(write_markdown_table(SMALL))
    assert lines[2] == r"| \<b>\[bold\]\|a\|\[/\] \*x\* | 3 | 50.0% (10.0 to 90.0) |" and lines[3].startswith("| all |")
    page = write_html_table(SMALL)
    assert "&lt;b&gt;" in page and "<b>" not in page and "<small>10.0 to 90.0</small>" in page and "<tfoot>" in page


def test_columns_without_values_are_left_out_and_rows_of_a_group_stand_together() -> None:
    table = Table(
        "t",
        ["task", "agent", "n", "F1"],
        [["a", "x", "1", ""], ["a", "y", "2", ""], ["b", "x", "3", ""]],
        names=2,
        grouped=True,
    )
    assert list(table.without_empty_columns().columns) == ["task", "agent", "n"]
    page = write_html_table(table)
    assert page.count('scope="rowgroup"') == 2 and page.count("<tbody>") == 2 and ">task<" not in page
