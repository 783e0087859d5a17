"""What a report says first, and the object that machines read.

Invariant: every form of the report takes its before and after from here; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.evaluation.failures import FAILURES, counted
from fireact.evaluation.summary import Comparison
from fireact.reporting.data import Mixture, ReportAgent, ReportData
from fireact.reporting.wording import percent, who


@dataclass(frozen=True, slots=True)
class Headline:
    """A task before and after: the last agent measured on it, its baseline, their summaries and how they compare.

    ``before`` is None where there is no baseline or it was asked other questions. ``best_of`` says of how many agents it
    is the best, where it was chosen for that.
    """

    task: str
    note: str
    baseline: str
    agent: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]
    comparison: Comparison | None
    best_of: int = 0


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """What a task and method gave a mixture: episodes collected, finished and right, and how many are trained on."""

    mixture: str
    task: str
    method: str
    collected: int
    finished: int
    correct: int
    mixed: int


def subject(report: ReportData) -> ReportAgent:
    """The agent that the report is about: the last with the tools of the first."""
    return [agent for agent in report.agents if agent.noise == report.agents[0].noise][-1]


def baseline(report: ReportData) -> ReportAgent:
    """The agent that the subject is compared with, on the first task where it is; itself where it is with none."""
    last = subject(report)
    named = {agent.name: agent for agent in report.agents}
    return next((named[found[last.name]] for found in report.against.values() if last.name in found), last)


def one_baseline(report: ReportData) -> bool:
    """Whether all agents with the tools of the first are compared with the same one."""
    noise = {agent.name: agent.noise for agent in report.agents}
    pairs = [(name, other) for found in report.against.values() for name, other in found.items()]
    return len({other for name, other in pairs if noise[name] == noise[other]}) < 2


def models(report: ReportData) -> list[str]:
    """The agents, each once however many kinds of noise it met: they share a colour."""
    return list(dict.fromkeys(agent.model for agent in report.agents))


@dataclass(frozen=True, slots=True)
class Robust:
    """An agent on a task under noise: its summary without (None where that was not measured) and with, and the change."""

    task: str
    agent: ReportAgent
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]
    comparison: Comparison | None

    @property
    def shared(self) -> int:
        """The number of questions that the change is over, where one of the two sides has others; else 0."""
        asked = max(side["n"] for side in (self.before, self.after) if side is not None)
        return self.comparison.em.n if self.comparison and self.comparison.em.n < asked else 0


def robustness(report: ReportData) -> list[Robust]:
    """Each agent and task that was measured under noise."""
    return [
        Robust(
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


def failures(report: ReportData) -> dict[str, dict[str, int]]:
    """Kind of failure -> agent -> episodes, the most frequent kinds first; only of agents that were measured."""
    names = {agent.name for agent in report.agents}
    found = {source.name: counted(source.trajectories) for source in report.sources if source.name in names}
    totals = {kind: sum(counts[kind] for counts in found.values()) for kind in FAILURES}
    order = sorted((kind for kind, total in totals.items() if total), key=lambda kind: -totals[kind])
    return {kind: {name: counts[kind] for name, counts in found.items()} for kind in order}


@dataclass(frozen=True, slots=True)
class Group:
    """Questions of one kind (of two hops, say): agent -> ``n``, ``em``, ``em_interval`` and so on."""

    task: str
    kind: str
    value: str
    n: int
    agents: Mapping[str, Mapping[str, Any]]


def groups(report: ReportData) -> list[Group]:
    """The kinds of questions of each task that has several, as the agents were measured on them."""
    names = [agent.name for agent in report.agents]
    found = []
    for task, results in report.results.items():
        by = {name: results[name].get("by", {}) for name in names if name in results}
        for kind in dict.fromkeys(kind for own in by.values() for kind in own):
            values = dict.fromkeys(value for own in by.values() for value in own.get(kind, {}))
            for value in values if len(values) > 1 else ():
                agents = {name: own[kind][value] for name, own in by.items() if value in own.get(kind, {})}
                found.append(Group(task, kind, value, max(one["n"] for one in agents.values()), agents))
    return found


def groups_by_task(report: ReportData) -> dict[str, tuple[list[Group], list[str]]]:
    """Task -> its kinds of questions, and the agents that were measured on any of them."""
    found: dict[str, tuple[list[Group], list[str]]] = {}
    for one in groups(report):
        kinds, names = found.setdefault(one.task, ([], []))
        kinds.append(one)
        names += [name for name in one.agents if name not in names]
    return found


ALIKE = 0.9
"""Share of the questions that two agents must both have answered for their scores to stand side by side."""


def headlines(report: ReportData) -> list[Headline]:
    """Each task with the last agent measured on it, against its baseline if that was asked the same questions.

    Agents with the tools of the first come before those with other ones. Of studies, which are about no one agent, it is the best
    of three or more; of those that are level, one that is compared with another.
    """
    alike = [agent.name for agent in report.agents if agent.noise == report.agents[0].noise]
    found = []
    for task, results in report.results.items():
        here = [name for name in alike if name in results] or list(results)
        against = report.against.get(task, {})
        last = next((name for name in reversed(here) if name in against), here[-1])
        best_of = len(here) if report.of_studies and len(here) > 2 else 0
        if best_of:
            last = max(here, key=lambda name: (results[name]["em"], name in against))
        first, comparison = results.get(against.get(last, "")), report.comparisons.get(task, {}).get(last)
        if first and (comparison is None or comparison.em.n < ALIKE * max(first["n"], results[last]["n"])):
            first = None
        note = report.task_notes.get(task, "")
        found.append(Headline(task, note, against.get(last, ""), last, first, results[last], comparison, best_of))
    return found


def one_pair(report: ReportData, lines: Sequence[Headline]) -> bool:
    """Whether all headlines are of the only agents that there are but for noise, so that each need not name its own."""
    named = {name for line in lines for name in (line.baseline, line.agent) if name}
    others = [agent for agent in report.agents if not {agent.name, agent.model} & named]
    return len({(line.baseline, line.agent) for line in lines}) < 2 and not others


def lede(report: ReportData) -> str:
    """The report in one or two sentences: what was measured, and where the training data is from."""
    lines = headlines(report)
    parts = [_change(line, named=not one_pair(report, lines)) for line in lines]
    text = f"Exact match: {'; '.join(parts)}." if parts else f"{_gathered(report)} without scores."
    if (learnt := _learnt(report, lines)) is not None:
        text += f" Fine-tuned on {learnt:,} trajectories of {', '.join(map(who, teachers(report)))}."
    return text


def _learnt(report: ReportData, lines: Sequence[Headline]) -> int | None:
    """How many trajectories the agents of the headlines learned from, where that is one number and their teacher is known."""
    shown = {line.agent for line in lines}
    sizes = {agent.trajectories for agent in report.agents if agent.name in shown}
    return next(iter(sizes)) if len(sizes) == 1 and report.mixtures else None


def teachers(report: ReportData) -> list[str]:
    """Whose trajectories were trained on."""
    return list(dict.fromkeys(mixture.teacher for mixture in report.mixtures))


def _gathered(report: ReportData) -> str:
    """How many episodes there are, and whose: ``500 episodes of gpt-4``."""
    count = sum(len(source.trajectories) for source in report.sources)
    return f"{count:,} episodes of {', '.join(who(agent.name) for agent in report.agents)},"


def _change(line: Headline, *, named: bool) -> str:
    after = percent(line.after["em"])
    change = f"from {percent(line.before['em'])} to {after}" if line.before else after
    pair = f"{who(line.baseline)} to {who(line.agent)}" if line.before else who(line.agent)
    pair += f", the best of {line.best_of}" if line.best_of else ""
    return f"{line.task} {change}{f' ({pair})' if named else ''}"


def cases_heading(report: ReportData) -> str:
    """What stands over the cases."""
    alone = all(len(case.trajectories) < 2 for case in report.cases)
    return "Some of the questions" if alone else "The same questions, side by side"


def told(report: ReportData, amount: str) -> bool:
    """Whether any result tells an amount, which is more than 0."""
    return any(one.get(amount) for found in report.results.values() for one in found.values())


def accuracy_differs(report: ReportData) -> bool:
    """Whether any agent's accuracy is another number than its exact match."""
    return any(
        one.get("accuracy", one["em"]) != one["em"] for found in report.results.values() for one in found.values()
    )


