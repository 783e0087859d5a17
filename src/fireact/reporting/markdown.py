"""The report as Markdown: the same tables and trajectories as the page; plots are linked as files beside it.

Invariant: text of models, tools and tasks appears unchanged; none of it becomes a heading, a link, a picture or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fireact.base.markdown import code_span, escape_line
from fireact.render.react import render_call
from fireact.reporting.cases import RULE, outcome
from fireact.reporting.report_data import Case, ReportData
from fireact.reporting.summary import (
    Headline,
    QuestionGroup,
    RobustnessRow,
    cases_heading,
    failures_by_agent,
    has_amount,
    has_distinct_accuracy,
    has_one_baseline,
    has_one_pair,
    headlines,
    lede,
    mixture_rows,
    question_groups_by_task,
    robustness_rows,
    subject_baseline,
    teachers,
)
from fireact.reporting.wording import (
    ARROW,
    STOPS,
    UNTOLD,
    description_beside,
    display_name,
    duration,
    flatten_settings,
    interval,
    number,
    p_value,
    percent,
    points,
    spread,
    verdict,
)
from fireact.types import Step, Trajectory

MEANS = {
    "Steps": "steps",
    "Searches": "searches",
    "Tokens in": "prompt_tokens",
    "from cache": "cached_tokens",
    "Tokens out": "completion_tokens",
    "s/question": "seconds_per_question",
    "Episode (s)": "latency_mean",
    "p50": "latency_p50",
    "p95": "latency_p95",
    "$/question": "cost_per_question",
}


def render_markdown(report: ReportData, *, plots: Mapping[str, str] | None = None) -> str:
    """The whole report; ``plots`` maps paths of pictures, relative to the file, to what they show in words."""
    parts = [_head(report), _results(report), _groups(report), _robustness(report), _failures(report)]
    parts += [_plots(plots or {}), _training(report), _data(report), _time(report)]
    parts += [_cases(report), _settings(report), _commands(report), _notes()]
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines) + "\n"


def _head(report: ReportData) -> Iterator[str]:
    yield f"# {escape_line(report.title)}"
    yield ""
    yield escape_line(lede(report))
    yield ""
    yield f"Created {escape_line(report.created)}."
    yield ""
    for agent in report.agents:
        added = description_beside(agent.description, agent.name)
        suffix = f": {escape_line(display_name(added))}" if added else ""
        yield f"- **{escape_line(display_name(agent.name))}**{suffix}"


def _results(report: ReportData) -> Iterator[str]:
    lines = headlines(report)
    if not lines:
        return
    yield "## Before and after" if any(line.before for line in lines) else "## In short"
    yield ""
    head = ["Task", "EM", "Change (95% interval)", "p", "Finished", "Tokens/question", "Seconds/question"]
    rows: list[list[str]] = list(map(_headline_row, lines))
    if not has_one_pair(report, lines):
        head.insert(1, "Agents")
        rows = [[row[0], _pair(line), *row[1:]] for line, row in zip(lines, rows, strict=True)]
    yield from _table(*_drop_empty_columns(head, rows))
    notes = [f"- {escape_line(line.task)}: {escape_line(line.note)}" for line in lines if line.note]
    yield from ["", *notes] if notes else []
    yield ""
    yield "## Results"
    yield ""
    yield from _table(["Task", "Agent", "n", *_shares(report), *_means(report)], _result_rows(report))
    comparisons = list(_comparisons(report))
    if comparisons:
        yield ""
        first = (
            f"Against {escape_line(display_name(subject_baseline(report).name))}, on"
            if has_one_baseline(report)
            else "On"
        )
        yield f"{first} the same questions:"
        yield ""
        yield from comparisons
    if report.unlike:
        yield ""
        yield "Compared although more differs than the agent:"
        yield ""
        yield from (f"- {escape_line(display_name(line))}" for line in report.unlike)


def _drop_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without its empty columns."""
    columns = [index for index in range(len(head)) if any(row[index] not in ("", UNTOLD) for row in rows)]
    return [head[index] for index in columns], [[row[index] for index in columns] for row in rows]


def _pair(line: Headline) -> str:
    last = escape_line(display_name(line.agent)) + (f", the best of {line.best_of}" if line.best_of else "")
    return f"{escape_line(display_name(line.baseline))} {ARROW} {last}" if line.before else last


def _headline_row(line: Headline) -> list[str]:
    before, after = line.before, line.after

    def both(name: str, digits: int | None) -> str:
        values = [result[name] for result in (before, after) if result]
        if values == [None] * len(values):
            return UNTOLD
        return f" {ARROW} ".join(number(value) if digits is None else percent(value, digits) for value in values)

    change = line.comparison.em if line.comparison else None
    return [
        escape_line(line.task),
        f"**{both('em', 1)}**",
        f"{points(change.difference.mean)} ({interval(change.difference.interval)})" if change else "",
        p_value(change.p).removeprefix("p = ").removeprefix("p ") if change else "",
        both("finished", 0),
        both("tokens_per_question", None),
        both("seconds_per_question", None),
    ]


