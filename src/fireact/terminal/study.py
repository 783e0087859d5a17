"""Studies, planned and done, as a person reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    pass
from fireact.terminal.screen import RESULT, percent, print_json


def print_studies(found: Mapping[str, str]) -> None:
    """The studies that ship, and what each asks."""
    for name, asks in found.items():
        RESULT.print(f"[bold]{escape(name)}[/]  {escape(asks)}", soft_wrap=True)


def print_plan(plan: Mapping[str, Any], out: Path) -> None:
    """What a study would do: each cell with what it still needs, and what all of it will take."""
    table = Table("cell", "collect", "mix", "train", "eval", title=escape(f"{plan['title']} ({plan['size']})"))
    table.columns[0].overflow, table.columns[0].ratio = "fold", 1  # cells are told apart by the ends of their names
    for cell in plan["cells"]:
        found: dict[str, list[Mapping[str, Any]]] = {verb: [] for verb in ("collect", "mix", "train", "eval")}
        for one in cell["stages"]:
            verb = one["stage"].partition("/")[0]
            found["train" if verb == "tune" else verb].append(one)
        table.add_row(escape(cell["cell"]), *(_to_come(stages, verb) for verb, stages in found.items()))
    RESULT.print(table)
    if plan["needs"]:
        RESULT.print(escape(f"It needs {'; '.join(plan['needs'].values())}."), soft_wrap=True)
    tokens, usd, seconds = plan["training_tokens"], plan["usd"], plan["seconds"]
    time = f"{_least(seconds)}{seconds['known'] / 60:,.0f} min"
    searches = f"about {plan['searches']:,} paid searches, " if plan["searches"] else ""
    RESULT.print(
        f"{plan['stages']} stages, {plan['there']} of them there; {plan['episodes']:,} episodes, {searches}{_least(tokens)}"
        f"{tokens['known']:,} training tokens, {_least(usd)}{usd['known']:,.2f} USD, "
        f"{time if seconds['known'] or seconds['whole'] else 'time not known'}. Nothing was spent. It goes to {escape(str(out))}."
    )
    priced = [part for part in usd["unknown"] if not part.startswith("the machine for ")]  # which follows from the time
    if unknown := [*(f"the time of {part}" for part in seconds["unknown"]), *priced]:
        RESULT.print(
            escape(f"Not in these sums (?), because nobody has measured it: {'; '.join(unknown)}."), soft_wrap=True
        )
    for said in plan["short"]:
        RESULT.print(escape(f"Too few may be right: {said}. Raise the plan."), soft_wrap=True)


def _least(amount: Mapping[str, Any]) -> str:
    """What stands before a sum of which parts are not known."""
    return "" if amount["whole"] else "at least "


def _to_come(stages: Sequence[Mapping[str, Any]], verb: str) -> str:
    """What the stages of a verb still take together."""
    left = [one for one in stages if not one["done"]]
    if not left:
        return "there" if stages else ""
    if verb == "train":
        tokens = [one["training_tokens"] for one in left]
        said = "? tokens" if None in tokens else f"{sum(tokens) / 1000:,.0f}k tokens"
    else:
        said = "to do" if verb == "mix" else f"{sum(one['episodes'] for one in left):,}"
    usd, seconds = (sum(one[key] or 0 for one in left) for key in ("usd", "seconds"))
    least = "at least " if seconds and any(one["seconds"] is None for one in left) else ""
    cost = f", ${usd:,.2f}" if usd else ""
    cost += (" + ?" if usd else ", $ ?") if any(one["unpriced"] for one in left) else ""
    return f"{said}{cost}, {least}{seconds:,.0f} s" if seconds else f"{said}{cost}"


def print_study(manifest: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """A line a cell and task, and where the tables and plots lie."""
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    if as_json:
        print_json({**manifest, "rows": rows})
        return
    table = Table("cell", "task", "n", "EM", "difference", title=escape(manifest["title"]))
    for row in rows:
        for task, result in row["results"].items():
            change = row["against"].get(task)
            said = "" if change is None else f"{100 * change['em']['difference']:+.1f} to {change['cell']}"
            shown = percent(result["em"], result["em_interval"])
            table.add_row(escape(row["cell"]), escape(task), str(result["n"]), shown, escape(said))
    RESULT.print(table)
    RESULT.print(f"Tables: {escape(str(out / 'tables.md'))}, plots: {escape(str(out / 'plots'))}.")
