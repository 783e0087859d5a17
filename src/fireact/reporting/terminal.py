"""The before/after table in a terminal, from the object that ``report.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from fireact.reporting.wording import ARROW, display_name, interval, number, p_value, percent, points


def headline_table(report: Mapping[str, Any]) -> Table:
    """One row per task, an agent against its baseline: EM with interval, change, finished, tokens, seconds."""
    lines = report["headlines"]
    pairs = [(line["before"], line["after"]) for line in lines]
    alone = report.get("one_pair", len(set(pairs)) < 2)  # reports of earlier versions lack this key
    title = _pair(*pairs[0]) if alone and pairs else escape(report["title"])
    table = Table(title=title, title_justify="left", title_style="", pad_edge=False)
    names = ("task", "n", "EM", "change", "p", "finished", "tokens/question", "s/question")
    rows = []
    for line in lines:
        task, before, after = line["task"], line["before"], line["after"]
        result, first = report["agents"][after][task], report["agents"].get(before, {}).get(task)
        change = report.get("comparisons", {}).get(task, {}).get(after, {}).get("em")
        row = (
            escape(task) if alone else f"{escape(task)}\n[dim]{_pair(before, after)}{_best_of(line)}[/]",
            str(result["n"]),
            f"{_both(first, result, 'em', percent)}\n[dim]{interval(result['em_interval'], 0)}[/]",
            f"[bold]{points(change['difference'])}[/]\n[dim]{interval(change['interval'], 0)}[/]" if change else "",
            p_value(change["p"]).removeprefix("p = ").removeprefix("p ") if change else "",
            _both(first, result, "finished", lambda share: percent(share, 0)),
            _both(first, result, "tokens_per_question", number),
            _both(first, result, "seconds_per_question", number),
        )
        rows.append(row)
    columns = [index for index in range(len(names)) if any(row[index] for row in rows)]  # without empty columns
    for index in columns:
        table.add_column(names[index], justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(row[index] for index in columns))
    return table


def _pair(before: str | None, after: str) -> str:
    return escape(display_name(after) if before is None else f"{display_name(before)} {ARROW} {display_name(after)}")


def _best_of(line: Mapping[str, Any]) -> str:
    return f", the best of {line['best_of']}" if line.get("best_of") else ""


def _both(first: Mapping[str, Any] | None, last: Mapping[str, Any], name: str, form: Any) -> str:
    if last[name] is None and not (first and first[name] is not None):
        return ""
    return f"{form(first[name])} {ARROW} [bold]{form(last[name])}[/]" if first else f"[bold]{form(last[name])}[/]"