def _result_rows(report: ReportData) -> Iterator[list[str]]:
    for task, by_agent in report.results.items():
        for agent, result in by_agent.items():
            shares = [_share(result, name) for name in _shares(report).values()]
            means = [_mean(result, name) for name in _means(report).values()]
            faults = f" (and {result['faults']} faults)" if result["faults"] else ""
            yield [escape_line(task), escape_line(display_name(agent)), f"{result['n']}{faults}", *shares, *means]


def _means(report: ReportData) -> dict[str, str]:
    """Heading -> key of the columns of means; only columns for which some result has a value."""
    results = [summary for by_agent in report.results.values() for summary in by_agent.values()]
    present_names = {name for name in MEANS.values() if any(summary.get(name) is not None for summary in results)}
    present_names -= set() if has_amount(report, "cost_per_question") else {"cost_per_question"}
    return {head: name for head, name in MEANS.items() if name in present_names}


def _shares(report: ReportData) -> dict[str, str]:
    """Heading -> key of the columns of shares; accuracy only where it differs from exact match."""
    differs = {"Accuracy": "accuracy"} if has_distinct_accuracy(report) else {}
    return {"EM": "em", "F1": "f1", **differs, "Finished": "finished"}


def _mean(result: Mapping[str, Any], name: str) -> str:
    bounds = result.get(f"{name}_interval")
    return number(result.get(name)) + (f" ({spread(bounds)})" if bounds else "")


def _share(result: Mapping[str, Any], name: str) -> str:
    return f"{percent(result[name])} ({interval(result[f'{name}_interval'])})"


def _comparisons(report: ReportData) -> Iterator[str]:
    for task, by_agent in report.comparisons.items():
        for agent, comparison in by_agent.items():
            baseline_note = (
                "" if has_one_baseline(report) else f" against {escape_line(display_name(report.against[task][agent]))}"
            )
            for name, change in (("EM", comparison.em), ("F1", comparison.f1)):
                yield (
                    f"- {escape_line(task)}, {escape_line(display_name(agent))}{baseline_note}: {name} "
                    f"{points(change.difference.mean)} ({interval(change.difference.interval)}), {p_value(change.p)}; "
                    f"higher on {change.wins}, lower on {change.losses} of {change.n}"
                )


def _groups(report: ReportData) -> Iterator[str]:
    by_task = question_groups_by_task(report)
    if by_task:
        yield "## By kind of question"
    for task, (kinds, names) in by_task.items():
        yield ""
        head = [
            escape_line(f"EM on {task}"),
            *(f"{escape_line(f'{group.kind}: {group.value}')} (n {group.n})" for group in kinds),
        ]
        yield from _table(
            head, ([escape_line(display_name(name)), *(_group(group, name) for group in kinds)] for name in names)
        )


def _group(group: QuestionGroup, agent: str) -> str:
    return _share(group.agents[agent], "em") if agent in group.agents else ""


def _robustness(report: ReportData) -> Iterator[str]:
    rows = robustness_rows(report)
    if rows:
        yield "## Under noise"
        yield ""
        head = [
            "Task",
            "Agent",
            "Noise",
            "EM without",
            "EM with",
            "Change (95% interval)",
            "p",
            "Right where disturbed",
        ]
        yield from _table(head, map(_robustness_row, rows))


def _robustness_row(row: RobustnessRow) -> list[str]:
    hit = row.after.get("recovery")
    change = row.comparison.em if row.comparison else None
    return [
        escape_line(row.task),
        escape_line(display_name(row.agent.model)),
        escape_line(row.agent.noise),
        _share(row.before, "em") if row.before else "",
        _share(row.after, "em"),
        f"{points(change.difference.mean)} ({interval(change.difference.interval)}){_shared_questions_note(row)}"
        if change
        else "",
        p_value(change.p).removeprefix("p = ").removeprefix("p ") if change else "",
        f"{_share(hit, 'right')} of {hit['disturbed']}" if hit else "",
    ]


def _shared_questions_note(row: RobustnessRow) -> str:
    """The number of questions of a change, where one side was asked more questions than that."""
    return f" on {row.shared}" if row.shared else ""


def _failures(report: ReportData) -> Iterator[str]:
    kinds = failures_by_agent(report)
    if kinds:
        yield "## What went wrong"
        yield ""
        rows = (
            [escape_line(display_name(name)), *(str(counts[name]) for counts in kinds.values())]
            for name in next(iter(kinds.values()))
        )
        yield from _table(["Episodes of", *map(escape_line, kinds)], rows)


def _plots(plots: Mapping[str, str]) -> Iterator[str]:
    yield from (f"![{escape_line(words)}]({path})" for path, words in plots.items())


