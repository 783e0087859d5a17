"""The complete runs and files that a report is made from. The directory of a quickstart or study stands for its stages.

Invariant: a directory is read once, whichever paths lead to it, and nothing is written or scored. Where no evaluation
measured a task, it has results only if every episode without a fault has EM and F1. A quantity that episodes do not
record (time and tokens, in files of other tools) is None and never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fireact.base.commands import GATHERING
from fireact.base.run_directory import read_config, read_manifest, read_trajectories
from fireact.errors import DataError
from fireact.evaluation.compared_runs import read_compared_run
from fireact.evaluation.conditions import noise_kinds
from fireact.evaluation.measures import summarise_group
from fireact.evaluation.summary import Summary, read_summaries, summarise_trajectories
from fireact.evaluation.trained_marks import mark_trained_questions
from fireact.reporting.rows import RESULTS, StudyRow, read_study_rows
from fireact.rollout.collection import EpisodeCounts, read_counts
from fireact.types import Trajectory

NOISE = "noise:"
FILE = "file"
"""The verb of a "run" that is only a file of episodes."""
STAGES = ("collect", "mix", "train", "eval-base", "eval-fireact")
"""What a quickstart directory holds, in order."""
SPENT = ("prompt_tokens", "cached_tokens", "completion_tokens", "tokens_per_question", "cost_per_question")
TIMED = ("latency_mean", "latency_p50", "latency_p95")


@dataclass(frozen=True, slots=True)
class GatheredEpisodes:
    """Episodes that no evaluation measured (a file, a collection, a mixture): their agent and results by task."""

    agent: str
    description: str
    results: Mapping[str, Summary]
    trajectories: Sequence[Trajectory]


@dataclass(frozen=True)
class ReportedRun:
    """A complete run directory: its path, settings and manifest.

    A stage of a study has the title of the study, the name of its cell, its values on the axes without size and seed
    (``line``), and, by task, the evaluation that is its baseline. What no evaluation measured has its ``episodes``.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    study: str = ""
    cell: str = ""
    line: str = ""
    against: Mapping[str, Path] = field(default_factory=dict)
    episodes: GatheredEpisodes | None = None

    @property
    def verb(self) -> str:
        return str(self.config["verb"])

    @property
    def is_evaluation(self) -> bool:
        """Whether its results were measured for comparison: an evaluation, or a file of episodes."""
        return self.verb in ("eval", FILE)

    @property
    def noise(self) -> str:
        """The noise of the tools: as typed for an evaluation, as seen in the episodes of a file, or empty."""
        if self.verb == FILE:
            return ", ".join(sorted(noise_kinds(self.trajectories)))
        specs = [spec.partition(":")[2] for spec in self.config.get("tools", ()) if spec.startswith(NOISE)]
        return "; ".join(dict.fromkeys(spec.partition(":")[0] for spec in specs))

    @property
    def agent(self) -> str:
        """The name of the agent that the run measured."""
        return self.episodes.agent if self.episodes else str(self.manifest["agent"])

    @property
    def description(self) -> str:
        """A line that says what the agent is."""
        return self.episodes.description if self.episodes else str(self.manifest["description"])

    @property
    def tasks(self) -> list[str]:
        """The tasks that were measured."""
        return list(self.episodes.results if self.episodes else self.manifest["results"])

    @cached_property
    def results(self) -> Mapping[str, Summary]:
        """Task -> its summary."""
        return self.episodes.results if self.episodes else read_summaries(self.manifest)

    @property
    def counts(self) -> dict[str, EpisodeCounts]:
        """The counts of its episodes by "task/method"."""
        return read_counts(self.manifest)

    @cached_property
    def trajectories(self) -> Sequence[Trajectory]:
        """The episodes of the run, which are read once."""
        if self.episodes:
            return self.episodes.trajectories
        trajectories = read_trajectories(self.path)
        return list(trajectories) if self.study else mark_trained_questions(trajectories, self.config)


def read_runs(paths: Sequence[str]) -> Iterator[ReportedRun]:
    """The complete runs behind the paths, each of them once.

    Raises DataError for any other path.
    """
    read_paths: set[Path] = set()
    for run in (run for path in map(Path, paths) for run in _expand_path(path)):
        if run.path.resolve() not in read_paths:
            read_paths.add(run.path.resolve())
            yield run


