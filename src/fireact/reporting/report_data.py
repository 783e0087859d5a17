"""What a report says, before it has a form: plain data of every stage. Only the agents and their results are required.

Invariant: results, comparisons and cases name only agents of ``agents``. ``against`` gives an agent a baseline on a
task only where both were measured on it. This module reads nothing from disk and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.base.settings import replace_fields
from fireact.errors import ConfigError
from fireact.evaluation.comparison import ScoreComparison
from fireact.evaluation.summary import Summary
from fireact.reporting.agent_names import shorten_names
from fireact.reporting.wording import display_name
from fireact.rollout.collection import EpisodeCounts
from fireact.types import Example, Trajectory


@dataclass(frozen=True, slots=True)
class ReportAgent:
    """An agent of the report: the name it has in the results, and a line that says what it is.

    ``noise`` is what was done to its tools (``none=0.5``), or empty; agents that differ only in noise have the same
    ``model``. ``trajectories`` is how many a fine-tuned agent learned from, where that is known; agents with the same
    ``line`` differ only in that number and their seed. ``tuned`` is None where nobody recorded it.
    """

    name: str
    description: str
    model: str = ""
    noise: str = ""
    trajectories: int | None = None
    line: str = ""
    tuned: bool | None = None

    def __post_init__(self) -> None:
        replace_fields(self, model=self.model or self.name)
        if self.tuned is None and self.trajectories is not None:
            replace_fields(self, tuned=True)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Where the data of a training comes from: counts by "task/method" and the lines of the dataset's history.

    ``collected`` counts the collections that were mixed. ``name`` tells the mixture from the others of the report.
    """

    name: str
    teacher: str
    collected: Mapping[str, EpisodeCounts]
    mixed: Mapping[str, EpisodeCounts]
    history: Sequence[str] = ()

    @property
    def groups(self) -> dict[str, tuple[EpisodeCounts, EpisodeCounts]]:
        """By "task/method", in the order of collecting: the counts of what was collected, and of what is trained on."""
        none = EpisodeCounts()
        names = dict.fromkeys([*self.collected, *self.mixed])
        return {name: (self.collected.get(name, none), self.mixed.get(name, none)) for name in names}


@dataclass(frozen=True, slots=True)
class Case:
    """One question, and the trajectory of each agent on it."""

    example: Example
    trajectories: Mapping[str, Trajectory]


@dataclass(frozen=True, slots=True)
class EpisodeSource:
    """An agent of the report, or a teacher, with its episodes and the run directories that hold them."""

    name: str
    trajectories: Sequence[Trajectory]
    runs: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that a report shows. Raises ConfigError where a field names an agent that ``agents`` lacks.

    - ``results``: task -> agent -> its summary.
    - ``paired``: task -> agent -> its baseline; if empty, ``default_baselines`` chooses.
    - ``of_studies``: the report is about the cells of studies, and not about one agent.
    - ``comparisons``: task -> agent -> the change against its baseline.
    - ``robustness``: the same for an agent under noise, against itself without noise.
    - ``unlike``: what else differs between two agents that are compared.
    - ``cautions``: what a reader must know beside the numbers, such as questions that an agent was trained on.
    - ``training``: run -> rows of its log with ``step``, ``loss`` and ``learning_rate``.
    - ``timings``: stage -> seconds.
    - ``task_notes``: task -> a few words, such as "held out".
    - ``created``: a date in ISO form.
    - ``cases``: as ``cases.choose_cases`` picks them.
    - ``sources``: every episode.
    """

    title: str
    created: str
    agents: Sequence[ReportAgent]
    results: Mapping[str, Mapping[str, Summary]]
    paired: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    of_studies: bool = False
    comparisons: Mapping[str, Mapping[str, ScoreComparison]] = field(default_factory=dict)
    robustness: Mapping[str, Mapping[str, ScoreComparison]] = field(default_factory=dict)
    unlike: Sequence[str] = ()
    cautions: Sequence[str] = ()
    task_notes: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    mixtures: Sequence[Mixture] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_gb: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    cases: Sequence[Case] = ()
    sources: Sequence[EpisodeSource] = ()

    def __post_init__(self) -> None:
        names = [agent.name for agent in self.agents]
        if not names:
            raise ConfigError("a report needs at least one agent. Give it a directory of 'fireact eval'.")
        if len(set(names)) < len(names):
            raise ConfigError(f"two agents of the report have the same name ({', '.join(names)}). Give each its own.")
        numbers = (*self.results.values(), *self.comparisons.values(), *self.robustness.values())
        used = [name for by_agent in numbers for name in by_agent]
        used += [name for case in self.cases for name in case.trajectories]
        absent = sorted(set(used) - set(names))
        if absent:
            raise ConfigError(f"the report has numbers of {', '.join(absent)}, but its agents are {', '.join(names)}.")

    @property
    def labels(self) -> Mapping[str, str]:
        """Agent -> the short name that stands beside its numbers; the cells of a study have names of their own."""
        return (
            {agent.name: display_name(agent.name) for agent in self.agents}
            if self.of_studies
            else (shorten_names(self.agents))
        )

    @property
    def against(self) -> Mapping[str, Mapping[str, str]]:
        """Task -> agent -> the agent that it is compared with."""
        return self.paired or default_baselines(self.agents, self.results)


def default_baselines(
    agents: Sequence[ReportAgent], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Task -> agent -> its baseline: under noise the same agent without noise, else the first agent measured."""
    baseline_names: dict[str, dict[str, str]] = {}
    for task, by_agent in results.items():
        measured_agents = [agent for agent in agents if agent.name in by_agent]
        clean = {agent.model: agent.name for agent in reversed(measured_agents) if not agent.noise}
        first = next((agent for agent in measured_agents if agent.noise == agents[0].noise), None)
        for agent in measured_agents:
            if agent.noise and agent.model in clean:
                baseline_names.setdefault(task, {})[agent.name] = clean[agent.model]
            elif first is not None and agent.noise == first.noise and agent != first:
                baseline_names.setdefault(task, {})[agent.name] = first.name
    return baseline_names
