"""Two runs set side by side, as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from fireact.evaluation.failures import FAILURES, failure
from fireact.reporting.wording import MINUS, number, p_value, points
from fireact.reporting.wording import interval as wide
from fireact.types import Trajectory

if TYPE_CHECKING:
    from fireact.evaluation.comparison import Flip, Kept, RunComparison, TaskComparison
    from fireact.evaluation.conditions import Difference
    from fireact.evaluation.recovery import Recovery
    from fireact.evaluation.statistics import Estimate
from fireact.terminal.screen import NOTES, RESULT, complain, new_table, percent, print_json


def print_differences(found: Sequence[Difference], before: str, after: str, *, as_json: bool) -> None:
    """Why two runs do not compare: each setting that differs, as it is in the one and in the other."""
    if as_json:
        rows = [{"setting": one.setting, "before": one.one, "after": one.other} for one in found]
        print_json({"comparable": False, "differences": rows})
    complain(
        f"{before} and {after} do not compare: they differ in {' and '.join(dict.fromkeys(one.setting for one in found))}."
    )
    for one in found:
        NOTES.print(escape(f"  {one.setting}\n    A  {one.one}\n    B  {one.other}"), soft_wrap=True)
    names = list(dict.fromkeys(one.setting for one in found))
    options = " ".join(f"--allow {name}" for name in names)
    # without a common question there is nothing to compare, whatever is allowed
    allowing = "" if "task" in names else f", or allow what differs on purpose: {options}"
    NOTES.print(f"Evaluate one of them again under the conditions of the other{allowing}.", soft_wrap=True)


def print_comparison(found: RunComparison, *, flips: int, as_json: bool) -> None:
    """Two runs side by side, task by task, with ``flips`` questions of each direction; with ``as_json`` one object."""
    if as_json:
        print_json(found.to_dict())
        return
    for letter, run in (("A", found.before), ("B", found.after)):
        RESULT.print(f"[bold]{letter}[/]  {escape(run.agent)}  [dim]{escape(run.name)}[/]", soft_wrap=True)
    for passed in found.allowed:
        RESULT.print(
            escape(f"{passed.setting} differs, as allowed: {passed.one} in A, {passed.other} in B"), soft_wrap=True
        )
    for note in found.notes:
        RESULT.print(escape(f"{note[0].upper()}{note[1:]}."), soft_wrap=True)
    for task in found.tasks:
        _print_task(task, flips)


def _print_task(task: TaskComparison, flips: int) -> None:
    episodes = f", {task.episodes} episodes each" if task.episodes != task.n else ""
    RESULT.print(f"\n[bold]{escape(task.task)}[/]: {task.n} questions that both answered{episodes}")
    sides = zip("AB", (task.only_before, task.only_after), task.faults, task.unscored, strict=True)
    for letter, names, faults, unscored in sides:
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            RESULT.print(escape(f"Only {letter} has {len(names)}: {', '.join(names[:8])}{more}."), soft_wrap=True)
        if faults:
            RESULT.print(f"{letter}: {faults} episodes ended in a fault and are left out.")
        if unscored:
            RESULT.print(f"{letter}: {unscored} episodes have no score and are left out.")
    _print_scores(task)
    _print_amounts(task)
    _print_outcomes(task)
    if task.kept is not None:
        RESULT.print(escape(_kept(task.kept)))
    for gained in (True, False):
        _print_flips([flip for flip in task.flips if flip.gained == gained], gained=gained, most=flips)


def _print_scores(task: TaskComparison) -> None:
    table = new_table("score", "A", "B", "B - A", "p")
    for name, (one, other, by) in {**task.scores, "finished": task.finished}.items():
        change = f"{points(by.difference.mean).removesuffix(' points')} ({wide(by.difference.interval, 0)})"
        p = p_value(by.p).removeprefix("p = ").removeprefix("p ")
        sides = (percent(side.mean, side.interval) for side in (one, other))
        table.add_row(escape(name.upper() if name in ("em", "f1") else name), *sides, change, p)
    RESULT.print(table)


def _print_amounts(task: TaskComparison) -> None:
    """Means of both and the change with its interval; what neither run tells, and a price of 0, is left out."""
    table = new_table("per question", "A", "B", "B - A")
    for name, title in _AMOUNTS.items():
        amount = task.amounts[name]
        sides = ("-" if one is None else number(one.mean) for one in (amount.before, amount.after))
        if any(one is not None and (one.mean or title != "USD") for one in (amount.before, amount.after)):
            table.add_row(title, *sides, _changed(amount.change))
        if name == "latency_mean":
            for share, (one, other) in task.latency.items():
                table.add_row(f"  {share}", number(one.mean), number(other.mean))
    RESULT.print(table)


_AMOUNTS = {
    "steps": "steps", "searches": "searches", "tokens_per_question": "tokens", "latency_mean": "seconds, mean",
    "cost_per_question": "USD",
}  # fmt: skip


def _changed(found: Estimate | None) -> str:
    if found is None:
        return "-"
    span = f" ({number(found.low)} to {number(found.high)})" if found.low < found.high else ""
    return f"{'+' if found.mean > 0 else ''}{number(found.mean)}{span}".replace("-", MINUS)


def _print_outcomes(task: TaskComparison) -> None:
    """How many are right, and of each kind of failure that there is; under noise also what became of what it hit."""
    table = new_table("outcome", "A", "B", "B - A")
    for name, one, other in (
        ("right", *task.right),
        *((kind, task.failures[0][kind], task.failures[1][kind]) for kind in FAILURES),
    ):
        if one or other or name == "right":
            table.add_row(name, str(one), str(other), f"{other - one:+}".replace("-", MINUS) if other != one else "0")
    if any(task.recovery):
        table.add_section()
        for name, cell in _RECOVERY.items():
            table.add_row(name, *("-" if found is None else cell(found) for found in task.recovery))
    RESULT.print(table)


_RECOVERY: Mapping[str, Callable[[Recovery], str]] = {
    "disturbed by noise": lambda found: f"{found.episodes} of {found.all}",
    "  ended right": lambda found: percent(found.right.mean, found.right.interval),
    "  asked again, answered": lambda found: percent(found.retried.mean, found.retried.interval),
    "  and were right": lambda found: percent(found.retried_and_right.mean, found.retried_and_right.interval),
}


def _kept(kept: Kept) -> str:
    text = f"Of {kept.n} questions right without noise, {percent(kept.all.mean, kept.all.interval)} are right with it"
    if kept.disturbed is None:
        return f"{text}; none of them met noise."
    share = percent(kept.disturbed.mean, kept.disturbed.interval)
    return f"{text}; of the {kept.disturbed.n} that met noise, {share}."


def _print_flips(flips: Sequence[Flip], *, gained: bool, most: int) -> None:
    said = "wrong in A, right in B" if gained else "right in A, wrong in B"
    shown = f" ({most} shown; --flips {len(flips)} shows all)" if 0 < most < len(flips) else ""
    if not flips or most <= 0:
        RESULT.print(f"{said}: {len(flips)}")
        return
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title=f"{said}: {len(flips)}{shown}", title_justify="left", title_style="bold"
    )
    for name in ("question", "gold", "A", "B"):
        table.add_column(name, overflow="fold", ratio=3 if name == "question" else 2)
    for flip in flips[:most]:
        example = flip.before.example
        sides = (_answer(one) for one in (flip.before, flip.after))
        table.add_row(f"[dim]{escape(example.id)}[/] {escape(example.question)}", escape(example.answer), *sides)
    RESULT.print(table)


def _answer(trajectory: Trajectory) -> str:
    """What an episode answered, and how it failed where it did."""
    kind, answer = failure(trajectory), trajectory.answer
    said = escape(answer) if answer and answer.strip() else ""
    return "\n".join(filter(None, [said, f"[dim]{kind}[/]" if kind else ""]))
