"""The report as Markdown: the same tables and trajectories as the page; plots are linked as files beside it.

Invariant: text of models, tools and tasks appears unchanged; none of it becomes a heading, a link, a picture or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from fireact.base.markdown import code_span, escape_line
from fireact.render.react import render_call
from fireact.reporting.cases import RULE, outcome
from fireact.reporting.report_data import Case, ReportData
from fireact.reporting.report_tables import (
    failure_table,
    group_tables,
    headline_table,
    mixture_table,
    result_table,
    robustness_table,
    time_table,
)
from fireact.reporting.summary import (
    cases_heading,
    describe_agent,
    has_one_baseline,
    has_one_pair,
    headlines,
    lede,
    subject_baseline,
    teachers,
)
from fireact.reporting.table import Table, write_markdown_table
from fireact.reporting.wording import (
    STOPS,
    count_of,
    display_name,
    flatten_settings,
    interval,
    p_value,
    points,
    verdict,
)
from fireact.types import Step


def render_markdown(report: ReportData, *, plots: Mapping[str, str] | None = None) -> str:
    """The whole report; ``plots`` maps paths of pictures, relative to the file, to what they show in words."""
    parts = [_head(report), _results(report), _groups(report)]
    parts += [_section(robustness_table(report), "Under noise"), _section(failure_table(report), "What went wrong")]
    parts.append(f"![{escape_line(words)}]({path})" for path, words in (plots or {}).items())
    parts += [_training(report), _data(report), _time(report), _cases(report)]
    parts.append(_section(Table("Settings", ["Setting", "Value"], flatten_settings(report.settings), names=2)))
    parts.append(_commands(report))
    parts.append(iter(["## How to read the numbers", "", *(f"- {escape_line(note)}" for note in NOTES)]))
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines) + "\n"


def _head(report: ReportData) -> Iterator[str]:
    yield f"# {escape_line(report.title)}"
    yield ""
    yield escape_line(lede(report))
    yield ""
    yield f"Created {escape_line(report.created)}."
    yield ""
    for agent in report.agents:
        words = describe_agent(report, agent)
        yield f"- **{escape_line(report.labels[agent.name])}**{f': {escape_line(words)}' if words else ''}"


def _results(report: ReportData) -> Iterator[str]:
    lines = headlines(report)
    if not lines:
        return
    title = "Before and after" if any(line.before for line in lines) else "In short"
    yield from _section(headline_table(lines, title, one_pair=has_one_pair(report, lines), labels=report.labels))
    notes = [f"- {escape_line(line.task)}: {escape_line(line.note)}" for line in lines if line.note]
    yield from ["", *notes] if notes else []
    yield ""
    yield from _section(result_table(report))
    comparisons = list(_comparisons(report))
    if comparisons:
        yield ""
        first = (
            f"Against {escape_line(report.labels[subject_baseline(report).name])}, on"
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
    if report.cautions:
        yield ""
        yield "To know beside the numbers:"
        yield ""
        yield from (f"- {escape_line(display_name(line))}" for line in report.cautions)


def _section(table: Table, title: str = "") -> Iterator[str]:
    """A table under its title as a heading; nothing where it has no rows."""
    if table.rows:
        yield f"## {title or table.title}"
        yield ""
        yield from write_markdown_table(table)


def _comparisons(report: ReportData) -> Iterator[str]:
    for task, by_agent in report.comparisons.items():
        for agent, comparison in by_agent.items():
            baseline_note = (
                ""
                if has_one_baseline(report)
                else f" against {escape_line(report.labels[report.against[task][agent]])}"
            )
            for name, change in (("EM", comparison.em), ("F1", comparison.f1)):
                yield (
                    f"- {escape_line(task)}, {escape_line(report.labels[agent])}{baseline_note}: {name} "
                    f"{points(change.difference.mean)} ({interval(change.difference.interval)}), {p_value(change.p)}; "
                    f"higher on {change.wins}, lower on {change.losses} of {change.n}"
                )


def _groups(report: ReportData) -> Iterator[str]:
    tables = group_tables(report)
    if tables:
        yield "## By kind of question"
    for table in tables:
        yield ""
        yield from write_markdown_table(table)


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
    yield from write_markdown_table(mixture_table(report))
    for mixture in report.mixtures:
        if mixture.history:
            yield ""
            yield from ([f"{escape_line(display_name(mixture.name))}:", ""] if several else [])
            yield from (f"{index}. {escape_line(display_name(line))}" for index, line in enumerate(mixture.history, 1))


def _time(report: ReportData) -> Iterator[str]:
    if not report.timings:
        return
    yield from _section(time_table(report.timings), "Time by stage")
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
        yield from _case(case, report.labels)


def _case(case: Case, labels: Mapping[str, str]) -> Iterator[str]:
    yield f"### {escape_line(case.example.question)}"
    yield ""
    outcome_text = outcome(case) if len(case.trajectories) > 1 else ""
    yield f"Right answer: {escape_line(case.example.answer)}" + (
        f". {outcome_text.capitalize()}." if outcome_text else ""
    )
    for agent, trajectory in case.trajectories.items():
        yield ""
        fault = f" ({escape_line(trajectory.error)})" if trajectory.error else ""
        stop = f"{STOPS[trajectory.stop]} after {count_of(len(trajectory.steps), 'step')}{fault}"
        yield f"**{escape_line(labels[agent])}**: {verdict(trajectory)}, {stop}"
        yield ""
        yield from (f"> {line}" if line else ">" for line in _quoted(trajectory.steps))


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


def _commands(report: ReportData) -> Iterator[str]:
    if report.commands:
        yield "## Commands"
        yield ""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "\n".join(report.commands))), default=0))
        yield f"{fence}sh"
        yield from report.commands
        yield fence


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
