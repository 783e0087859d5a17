"""What a report says, before it has a form: plain data of every stage, each part optional but the agents and results.

Invariant: results, comparisons and cases name only agents of ``agents``; ``against`` gives an agent a baseline on a task
only where both were measured on it.
Nothing is read from disk here and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError
from fireact.evaluation.summary import Comparison
from fireact.types import Example, Trajectory


@dataclass(frozen=True, slots=True)
class ReportAgent:
    """An agent of the report: the name it has in the results, and a line that says what it is.

    ``noise`` is what was done to its tools (``none=0.5``), empty where they were as they are; the agents that differ in
    it alone have the same ``model``. ``trajectories`` is how many a fine-tuned one learned from, where that is known;
    those with the same ``line`` differ in that number and their seed alone.
    """

    name: str
    description: str
    model: str = ""
    noise: str = ""
    trajectories: int | None = None
    line: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model or self.name)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Where the data of a training comes from: counts by "task/method" and the lines of the dataset's history.

    Counts have ``n``, ``finished`` and ``correct``, as in the manifests of ``collect`` and ``mix``; ``collected`` is of
    the collections that it was mixed from. ``name`` tells it from the others of the report.
    """

    name: str
    teacher: str
    collected: Mapping[str, Mapping[str, int]]
    mixed: Mapping[str, Mapping[str, int]]
    history: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One question, and what each agent made of it."""

    example: Example
    trajectories: Mapping[str, Trajectory]


@dataclass(frozen=True, slots=True)
class Source:
    """An agent of the report or a teacher that was collected from, with its episodes and the directories they are of."""

    name: str
    trajectories: Sequence[Trajectory]
    runs: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that a report shows. Raises ConfigError where a part names an agent that ``agents`` lacks.

    ``results``: task -> agent -> ``Summary.to_dict()`` (more keys are shown where they are known); ``paired``: task ->
    agent -> the agent that it is compared with (by default as ``baselines`` says); ``of_studies``: it is about
    the cells of studies and no one agent; ``comparisons``: task -> agent ->
    what it changed against that one; ``robustness``: the same for an agent under noise against itself without;
    ``unlike``: in what two agents that are compared differ besides themselves; ``training``: run -> rows of its log with
    ``step``, ``loss`` and ``learning_rate``; ``timings``: stage -> seconds; ``task_notes``: task -> a few words, such as
    "held out". ``created`` is a date in ISO form; ``cases`` are as ``cases.choose`` picks them; ``sources`` hold every
    episode.
    """

    title: str
    created: str
    agents: Sequence[ReportAgent]
    results: Mapping[str, Mapping[str, Mapping[str, Any]]]
    paired: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    of_studies: bool = False
    comparisons: Mapping[str, Mapping[str, Comparison]] = field(default_factory=dict)
    robustness: Mapping[str, Mapping[str, Comparison]] = field(default_factory=dict)
    unlike: Sequence[str] = ()
    task_notes: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    mixtures: Sequence[Mixture] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_gb: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    cases: Sequence[Case] = ()
    sources: Sequence[Source] = ()

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
    def against(self) -> Mapping[str, Mapping[str, str]]:
        """Task -> agent -> the agent that it is compared with."""
        return self.paired or baselines(self.agents, self.results)


def baselines(agents: Sequence[ReportAgent], results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """With whom each agent is compared on each task: under noise with itself without, else with the first measured."""
    found: dict[str, dict[str, str]] = {}
    for task, measured in results.items():
        here = [agent for agent in agents if agent.name in measured]
        clean = {agent.model: agent.name for agent in reversed(here) if not agent.noise}
        first = next((agent for agent in here if agent.noise == agents[0].noise), None)
        for agent in here:
            if agent.noise and agent.model in clean:
                found.setdefault(task, {})[agent.name] = clean[agent.model]
            elif first is not None and agent.noise == first.noise and agent != first:
                found.setdefault(task, {})[agent.name] = first.name
    return found
