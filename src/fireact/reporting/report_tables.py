"""The tables of a report. Every form of the report takes them from here.

Invariant: nothing is measured here, and a column that no row fills is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from fireact.evaluation.comparison import ScoreComparison
from fireact.evaluation.measures import Measures
from fireact.evaluation.recovery import Recovery
from fireact.evaluation.statistics import Estimate, PairedDifference
from fireact.evaluation.summary import Summary
from fireact.reporting.report_data import ReportData
from fireact.reporting.summary import (
    Headline,
    RobustnessRow,
    failures_by_agent,
    has_amount,
    has_distinct_accuracy,
    has_one_baseline,
    question_groups_by_task,
    read_headlines,
    robustness_rows,
    series_by_agent,
)
from fireact.reporting.table import Row, Table, TableCell
from fireact.reporting.wording import (
    ARROW,
    UNTOLD,
    display_name,
    duration,
    interval,
    number,
    p_number,
    p_value,
    percent,
    points,
    spread,
)
from fireact.rollout.collection import EpisodeCounts

AMOUNT_HEADINGS: Mapping[str, tuple[str, str]] = {
    "steps": ("Steps", "Steps"),
    "searches": ("Searches", "Searches"),
    "prompt_tokens": ("Tokens in", "Tokens in"),
    "cached_tokens": ("from cache", "from cache"),
    "completion_tokens": ("Tokens out", "Tokens out"),
    "seconds_per_question": ("s/question", "Seconds a question"),
    "latency_mean": ("Episode (s)", "An episode"),
    "latency_p50": ("p50", "p50"),
    "latency_p95": ("p95", "p95"),
    "cost_per_question": ("$/question", "Dollars a question"),
}
"""Amount -> its heading in a narrow table and on the page."""


def share_cell(estimate: Estimate | None, digits: int = 1) -> TableCell:
    """A share with its interval, whose bounds have ``digits`` decimals."""
    if estimate is None:
        return TableCell()
    return TableCell(percent(estimate.mean), [interval(estimate.interval, digits)] if estimate.has_interval else ())


def amount_cell(amount: Estimate | float | None) -> TableCell:
    """A quantity, with its interval if it has one; a dash where it is not known."""
    if isinstance(amount, Estimate):
        return TableCell(number(amount.mean), [spread(amount.interval)] if amount.has_interval else ())
    return TableCell(number(amount))


def change_cell(change: PairedDifference | None, *notes: str, digits: int = 1) -> TableCell:
    """A difference of shares with its interval, and notes on it; grey where the interval holds 0."""
    if change is None:
        return TableCell()
    difference = change.difference
    details = [interval(difference.interval, digits), *filter(None, notes)]
    return TableCell(points(difference.mean), details, faint=not change.is_clear)


def get_amount(summary: Summary, name: str) -> Estimate | float | None:
    """What a question takes, by the name of the amount."""
    return summary.seconds_per_question if name == "seconds_per_question" else summary.measures.get(name)


def headline_table(
    lines: Sequence[Headline], title: str, *, one_pair: bool, labels: Mapping[str, str], short: bool = False
) -> Table:
    """A row a task, an agent against its baseline; without ``one_pair``, rows name their agents by ``labels``.

    A ``short`` table is for a terminal: it has the number of questions, no decimals in intervals, and the agents below
    their task.
    """
    names, head = ["task"], ["n", "EM", "change", "p", "finished", "tokens/question", "s/question"]
    if not short:
        names = ["Task"] if one_pair else ["Task", "Agents"]
        head = ["EM", "Change (95% interval)", "p", "Finished", "Tokens/question", "Seconds/question"]
    rows: list[Row] = []
    for line in lines:
        pair = [] if one_pair else [describe_pair(line, labels)]
        em = _before_and_after(line, _measure("em"), percent)
        rows.append(
            [
                *([TableCell(line.task, pair), str(line.after.n)] if short else [line.task, *pair]),
                replace(share_cell(line.after.measures.em, 0), text=em) if short else TableCell(em, strong=True),
                change_cell(line.change, digits=0 if short else 1),
                p_number(line.change.p) if line.change else "",
                _before_and_after(line, _measure("finished"), lambda value: percent(value, 0)),
                _before_and_after(line, _measure("tokens_per_question"), number),
                _before_and_after(line, lambda summary: summary.seconds_per_question, number),
            ]
        )
    return Table(title, [*names, *head], rows, names=len(names)).without_empty_columns()


def read_headline_table(report: Mapping[str, Any]) -> Table:
    """The headlines of a report from its JSON."""
    lines = read_headlines(report)
    one_pair = report.get(
        "one_pair", len({(line.baseline, line.agent) for line in lines}) < 2
    )  # earlier versions lack it
    title = describe_pair(lines[0], {}) if one_pair and lines else report["title"]
    return headline_table(lines, title, one_pair=one_pair, labels=report.get("labels", {}), short=True)


def read_run_table(report: Mapping[str, Any]) -> Table:
    """A row for each agent and task of a report's JSON, also under noise, with the change against its baseline."""
    labels, changes = report.get("labels", {}), (*report["comparisons"].items(), *report["robustness"].items())
    comparisons = {
        (task, name): ScoreComparison.from_dict(fields)
        for task, by_agent in changes
        for name, fields in by_agent.items()
    }
    rows: list[Row] = []
    for name, by_task in report["agents"].items():
        for task, fields in by_task.items():
            measures, comparison = Summary.from_dict(fields).measures, comparisons.get((task, name))
            change = change_cell(comparison.em if comparison else None, digits=0)
            count, finished = str(fields["n"]), percent(measures.finished.mean, 0)
            rows.append([labels.get(name, name), task, count, share_cell(measures.em, 0), change, finished])
    notes = [f"{label}: {display_name(name)}" for name, label in labels.items() if label != display_name(name)]
    head = ["agent", "task", "n", "EM", "change", "finished"]
    return Table("All runs", head, rows, notes=notes, names=2).without_empty_columns()