def _training(report: ReportData) -> Iterator[str]:
    for index, (name, log) in enumerate(report.training.items()):
        losses = [float(row["loss"]) for row in log]
        last = losses[-max(1, len(losses) // 10) :]
        if not index:
            yield "## Training"
        yield ""
        change = f"loss {losses[0]:.3f} at the first, {sum(last) / len(last):.3f} in the last tenth"
        run = f"{escape_line(name)}: " if len(report.training) > 1 else ""
        yield f"{run}{len(losses)} optimizer steps; {change}."


def _data(report: ReportData) -> Iterator[str]:
    if not report.mixtures:
        return
    several = len(report.mixtures) > 1
    yield "## Data"
    yield ""
    yield f"Teacher: {', '.join(escape_line(display_name(name)) for name in teachers(report))}."
    yield ""
    rows = [
        [*([escape_line(display_name(row.mixture))] if several else []), escape_line(row.task), escape_line(row.method),
         *map(str, (row.collected, row.finished, row.correct, row.mixed))]
        for row in mixture_rows(report)
    ]  # fmt: skip
    head = ["Task", "Method", "Collected", "Finished", "Right", "Trained on"]
    yield from _table([*(["For"] if several else []), *head], rows)
    for mixture in report.mixtures:
        if mixture.history:
            yield ""
            yield from ([f"{escape_line(display_name(mixture.name))}:", ""] if several else [])
            yield from (f"{index}. {escape_line(display_name(line))}" for index, line in enumerate(mixture.history, 1))


def _time(report: ReportData) -> Iterator[str]:
    if not report.timings:
        return
    total = sum(report.timings.values())
    yield "## Where the minutes went"
    yield ""
    shares = {stage: seconds / total if total else 0.0 for stage, seconds in report.timings.items()}
    rows = [[escape_line(stage), duration(report.timings[stage]), percent(share, 0)] for stage, share in shares.items()]
    yield from _table(["Stage", "Time", "Share"], [*rows, ["all", duration(total), ""]])
    if report.peak_memory_gb is not None:
        yield ""
        yield f"Peak memory: {report.peak_memory_gb:.1f} GB."


def _cases(report: ReportData) -> Iterator[str]:
    if not report.cases:
        return
    yield f"## {cases_heading(report)}"
    yield ""
    yield RULE
    for case in report.cases:
        yield ""
        yield from _case(case)


def _case(case: Case) -> Iterator[str]:
    yield f"### {escape_line(case.example.question)}"
    yield ""
    outcome_text = outcome(case) if len(case.trajectories) > 1 else ""
    yield f"Right answer: {escape_line(case.example.answer)}" + (
        f". {outcome_text.capitalize()}." if outcome_text else ""
    )
    for agent, trajectory in case.trajectories.items():
        yield ""
        yield f"**{escape_line(display_name(agent))}**: {verdict(trajectory)}, {_stop(trajectory)}"
        yield ""
        yield from (f"> {line}" if line else ">" for line in _quoted(trajectory.steps))


def _stop(trajectory: Trajectory) -> str:
    steps = f"{len(trajectory.steps)} step{'s' if len(trajectory.steps) != 1 else ''}"
    fault = f" ({escape_line(trajectory.error)})" if trajectory.error else ""
    return f"{STOPS[trajectory.stop]} after {steps}{fault}"


def _quoted(steps: Sequence[Step]) -> Iterator[str]:
    for index, step in enumerate(steps):
        if index:
            yield ""
        if step.action is None:
            yield f"**No action** {escape_line(step.text)}  "
        else:
            if step.thought:
                yield f"**Thought** {escape_line(step.thought)}  "
            yield f"**Action** {code_span(render_call(step.action))}  "
        if step.observation is not None:
            noise = "" if step.noise is None else f" (noise: {escape_line(step.noise)})"
            yield f"**Observation{noise}** {escape_line(step.observation)}"


def _settings(report: ReportData) -> Iterator[str]:
    if report.settings:
        yield "## Settings"
        yield ""
        yield from _table(
            ["Setting", "Value"],
            ([escape_line(name), escape_line(value)] for name, value in flatten_settings(report.settings)),
        )


def _commands(report: ReportData) -> Iterator[str]:
    if report.commands:
        yield "## Commands"
        yield ""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "\n".join(report.commands))), default=0))
        yield f"{fence}sh"
        yield from report.commands
        yield fence


def _notes() -> Iterator[str]:
    yield "## How to read the numbers"
    yield ""
    yield from (f"- {escape_line(note)}" for note in NOTES)


NOTES = (
    "EM: share of answers that match the right one exactly, after normalisation. F1: overlap of their words.",
    "Intervals: 95%, bias-corrected bootstrap over questions; Wilson where all scores are equal; p50 and p95 by the "
    "percentiles of resamples.",
    "p: two-sided, paired by question. McNemar's exact test for EM, a sign-flip permutation test for fractional F1; "
    "the interval of a difference is the inverse of its test.",
    "The best of several agents is chosen on these same questions, so its score and its change are too favourable; "
    "another seed would change both.",
    "Finished: share of episodes that ended in an answer, right or wrong, within the limit of steps.",
    "Tokens: read and written in all calls of an episode; cached tokens were read, but not computed again.",
    "Seconds a question: wall time of the run divided by its questions, with episodes in parallel. Episode, p50 and "
    "p95: seconds of one episode.",
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
