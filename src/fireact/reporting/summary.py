"""What a report says first, and the object that machines read.

Invariant: every form of the report takes its headlines from here; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fireact.evaluation.comparison import ScoreComparison
from fireact.evaluation.failures import FAILURES, count_failures
from fireact.evaluation.measures import GroupSummary
from fireact.evaluation.statistics import Estimate, PairedDifference
from fireact.evaluation.summary import Summary
from fireact.reporting.report_data import ReportAgent, ReportData
from fireact.reporting.wording import description_beside, display_name, percent


@dataclass(frozen=True, slots=True)
class Headline:
    """A task before and after: the last agent measured on it, its baseline, their summaries and the comparison.

    ``before`` is None where there is no baseline, or it was asked other questions. ``best_of`` is the number of agents
    from which this one was chosen as the best, else 0. ``under_noise`` has, by kind of noise, the exact match of the
    baseline and of the agent with these tools; None for one that was not measured so.
    """

    task: str
    note: str
    baseline: str
    agent: str
    before: Summary | None
    after: Summary
    comparison: ScoreComparison | None
    best_of: int = 0
    under_noise: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def change(self) -> PairedDifference | None:
        """The change in exact match."""
        return self.comparison.em if self.comparison else None


SERIES = 6
"""Number of colours; the agents after these begin with the first colour again."""


def subject(report: ReportData) -> ReportAgent:
    """The agent that the report is about: the last one under the same noise as the first."""
    return [agent for agent in report.agents if agent.noise == report.agents[0].noise][-1]


def subject_baseline(report: ReportData) -> ReportAgent:
    """The baseline of the subject on the first task that has one; without any, the subject itself."""
    last = subject(report)
    by_name = {agent.name: agent for agent in report.agents}
    return next((by_name[by_agent[last.name]] for by_agent in report.against.values() if last.name in by_agent), last)


def has_one_baseline(report: ReportData) -> bool:
    """Whether all agents have the same baseline, apart from comparisons of an agent under noise with itself."""
    noise = {agent.name: agent.noise for agent in report.agents}
    pairs = [(name, baseline_name) for by_agent in report.against.values() for name, baseline_name in by_agent.items()]
    return len({baseline_name for name, baseline_name in pairs if noise[name] == noise[baseline_name]}) < 2


def model_names(report: ReportData) -> list[str]:
    """The agents without regard to noise: an agent has one colour under every kind of noise."""
    return list(dict.fromkeys(agent.model for agent in report.agents))


def series_by_agent(report: ReportData) -> dict[str, int]:
    """Agent -> the number of its colour."""
    models = model_names(report)
    return {agent.name: models.index(agent.model) % SERIES for agent in report.agents}


@dataclass(frozen=True, slots=True)
class RobustnessRow:
    """An agent on a task: its summary without noise (None if not measured) and with it, and the comparison."""

    task: str
    agent: ReportAgent
    before: Summary | None
    after: Summary
    comparison: ScoreComparison | None

    @property
    def shared(self) -> int:
        """The number of questions that both sides share, where one of them has more; else 0."""
        question_count = max(side.n for side in (self.before, self.after) if side is not None)
        return self.comparison.em.n if self.comparison and self.comparison.em.n < question_count else 0


def robustness_rows(report: ReportData) -> list[RobustnessRow]:
    """Each agent and task that was measured under noise."""
    return [
        RobustnessRow(
            task=task,
            agent=agent,
            before=results.get(agent.model) if agent.model != agent.name else None,
            after=results[agent.name],
            comparison=report.robustness.get(task, {}).get(agent.name),
        )
        for task, results in report.results.items()
        for agent in report.agents
        if agent.noise and agent.name in results
    ]


def failures_by_agent(report: ReportData) -> dict[str, dict[str, int]]:
    """Kind of failure -> agent -> number of episodes; frequent kinds first, and only agents that were measured."""
    names = {agent.name for agent in report.agents}
    counts_by_agent = {
        source.name: count_failures(source.trajectories) for source in report.sources if source.name in names
    }
    totals = {kind: sum(counts[kind] for counts in counts_by_agent.values()) for kind in FAILURES}
    order = sorted((kind for kind, total in totals.items() if total), key=lambda kind: -totals[kind])
    return {kind: {name: counts[kind] for name, counts in counts_by_agent.items()} for kind in order}


@dataclass(frozen=True, slots=True)
class QuestionGroup:
    """Questions of one kind (two hops, say), and the results of each agent on them."""

    kind: str
    value: str
    n: int
    agents: Mapping[str, GroupSummary]

    def get_em(self, agent: str) -> Estimate | None:
        """Exact match of an agent on these questions; None where it was not asked any."""
        summary = self.agents.get(agent)
        return None if summary is None else summary.measures.em


def question_groups_by_task(report: ReportData) -> dict[str, tuple[list[QuestionGroup], list[str]]]:
    """Tasks with several kinds of questions: the results on each kind, and the agents that were measured on any."""
    by_task: dict[str, tuple[list[QuestionGroup], list[str]]] = {}
    for task, results in report.results.items():
        by_agent = {agent.name: results[agent.name].by for agent in report.agents if agent.name in results}
        for kind in dict.fromkeys(kind for by_kind in by_agent.values() for kind in by_kind):
            values = dict.fromkeys(value for by_kind in by_agent.values() for value in by_kind.get(kind, {}))
            for value in values if len(values) > 1 else ():
                agents = {
                    name: by_kind[kind][value] for name, by_kind in by_agent.items() if value in by_kind.get(kind, {})
                }
                groups, names = by_task.setdefault(task, ([], []))
                groups.append(QuestionGroup(kind, value, max(summary.n for summary in agents.values()), agents))
                names += [name for name in agents if name not in names]
    return by_task


ALIKE = 0.9
"""The share of questions that two agents must have in common for a headline to show both scores."""


def headlines(report: ReportData) -> list[Headline]:
    """Each task with the last agent measured on it, against its baseline if that was asked the same questions.

    Only agents under the noise of the first agent count, if any was measured on the task. A study is not about one
    agent, so with three or more agents the best one is taken; among equals, one that has a baseline.
    """
    same_tools = [agent.name for agent in report.agents if agent.noise == report.agents[0].noise]
    lines = []
    for task, results in report.results.items():
        names = [name for name in same_tools if name in results] or list(results)
        against = report.against.get(task, {})
        last = next((name for name in reversed(names) if name in against), names[-1])
        best_of = len(names) if report.of_studies and len(names) > 2 else 0
        if best_of:
            last = max(names, key=lambda name: (results[name].measures.em.mean, name in against))
        first, comparison = results.get(against.get(last, "")), report.comparisons.get(task, {}).get(last)
        if first and (comparison is None or comparison.em.n < ALIKE * max(first.n, results[last].n)):
            first = None
        lines.append(
            Headline(
                task=task,
                note=report.task_notes.get(task, ""),
                baseline=against.get(last, ""),
                agent=last,
                before=first,
                after=results[last],
                comparison=comparison,
                best_of=best_of,
                under_noise=_scores_under_noise(report, task, against.get(last, "") if first else "", last),
            )
        )
    return lines


def _scores_under_noise(
    report: ReportData, task: str, baseline: str, agent: str
) -> dict[str, tuple[float | None, float | None]]:
    """Noise -> exact match of the baseline and of the agent where their tools are disturbed."""
    scores = {(twin.model, twin.noise): report.results[task].get(twin.name) for twin in report.agents if twin.noise}
    models = {twin.name: twin.model for twin in report.agents if not twin.noise}
    pairs = {
        noise: (scores.get((models.get(baseline, ""), noise)), scores.get((models.get(agent, ""), noise)))
        for noise in dict.fromkeys(noise for _, noise in scores)
    }
    return {
        noise: (before.measures.em.mean if before else None, after.measures.em.mean if after else None)
        for noise, (before, after) in pairs.items()
        if before or after
    }


def has_one_pair(report: ReportData, lines: Sequence[Headline]) -> bool:
    """Whether all headlines show the same two agents and the report has no others, so that headlines need no names."""
    shown_names = {name for line in lines for name in (line.baseline, line.agent) if name}
    other_agents = [agent for agent in report.agents if not {agent.name, agent.model} & shown_names]
    return len({(line.baseline, line.agent) for line in lines}) < 2 and not other_agents


def lede(report: ReportData) -> str:
    """The report in one or two sentences: what was measured, and where the training data is from."""
    lines = headlines(report)
    named = {} if has_one_pair(report, lines) else report.labels
    parts = [_headline_words(line, named) for line in lines]
    count = sum(len(source.trajectories) for source in report.sources)
    agents = ", ".join(display_name(agent.name) for agent in report.agents)
    text = f"Exact match: {'; '.join(parts)}." if parts else f"{count:,} episodes of {agents}, without scores."
    names = {line.agent for line in lines}
    sizes = {agent.trajectories for agent in report.agents if agent.name in names} if report.mixtures else set()
    if len(sizes) == 1 and (size := next(iter(sizes))) is not None:
        text += f" Fine-tuned on {size:,} trajectories of {', '.join(map(display_name, teachers(report)))}."
    return text


def describe_agent(report: ReportData, agent: ReportAgent) -> str:
    """What stands beside the short name of an agent: its long name, where that says more, and its description."""
    if agent.noise and agent.model in report.labels:
        return f"the same agent, its tools under noise {agent.noise}"
    name = display_name(agent.name)
    added = display_name(description_beside(agent.description, agent.name))
    return ", ".join(filter(None, ["" if name == report.labels[agent.name] else name, added]))


def teachers(report: ReportData) -> list[str]:
    """The models whose trajectories were trained on."""
    return list(dict.fromkeys(mixture.teacher for mixture in report.mixtures))


def _headline_words(line: Headline, labels: Mapping[str, str]) -> str:
    """A headline in words, with the short names of its agents where ``labels`` has them."""
    after = percent(line.after.measures.em.mean)
    change = f"from {percent(line.before.measures.em.mean)} to {after}" if line.before else after
    if not labels:
        return f"{line.task} {change}"
    pair = f"{labels[line.baseline]} to {labels[line.agent]}" if line.before else labels[line.agent]
    pair += f", the best of {line.best_of}" if line.best_of else ""
    return f"{line.task} {change} ({pair})"


def cases_heading(report: ReportData) -> str:
    """The heading above the cases."""
    alone = all(len(case.trajectories) < 2 for case in report.cases)
    return "Some of the questions" if alone else "The same questions, side by side"


def has_amount(report: ReportData, name: str) -> bool:
    """Whether any result has this amount and it is not 0."""
    amounts = (summary.measures.get(name) for by_agent in report.results.values() for summary in by_agent.values())
    return any(amount is not None and amount.mean for amount in amounts)


def has_distinct_accuracy(report: ReportData) -> bool:
    """Whether the accuracy of any agent differs from its exact match."""
    return any(
        summary.measures.differing_accuracy for by_agent in report.results.values() for summary in by_agent.values()
    )


def report_to_dict(report: ReportData) -> dict[str, Any]:
    """The report as one JSON object: ``agents`` -> agent -> task -> summary, ``comparisons`` -> task -> agent, ..."""
    agents = [agent.name for agent in report.agents]
    return {
        "title": report.title,
        "created": report.created,
        "before": subject_baseline(report).name,
        "after": subject(report).name,
        "headlines": [
            {
                "task": line.task,
                "before": line.baseline if line.before else None,
                "after": line.agent,
                "best_of": line.best_of or None,
            }
            for line in headlines(report)
        ],
        "against": {task: dict(by_agent) for task, by_agent in report.against.items()},
        "unlike": list(report.unlike),
        "cautions": list(report.cautions),
        "one_pair": has_one_pair(report, headlines(report)),
        "labels": dict(report.labels),
        "descriptions": {agent.name: agent.description for agent in report.agents},
        "agents": {
            name: {task: results[name].to_dict() for task, results in report.results.items() if name in results}
            for name in agents
        },
        "comparisons": {
            task: {name: comparison.to_dict() for name, comparison in by_agent.items()}
            for task, by_agent in report.comparisons.items()
        },
        "robustness": {
            task: {name: comparison.to_dict() for name, comparison in by_agent.items()}
            for task, by_agent in report.robustness.items()
        },
        "failures": failures_by_agent(report),
        "training": {name: [dict(row) for row in rows] for name, rows in report.training.items()},
        "data": [asdict(mixture) for mixture in report.mixtures],
        "timings": {
            "stages": dict(report.timings),
            "total_seconds": sum(report.timings.values()),
            "peak_memory_gb": report.peak_memory_gb,
        },
    }


def read_headlines(report: Mapping[str, Any]) -> list[Headline]:
    """The headlines of a report from its JSON; earlier versions lack some keys."""
    summaries = {
        name: {task: Summary.from_dict(fields) for task, fields in by_task.items()}
        for name, by_task in report["agents"].items()
    }
    comparisons = {
        (task, name): ScoreComparison.from_dict(fields)
        for task, by_agent in report.get("comparisons", {}).items()
        for name, fields in by_agent.items()
    }
    return [
        Headline(
            task=task,
            note="",
            baseline=before or "",
            agent=agent,
            before=summaries.get(before, {}).get(task),
            after=summaries[agent][task],
            comparison=comparisons.get((task, agent)),
            best_of=line.get("best_of") or 0,
        )
        for line in report["headlines"]
        for task, before, agent in [(line["task"], line["before"], line["after"])]
    ]