def describe_pair(line: Headline, labels: Mapping[str, str]) -> str:
    """The agents of a headline: ``prompted -> fine-tuned, the best of 5``; their long names without ``labels``."""
    before, after = (labels.get(name, display_name(name)) for name in (line.baseline, line.agent))
    after += f", the best of {line.best_of}" if line.best_of else ""
    return f"{before} {ARROW} {after}" if line.before else after


def _measure(name: str) -> Callable[[Summary], float | None]:
    def get_mean(summary: Summary) -> float | None:
        estimate = summary.measures.get(name)
        return None if estimate is None else estimate.mean

    return get_mean


def _before_and_after(
    line: Headline, get_value: Callable[[Summary], float | None], form: Callable[[float], str]
) -> str:
    values = [get_value(summary) for summary in (line.before, line.after) if summary]
    if all(value is None for value in values):
        return UNTOLD
    return f" {ARROW} ".join(UNTOLD if value is None else form(value) for value in values)


def result_table(report: ReportData) -> Table:
    """All scores and amounts of each agent on each task."""
    scores, amounts, labels = _score_columns(report), _amount_names(report), report.labels
    rows: list[Row] = [
        [task, labels[agent], _count_cell(summary), *(get_cell(summary.measures) for get_cell in scores.values()),
         *(amount_cell(get_amount(summary, name)) for name in amounts)]
        for task, by_agent in report.results.items()
        for agent, summary in by_agent.items()
    ]  # fmt: skip
    head = ["Task", "Agent", "n", *scores, *(AMOUNT_HEADINGS[name][0] for name in amounts)]
    return Table("Results", head, rows, names=2)


def score_table(report: ReportData) -> Table:
    """The scores of each agent on each task, and their changes against the baselines, for the page."""
    scores = _score_columns(report)
    suffix = " against the first" if has_one_baseline(report) else ", paired difference"
    compared = any(report.comparisons.values())
    rows: list[Row] = [
        [*_row_names(report, task, agent), _count_cell(summary),
         *(get_cell(summary.measures) for get_cell in scores.values()),
         *(_paired_cells(report, task, agent) if compared else ())]
        for task, by_agent in report.results.items()
        for agent, summary in by_agent.items()
    ]  # fmt: skip
    head = ["Task", "Agent", "n", *scores, *([f"EM{suffix}", f"F1{suffix}"] if compared else [])]
    return Table("In per cent with 95% intervals.", head, rows, names=2, grouped=True)


def amount_table(report: ReportData) -> Table:
    """What a question takes, for the page."""
    names = _amount_names(report)
    rows: list[Row] = [
        [*_row_names(report, task, agent, with_note=False), *(amount_cell(get_amount(summary, name)) for name in names)]
        for task, by_agent in report.results.items()
        for agent, summary in by_agent.items()
    ]
    quantiles = "; p50 and p95 of the episodes" if "latency_p50" in names else ""
    title = f"What a question takes: means with 95% intervals{quantiles}."
    return Table(title, ["Task", "Agent", *(AMOUNT_HEADINGS[name][1] for name in names)], rows, names=2, grouped=True)


def _score_columns(report: ReportData) -> dict[str, Callable[[Measures], TableCell]]:
    """Heading -> the cell of a share; accuracy only where it differs from exact match."""
    columns: dict[str, Callable[[Measures], TableCell]] = {
        "EM": lambda measures: share_cell(measures.em), "F1": lambda measures: share_cell(measures.f1),
    }  # fmt: skip
    if has_distinct_accuracy(report):
        columns |= {"Accuracy": lambda measures: share_cell(measures.accuracy or measures.em)}
    return columns | {"Finished": lambda measures: share_cell(measures.finished)}


def _amount_names(report: ReportData) -> list[str]:
    """The amounts that some result has; dollars only where some answer cost money."""
    summaries = [summary for by_agent in report.results.values() for summary in by_agent.values()]
    return [
        name
        for name in AMOUNT_HEADINGS
        if any(get_amount(summary, name) is not None for summary in summaries)
        and (name != "cost_per_question" or has_amount(report, name))
    ]


