"""Prints the comparison of two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from fireact.evaluation.failures import FAILURES, classify_failure
from fireact.reporting.wording import MINUS, number, p_value, points
from fireact.reporting.wording import interval as format_interval
from fireact.types import Trajectory

if TYPE_CHECKING:
    from fireact.evaluation.comparison import AccuracyUnderNoise, Flip, RunComparison, TaskComparison
    from fireact.evaluation.conditions import Difference
    from fireact.evaluation.recovery import Recovery
    from fireact.evaluation.statistics import Estimate
from fireact.terminal.screen import STDERR, STDOUT, new_table, percent_with_interval, print_error, print_json


def print_differences(differences: Sequence[Difference], before: str, after: str, *, as_json: bool) -> None:
    """Why two runs are not comparable: each setting that differs, with its two values."""
    if as_json:
        rows = [
            {"setting": difference.setting, "before": difference.before, "after": difference.after}
            for difference in differences
        ]
        print_json({"comparable": False, "differences": rows})
    names = list(dict.fromkeys(difference.setting for difference in differences))
    print_error(f"{before} and {after} do not compare: they differ in {' and '.join(names)}.")
    for difference in differences:
        STDERR.print(
            escape(f"  {difference.setting}\n    A  {difference.before}\n    B  {difference.after}"), soft_wrap=True
        )
    options = " ".join(f"--allow {name}" for name in names)
    # runs of different tasks have no common question, so --allow would not help
    allowing = "" if "task" in names else f", or allow what differs on purpose: {options}"
    STDERR.print(f"Evaluate one of them again under the conditions of the other{allowing}.", soft_wrap=True)


def print_comparison(comparison: RunComparison, *, flips: int, as_json: bool) -> None:
    """Two runs side by side, task by task, with ``flips`` questions in each direction; one object if ``as_json``."""
    if as_json:
        print_json(comparison.to_dict())
        return
    for letter, run in (("A", comparison.before), ("B", comparison.after)):
        STDOUT.print(f"[bold]{letter}[/]  {escape(run.agent)}  [dim]{escape(run.name)}[/]", soft_wrap=True)
    for passed in comparison.allowed:
        STDOUT.print(
            escape(f"{passed.setting} differs, as allowed: {passed.before} in A, {passed.after} in B"), soft_wrap=True
        )
    for note in comparison.notes:
        STDOUT.print(escape(f"{note[0].upper()}{note[1:]}."), soft_wrap=True)
    for task in comparison.tasks:
        _print_task(task, flips)


def _print_task(task: TaskComparison, flips: int) -> None:
    episodes = f", {task.episodes} episodes each" if task.episodes != task.n else ""
    STDOUT.print(f"\n[bold]{escape(task.task)}[/]: {task.n} questions that both answered{episodes}")
    sides = zip("AB", (task.only_before, task.only_after), task.faults, task.unscored, strict=True)
    for letter, names, faults, unscored in sides:
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            STDOUT.print(escape(f"Only {letter} has {len(names)}: {', '.join(names[:8])}{more}."), soft_wrap=True)
        if faults:
            STDOUT.print(f"{letter}: {faults} episodes ended in a fault and are left out.")
        if unscored:
            STDOUT.print(f"{letter}: {unscored} episodes have no score and are left out.")
    _print_scores(task)
    _print_amounts(task)
    _print_outcomes(task)
    if task.under_noise is not None:
        STDOUT.print(escape(_format_retention(task.under_noise)))
    for gained in (True, False):
        _print_flips([flip for flip in task.flips if flip.gained == gained], gained=gained, most=flips)


def _print_scores(task: TaskComparison) -> None:
    table = new_table("score", "A", "B", "B - A", "p")
    for name, (before, after, comparison) in {**task.scores, "finished": task.finished}.items():
        difference = comparison.difference
        change = f"{points(difference.mean).removesuffix(' points')} ({format_interval(difference.interval, 0)})"
        p = p_value(comparison.p).removeprefix("p = ").removeprefix("p ")
        sides = (percent_with_interval(side.mean, side.interval) for side in (before, after))
        table.add_row(escape(name.upper() if name in ("em", "f1") else name), *sides, change, p)
    STDOUT.print(table)


def _print_amounts(task: TaskComparison) -> None:
    """Means of both runs and the change with its interval, without amounts that neither run has and prices of 0."""
    table = new_table("per question", "A", "B", "B - A")
    for name, title in _AMOUNTS.items():
        amount = task.amounts[name]
        sides = ("-" if estimate is None else number(estimate.mean) for estimate in (amount.before, amount.after))
        if any(
            estimate is not None and (estimate.mean or title != "USD") for estimate in (amount.before, amount.after)
        ):
            table.add_row(title, *sides, _format_change(amount.change))
        if name == "latency_mean":
            for share, (before, after) in task.latency.items():
                table.add_row(f"  {share}", number(before.mean), number(after.mean))
    STDOUT.print(table)


_AMOUNTS = {
    "steps": "steps", "searches": "searches", "tokens_per_question": "tokens", "latency_mean": "seconds, mean",
    "cost_per_question": "USD",
}  # fmt: skip


def _format_change(change: Estimate | None) -> str:
    if change is None:
        return "-"
    span = f" ({number(change.low)} to {number(change.high)})" if change.low < change.high else ""
    return f"{'+' if change.mean > 0 else ''}{number(change.mean)}{span}".replace("-", MINUS)


def _print_outcomes(task: TaskComparison) -> None:
    """How many episodes are right, and how many of each kind of failure; under noise also how agents recovered."""
    table = new_table("outcome", "A", "B", "B - A")
    for name, before_count, after_count in (
        ("right", *task.right),
        *((kind, task.failures[0][kind], task.failures[1][kind]) for kind in FAILURES),
    ):
        if before_count or after_count or name == "right":
            table.add_row(
                name,
                str(before_count),
                str(after_count),
                f"{after_count - before_count:+}".replace("-", MINUS) if after_count != before_count else "0",
            )
    if any(task.recovery):
        table.add_section()
        for name, cell in _RECOVERY.items():
            table.add_row(name, *("-" if recovery is None else cell(recovery) for recovery in task.recovery))
    STDOUT.print(table)


_RECOVERY: Mapping[str, Callable[[Recovery], str]] = {
    "disturbed by noise": lambda recovery: f"{recovery.episodes} of {recovery.all}",
    "  ended right": lambda recovery: percent_with_interval(recovery.right.mean, recovery.right.interval),
    "  asked again, answered": lambda recovery: percent_with_interval(recovery.retried.mean, recovery.retried.interval),
    "  and were right": lambda recovery: percent_with_interval(
        recovery.retried_and_right.mean, recovery.retried_and_right.interval
    ),
}


def _format_retention(retained: AccuracyUnderNoise) -> str:
    share = percent_with_interval(retained.all.mean, retained.all.interval)
    text = f"Of {retained.n} questions right without noise, {share} are right with it"
    if retained.disturbed is None:
        return f"{text}; none of them met noise."
    share = percent_with_interval(retained.disturbed.mean, retained.disturbed.interval)
    return f"{text}; of the {retained.disturbed.n} that met noise, {share}."


def _print_flips(flips: Sequence[Flip], *, gained: bool, most: int) -> None:
    direction = "wrong in A, right in B" if gained else "right in A, wrong in B"
    shown_note = f" ({most} shown; --flips {len(flips)} shows all)" if 0 < most < len(flips) else ""
    if not flips or most <= 0:
        STDOUT.print(f"{direction}: {len(flips)}")
        return
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"{direction}: {len(flips)}{shown_note}",
        title_justify="left",
        title_style="bold",
    )
    for name in ("question", "gold", "A", "B"):
        table.add_column(name, overflow="fold", ratio=3 if name == "question" else 2)
    for flip in flips[:most]:
        example = flip.before.example
        sides = (_answer_cell(trajectory) for trajectory in (flip.before, flip.after))
        table.add_row(f"[dim]{escape(example.id)}[/] {escape(example.question)}", escape(example.answer), *sides)
    STDOUT.print(table)


def _answer_cell(trajectory: Trajectory) -> str:
    """The answer of an episode, and its kind of failure if it failed."""
    kind, answer = classify_failure(trajectory), trajectory.answer
    answer_text = escape(answer) if answer and answer.strip() else ""
    return "\n".join(filter(None, [answer_text, f"[dim]{kind}[/]" if kind else ""]))
