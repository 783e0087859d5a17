"""Prints the comparison of two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.markup import escape

from fireact.evaluation.breakdown import TRAINED
from fireact.evaluation.failures import FAILURES, classify_failure
from fireact.reporting.report_tables import change_cell, share_cell
from fireact.reporting.table import Row, Table, TableCell
from fireact.reporting.wording import MINUS, UNTOLD, dollars, number, p_number, share, signed_number
from fireact.terminal.screen import STDERR, STDOUT, print_error, print_json, print_table
from fireact.types import Trajectory

if TYPE_CHECKING:
    from fireact.evaluation.comparison import AccuracyUnderNoise, Flip, RunComparison, TaskComparison
    from fireact.evaluation.conditions import Difference
    from fireact.evaluation.recovery import Recovery
    from fireact.evaluation.statistics import Estimate, PairedDifference


def print_differences(differences: Sequence[Difference], before: str, after: str, *, as_json: bool) -> None:
    """Why two runs are not comparable: each setting that differs, with its two values."""
    if as_json:
        rows = [
            {"setting": difference.setting, "before": difference.before, "after": difference.after}
            for difference in differences
        ]
        print_json({"comparable": False, "differences": rows})
    names = list(dict.fromkeys(difference.setting for difference in differences))
    differing = [name for name in names if name != TRAINED]
    reasons = [f"they differ in {' and '.join(differing)}"] if differing else []
    reasons += ["an agent was trained on questions that both answered"] if TRAINED in names else []
    print_error(f"{before} and {after} do not compare: {', and '.join(reasons)}.")
    for difference in differences:
        STDERR.print(
            escape(f"  {difference.setting}\n    A  {difference.before}\n    B  {difference.after}"), soft_wrap=True
        )
    options = " ".join(f"--allow {name}" for name in names)
    # runs of different tasks have no common question, so --allow would not help
    if "task" in names:
        advice = f"Ask the second agent the questions of the first: fireact eval AGENT --questions-of {before}"
    elif differing:
        advice = f"Evaluate one of them again under the conditions of the other, or allow what differs: {options}"
    else:
        advice = f"Ask both what neither was trained on, or show these questions apart: {options}"
    STDERR.print(escape(f"{advice}."), soft_wrap=True)


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
    trained = f"; an agent was trained on {task.trained['yes'].n} of them" if task.trained else ""
    STDOUT.print(f"\n[bold]{escape(task.task)}[/]: {task.n} questions that both answered{episodes}{trained}")
    sides = zip("AB", (task.only_before, task.only_after), task.faults, task.unscored, strict=True)
    for letter, names, faults, unscored in sides:
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            STDOUT.print(escape(f"Only {letter} has {len(names)}: {', '.join(names[:8])}{more}."), soft_wrap=True)
        if faults:
            STDOUT.print(f"{letter}: {faults} episodes ended in a fault and are left out.")
        if unscored:
            STDOUT.print(f"{letter}: {unscored} episodes have no score and are left out.")
    for table in list_comparison_tables(task):
        print_table(table)
    if task.under_noise is not None:
        STDOUT.print(escape(_format_retention(task.under_noise)))
    for gained in (True, False):
        _print_flips([flip for flip in task.flips if flip.gained == gained], gained=gained, most=flips)


def list_comparison_tables(task: TaskComparison) -> list[Table]:
    """The tables of two runs on a task: scores, what a question takes, and how episodes ended."""
    return [_tabulate_shares(task), _tabulate_changes(task), _tabulate_outcomes(task)]


def _tabulate_shares(task: TaskComparison) -> Table:
    labels = {"yes": "trained on", "no": "others"}
    first = next(iter(task.scores), "")
    apart = {
        f"{_score_label(first)}, {scores.n} {labels[value]}": (scores.before, scores.after, scores.change)
        for value, scores in task.trained.items()
    }
    shares = {_score_label(name): scores for name, scores in task.scores.items()}
    rows: list[Row] = [
        [name, share_cell(before, 0), share_cell(after, 0), _change_of_share(comparison), p_number(comparison.p)]
        for name, (before, after, comparison) in {**shares, **apart, "finished": task.finished}.items()
    ]
    return Table("", ["score", "A", "B", "B - A", "p"], rows)


def _score_label(name: str) -> str:
    return name.upper() if name in ("em", "f1") else name


def _change_of_share(comparison: PairedDifference) -> TableCell:
    cell = change_cell(comparison, digits=0)
    return replace(cell, text=cell.text.removesuffix(" points"))


def _tabulate_changes(task: TaskComparison) -> Table:
    """Means of both runs and the change with its interval, without amounts that neither run has and prices of 0."""
    rows: list[Row] = []
    for name, title in _AMOUNTS.items():
        amount, form = task.amounts[name], dollars if name == "cost_per_question" else number
        sides = (amount.before, amount.after)
        if any(estimate is not None and (estimate.mean or form is number) for estimate in sides):
            means = (form(estimate.mean if estimate else None) for estimate in sides)
            rows.append([title, *means, _change_of_amount(amount.change)])
        if name == "latency_mean":
            rows += [
                [f"  {quantile}", number(before.mean), number(after.mean), ""]
                for quantile, (before, after) in task.latency.items()
            ]
    return Table("", ["per question", "A", "B", "B - A"], rows)


_AMOUNTS = {
    "steps": "steps", "searches": "searches", "tokens_per_question": "tokens", "latency_mean": "seconds, mean",
    "cost_per_question": "cost",
}  # fmt: skip


def _change_of_amount(change: Estimate | None) -> TableCell:
    if change is None:
        return TableCell(UNTOLD)
    bounds = f"{number(change.low)} to {number(change.high)}".replace("-", MINUS)
    return TableCell(signed_number(change.mean), [bounds] if change.low < change.high else [])


def _tabulate_outcomes(task: TaskComparison) -> Table:
    """How many episodes are right, and how many of each kind of failure; under noise also how agents recovered."""
    before_failures, after_failures = task.failures
    counts = [("right", *task.right), *((kind, before_failures[kind], after_failures[kind]) for kind in FAILURES)]
    rows: list[Row] = [
        [name, str(before), str(after), signed_number(after - before)]
        for name, before, after in counts
        if before or after or name == "right"
    ]
    if any(task.recovery):
        rows += [
            [name, *(cell_of(recovery) if recovery else UNTOLD for recovery in task.recovery), ""]
            for name, cell_of in _RECOVERY.items()
        ]
    return Table("", ["outcome", "A", "B", "B - A"], rows)


_RECOVERY: Mapping[str, Callable[[Recovery], TableCell]] = {
    "disturbed by noise": lambda recovery: TableCell(f"{recovery.episodes} of {recovery.all}"),
    "  ended right": lambda recovery: share_cell(recovery.right, 0),
    "  asked again, answered": lambda recovery: share_cell(recovery.retried, 0),
    "  and were right": lambda recovery: share_cell(recovery.retried_and_right, 0),
}


def _format_retention(retained: AccuracyUnderNoise) -> str:
    text = f"Of {retained.n} questions right without noise, {share(retained.all, 0)} are right with it"
    if retained.disturbed is None:
        return f"{text}; none of them met noise."
    return f"{text}; of the {retained.disturbed.n} that met noise, {share(retained.disturbed, 0)}."


def _print_flips(flips: Sequence[Flip], *, gained: bool, most: int) -> None:
    direction = "wrong in A, right in B" if gained else "right in A, wrong in B"
    shown_note = f" ({most} shown; --flips {len(flips)} shows all)" if 0 < most < len(flips) else ""
    if not flips or most <= 0:
        STDOUT.print(f"{direction}: {len(flips)}")
        return
    rows: list[Row] = [
        [f"{flip.before.example.id} {flip.before.example.question}", flip.gold,
         _answer_cell(flip.before), _answer_cell(flip.after)]
        for flip in flips[:most]
    ]  # fmt: skip
    print_table(Table(f"{direction}: {len(flips)}{shown_note}", ["question", "gold", "A", "B"], rows, names=4))


def _answer_cell(trajectory: Trajectory) -> TableCell:
    """The answer of an episode, and its kind of failure if it failed."""
    kind = classify_failure(trajectory)
    return TableCell((trajectory.answer or "").strip(), [kind] if kind else [])
