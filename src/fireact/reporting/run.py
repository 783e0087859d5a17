"""The verb ``report``: run directories become one page, read from what the other verbs left and nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError
from fireact.evaluation.conditions import conditions, require_comparable
from fireact.evaluation.summary import Comparison, compare
from fireact.progress import SILENT, Progress
from fireact.reporting.cases import choose
from fireact.reporting.data import Mixture, ReportAgent, ReportData
from fireact.reporting.write import write
from fireact.store import RunDir, absolute, read_config, read_manifest, read_trajectories, shown
from fireact.types import Trajectory

STAGES = ("collect", "mix", "train", "eval-base", "eval-fireact")
"""What a quickstart directory holds, in order."""


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """Settings of ``report``: the runs that it shows; the first agent evaluated is the baseline."""

    runs: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(map(absolute, self.runs)))


@dataclass(frozen=True, slots=True)
class Run:
    """A complete run directory: its path, settings and manifest."""

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def verb(self) -> str:
        return str(self.config["verb"])


def report(config: ReportConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the report of some runs into ``out`` and return the manifest."""
    runs = list(read_runs(config.runs))
    with RunDir(out, verb="report", settings=asdict(config), force=force) as run:
        if not run.complete:
            data = assemble(
                runs, title="FireAct report", commands=[f"fireact report {' '.join(map(shown, config.runs))} -o {out}"]
            )
            write(data, run.path)
            run.finish(runs=list(config.runs))
        return run.manifest


def read_runs(paths: Sequence[str]) -> Iterator[Run]:
    """The complete runs behind the paths; a quickstart stands for its stages. Raises DataError for any other path."""
    for path in map(Path, paths):
        config = read_config(path)
        if config["verb"] == "quickstart":
            yield from (Run(path / name, read_config(path / name), read_manifest(path / name)) for name in STAGES)
        elif config["verb"] == "report":
            raise DataError(f"{path} is a report; give the runs that it was made from.")
        else:
            yield Run(path, config, read_manifest(path))


def assemble(
    runs: Sequence[Run], *, title: str, commands: Sequence[str] = (), peak_memory_gb: float | None = None
) -> ReportData:
    """What the runs say, as one report. Raises ConfigError when none of them is an evaluation or two are not comparable."""
    evaluations = [run for run in runs if run.verb == "eval"]
    if not evaluations:
        raise ConfigError(
            f"none of {', '.join(str(run.path) for run in runs)} is a directory of 'fireact eval'. Give one."
        )
    episodes = {run.manifest["agent"]: list(read_trajectories(run.path)) for run in evaluations}
    require_comparable(
        [
            conditions(shown(run.path), episodes[run.manifest["agent"]], config=run.config, manifest=run.manifest)
            for run in evaluations
        ]
    )
    return ReportData(
        title=title,
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        agents=[ReportAgent(run.manifest["agent"], run.manifest["description"]) for run in evaluations],
        results=_by_task(evaluations),
        comparisons=_comparisons(episodes),
        task_notes={"geo-compose": "held out: shapes of questions that were never trained on"},
        training=[row for run in runs if run.verb == "train" for row in jsonl.read(run.path / "log.jsonl")],
        mixture=_mixture(runs),
        timings={run.path.name: run.manifest["seconds"] for run in runs},
        peak_memory_gb=peak_memory_gb,
        settings={run.path.name: {key: value for key, value in run.config.items() if key != "verb"} for run in runs},
        commands=commands,
        cases=choose(episodes),
    )


def _by_task(evaluations: Sequence[Run]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for run in evaluations:
        for task, summary in run.manifest["results"].items():
            results.setdefault(task, {})[run.manifest["agent"]] = summary
    return results


def _comparisons(episodes: Mapping[str, Sequence[Trajectory]]) -> dict[str, dict[str, Comparison]]:
    """Every agent against the first, on the tasks that both were asked."""
    (_, baseline), *others = episodes.items()
    found: dict[str, dict[str, Comparison]] = {}
    for name, own in others:
        for task in dict.fromkeys(one.task for one in own):
            before = [one for one in baseline if one.task == task]
            if before:
                found.setdefault(task, {})[name] = compare(before, [one for one in own if one.task == task])
    return found


def _mixture(runs: Sequence[Run]) -> Mixture | None:
    collected = {name: count for run in runs if run.verb == "collect" for name, count in run.manifest["counts"].items()}
    mixed = next((run for run in runs if run.verb == "mix"), None)
    teachers = [run.manifest["teacher"] for run in runs if run.verb == "collect"]
    if mixed is None or not teachers:
        return None
    return Mixture(", ".join(teachers), collected, mixed.manifest["counts"], mixed.manifest["history"])