def _row_names(report: ReportData, task: str, agent: str, *, with_note: bool = True) -> list[TableCell]:
    note = report.task_notes.get(task, "") if with_note else ""
    return [TableCell(task, [note] if note else ()), _agent_cell(report, agent)]


def _agent_cell(report: ReportData, agent: str) -> TableCell:
    noisy = any(other.name == agent and other.noise for other in report.agents)
    return TableCell(report.labels[agent], series=series_by_agent(report)[agent], noisy=noisy)


def _count_cell(summary: Summary) -> TableCell:
    return TableCell(str(summary.n), [f"and {summary.faults} faults"] if summary.faults else ())


def _paired_cells(report: ReportData, task: str, agent: str) -> list[TableCell]:
    comparison = report.comparisons.get(task, {}).get(agent)
    if comparison is None:
        return [TableCell(), TableCell()]
    baseline = "" if has_one_baseline(report) else f"to {report.labels[report.against[task][agent]]}"
    return [change_cell(change, p_value(change.p), baseline) for change in (comparison.em, comparison.f1)]


def group_tables(report: ReportData) -> list[Table]:
    """For each task with several kinds of questions, the exact match of each agent on each kind."""
    return [
        Table(
            f"{task}: exact match with 95% intervals",
            [f"EM on {task}", *(TableCell(f"{group.kind}: {group.value}", [f"n {group.n}"]) for group in groups)],
            [[_agent_cell(report, name), *(share_cell(group.get_em(name)) for group in groups)] for name in names],
        )
        for task, (groups, names) in question_groups_by_task(report).items()
    ]


def robustness_table(report: ReportData) -> Table:
    """Exact match without noise and with it, and the change, paired by question."""
    head = ["Task", "Agent", "Noise", "EM without", "EM with", "Change (95% interval)", "p", "Right where disturbed"]
    rows = [_robustness_row(report, row) for row in robustness_rows(report)]
    title = "The same questions with disturbed tools. Exact match with 95% intervals; the change is paired by question."
    return Table(title, head, rows, names=3)


def _robustness_row(report: ReportData, row: RobustnessRow) -> Row:
    recovery: Recovery | None = row.after.recovery
    change = row.comparison.em if row.comparison else None
    series = series_by_agent(report)[row.agent.name]
    right = share_cell(recovery.right) if recovery else TableCell()
    return [
        row.task,
        TableCell(report.labels.get(row.agent.model, display_name(row.agent.model)), series=series, noisy=True),
        row.agent.noise,
        share_cell(row.before.measures.em) if row.before else "",
        share_cell(row.after.measures.em),
        change_cell(change, f"on {row.shared} questions" if row.shared else ""),
        p_number(change.p) if change else "",
        replace(right, details=[*right.details, f"of {recovery.episodes}"]) if recovery else "",
    ]


def failure_table(report: ReportData) -> Table:
    """Episodes of each agent by kind of failure; each number leads to the episodes."""
    counts_by_kind = failures_by_agent(report)
    names = next(iter(counts_by_kind.values()), {})
    links = {
        (name, kind): f"#trajectories?{urlencode({'agent': name, 'failure': kind})}" if counts[name] else ""
        for kind, counts in counts_by_kind.items()
        for name in names
    }
    rows: list[Row] = [
        [
            _agent_cell(report, name),
            *(TableCell(str(counts[name]), link=links[name, kind]) for kind, counts in counts_by_kind.items()),
        ]
        for name in names
    ]
    title = "Episodes by kind of failure, over all tasks; each number leads to the episodes."
    return Table(title, ["Episodes of", *counts_by_kind], rows)


def mixture_table(report: ReportData, *, with_sums: bool = False) -> Table:
    """How many episodes were collected for each mixture, by task and method, and how many are trained on."""
    head = ["For", "Task", "Method", "Collected", "Finished", "Right", "Trained on"]
    rows: list[Row] = [
        [display_name(mixture.name), *name.rpartition("/")[::2], *_mixture_cells(collected, mixed)]
        for mixture in report.mixtures
        for name, (collected, mixed) in mixture.groups.items()
    ]
    if len(report.mixtures) > 1:
        return Table("Trajectories by task and method", head, rows, names=3)
    footer: Row = []
    for mixture in report.mixtures if with_sums else ():
        collected, mixed = (sum(counts.values(), EpisodeCounts()) for counts in (mixture.collected, mixture.mixed))
        footer = ["all", "", *_mixture_cells(collected, mixed)]
    return Table("Trajectories by task and method", head[1:], [row[1:] for row in rows], names=2, footer=footer)


def _mixture_cells(collected: EpisodeCounts, mixed: EpisodeCounts) -> list[str]:
    return list(map(str, (collected.n, collected.finished, collected.correct, mixed.n)))


def time_table(timings: Mapping[str, float]) -> Table:
    """How long each stage took."""
    total = sum(timings.values())
    rows: list[Row] = [
        [stage, duration(seconds), percent(seconds / total if total else 0.0, 0)] for stage, seconds in timings.items()
    ]
    return Table("Wall time", ["Stage", "Time", "Share"], rows, footer=["all", duration(total), ""])