def mixture_rows(report: ReportData) -> list[MixtureRow]:
    """Counts of each mixture by task and method, in the order in which they were collected."""
    rows = []
    for mixture in report.mixtures:
        for name in dict.fromkeys([*mixture.collected, *mixture.mixed]):
            task, _, method = name.partition("/")
            found, used = mixture.collected.get(name, {}), mixture.mixed.get(name, {})
            collected, finished, correct = (found.get(key, 0) for key in ("n", "finished", "correct"))
            rows.append(MixtureRow(mixture.name, task, method, collected, finished, correct, used.get("n", 0)))
    return rows


def machine(report: ReportData) -> dict[str, Any]:
    """The report as one JSON object: ``agents`` -> agent -> task -> summary, ``comparisons`` -> task -> agent, ..."""
    agents = [agent.name for agent in report.agents]
    return {
        "title": report.title,
        "created": report.created,
        "before": baseline(report).name,
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
        "against": {task: dict(found) for task, found in report.against.items()},
        "unlike": list(report.unlike),
        "one_pair": one_pair(report, headlines(report)),
        "descriptions": {agent.name: agent.description for agent in report.agents},
        "agents": {
            name: {task: dict(results[name]) for task, results in report.results.items() if name in results}
            for name in agents
        },
        "comparisons": {
            task: {name: comparison.to_dict() for name, comparison in found.items()}
            for task, found in report.comparisons.items()
        },
        "robustness": {
            task: {name: comparison.to_dict() for name, comparison in found.items()}
            for task, found in report.robustness.items()
        },
        "failures": failures(report),
        "training": {name: [dict(row) for row in rows] for name, rows in report.training.items()},
        "data": [_mixture(mixture) for mixture in report.mixtures],
        "timings": {
            "stages": dict(report.timings),
            "total_seconds": sum(report.timings.values()),
            "peak_memory_gb": report.peak_memory_gb,
        },
    }


def _mixture(mixture: Mixture) -> dict[str, Any]:
    return {
        "name": mixture.name,
        "teacher": mixture.teacher,
        "collected": {name: dict(count) for name, count in mixture.collected.items()},
        "mixed": {name: dict(count) for name, count in mixture.mixed.items()},
        "history": list(mixture.history),
    }