def select_measured_runs(runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    """The runs whose results a report shows: evaluations and files; without any, the runs that gathered episodes.

    Without these either, they are the mixes.
    """
    evaluations = [run for run in runs if run.is_evaluation]
    gathered = [run for run in runs if run.verb in GATHERING] or [run for run in runs if run.verb == "mix"]
    return evaluations or [replace(run, episodes=describe_episodes(run.path)) for run in gathered]


def _expand_path(path: Path) -> Iterator[ReportedRun]:
    if path.is_file():
        yield ReportedRun(path, {"verb": FILE}, {}, episodes=describe_episodes(path))
        return
    config = read_config(path)
    match config["verb"]:
        case "quickstart":
            yield from (ReportedRun(path / name, *_read_settings(path / name)) for name in STAGES)
        case "study":
            yield from _study_stages(path, Path(config.get("stages") or path))
        case "report":
            raise DataError(f"{path} is a report. Give the runs that it was made from.")
        case _:
            yield ReportedRun(path, *_read_settings(path))


def _read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_config(path), read_manifest(path)


def describe_episodes(path: Path) -> GatheredEpisodes:
    """The episodes of a file or a directory. Raises DataError where it cannot be read."""
    run = read_compared_run(path)
    tasks: dict[str, list[Trajectory]] = {}
    for trajectory in run.trajectories:
        tasks.setdefault(trajectory.task, []).append(trajectory)
    summaries = {task: _summarise_episodes(trajectories) for task, trajectories in tasks.items()}
    results = {task: summary for task, summary in summaries.items() if summary is not None}
    return GatheredEpisodes(run.agent, run.description, results, run.trajectories)


def _summarise_episodes(episodes: Sequence[Trajectory]) -> Summary | None:
    """The summary of a task's episodes; None where one without a fault is not scored."""
    scored = [episode for episode in episodes if episode.stop != "error"]
    if not scored or not all({"em", "f1"} <= episode.scores.keys() for episode in scored):
        return None
    summary = summarise_trajectories(episodes)
    trajectories_by_method: dict[str, list[Trajectory]] = {}
    for episode in scored:
        trajectories_by_method.setdefault(episode.method, []).append(episode)
    by_method = {name: summarise_group(trajectories) for name, trajectories in trajectories_by_method.items()}
    unknown_amounts: dict[str, Any] = dict.fromkeys(
        [
            *(SPENT if not any(episode.usage.calls for episode in episodes) else ()),
            *(TIMED if not any(episode.seconds for episode in episodes) else ()),
        ]
    )
    return replace(
        summary,
        measures=replace(summary.measures, **unknown_amounts),
        seconds_per_question=None,  # it depends on how many episodes ran at once, which episodes do not record
        by={"method": by_method, **summary.by} if len(by_method) > 1 else summary.by,
    )


def _study_stages(study: Path, root: Path) -> Iterator[ReportedRun]:
    """The stages of a study, each with the first cell that uses it; the last stage of a cell is its evaluation."""
    title = str(read_manifest(study)["title"])  # an incomplete study raises here; the error says how to resume it
    rows = read_study_rows(study / RESULTS)
    measured = {row.cell: root / row.stages[-1] for row in rows}
    rows_by_stage: dict[str, list[StudyRow]] = {}
    for row in rows:
        for stage in row.stages:
            rows_by_stage.setdefault(stage, []).append(row)
    for stage, (row, *more_rows) in rows_by_stage.items():
        path = root / stage
        cell = f"{row.cell} and {len(more_rows)} more" if more_rows and stage.startswith("mix/") else row.cell
        against = {
            task: measured[change.cell]
            for task, change in row.against.items()
            if path == measured[row.cell] and measured.get(change.cell, path) != path
        }
        line = ", ".join(str(value) for name, value in row.axes.items() if name not in ("size", "seed"))
        yield ReportedRun(path, *_read_settings(path), study=title, cell=cell, line=line, against=against)


def short_labels(paths: Sequence[Path]) -> dict[Path, str]:
    """A short name for each directory: its own name, with as many parents as needed to make it unique."""
    names = {path: path.name for path in paths}
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        counts = Counter(names.values())
        names = {path: "/".join(path.parts[-depth:]) if counts[name] > 1 else name for path, name in names.items()}
    return names
