"""The verb ``report``: run directories become one page, read from what the other verbs left and nothing else."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError
from fireact.evaluation.conditions import conditions, require_comparable
from fireact.evaluation.summary import Comparison, compare
from fireact.progress import SILENT, Progress
from fireact.reporting.cases import choose
from fireact.reporting.data import Mixture, ReportAgent, ReportData, Source
from fireact.reporting.write import write
from fireact.store import RunDir, absolute, read_config, read_manifest, read_trajectories, shown
from fireact.types import Trajectory

NOISE = "noise:"
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
    """A complete run directory: its path, settings and manifest; a stage of a study has the name of its cell."""

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    cell: str = ""

    @property
    def verb(self) -> str:
        return str(self.config["verb"])


def report(config: ReportConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the report of some runs into ``out`` and return the manifest."""
    runs = list(read_runs(config.runs))
    with RunDir(out, verb="report", settings=asdict(config), force=force) as run:
        command = f"fireact report {' '.join(map(shown, config.runs))} -o {out}"
        write(assemble(runs, commands=[command]), run.path)  # each time: the runs may have changed since
        return run.finish(runs=list(config.runs))


def read_runs(paths: Sequence[str]) -> Iterator[Run]:
    """The complete runs behind the paths; a quickstart and a study stand for their stages, each of them once.

    Raises DataError for any other path.
    """
    for path in map(Path, paths):
        config = read_config(path)
        if config["verb"] == "quickstart":
            yield from (_read(path / name) for name in STAGES)
        elif config["verb"] == "study":
            read_manifest(path)  # says how to go on where it is not complete
            root, cells = Path(config.get("stages") or path), dict[str, str]()
            for row in jsonl.read(path / "results.jsonl"):
                for stage in row["stages"]:
                    cells.setdefault(str(stage), str(row["cell"]))
            yield from (replace(_read(root / stage), cell=cell) for stage, cell in cells.items())
        elif config["verb"] == "report":
            raise DataError(f"{path} is a report; give the runs that it was made from.")
        else:
            yield _read(path)


def _read(path: Path) -> Run:
    return Run(path, read_config(path), read_manifest(path))


@dataclass(frozen=True, slots=True)
class Measured:
    """An agent, the runs that measured it (of different tasks), and all their episodes."""

    agent: ReportAgent
    runs: tuple[Run, ...]
    episodes: tuple[Trajectory, ...]


def assemble(
    runs: Sequence[Run], *, title: str = "", commands: Sequence[str] = (), peak_memory_gb: float | None = None
) -> ReportData:
    """What the runs say, as one report; by default its ``title`` names the agent and the tasks.

    Raises ConfigError when none of the runs is an evaluation or two are not comparable.
    """
    evaluations = [run for run in runs if run.verb == "eval"]
    if not evaluations:
        raise ConfigError(
            f"none of {', '.join(str(run.path) for run in runs)} is a directory of 'fireact eval'. Give one."
        )
    episodes = {run.path: list(read_trajectories(run.path)) for run in evaluations}
    _require_comparable(evaluations, episodes)
    measured = list(_measured(evaluations, [run for run in runs if run.verb == "train"], episodes))
    names, results = labels([run.path for run in runs]), _by_task(measured)
    names |= {run.path: f"{run.verb}: {run.cell}" for run in runs if run.cell}
    first = measured[0].agent
    return ReportData(
        title=title or f"{_last(measured).name} on {', '.join(results)}",
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        agents=[one.agent for one in measured],
        results=results,
        comparisons=_comparisons([(measured[0], one) for one in measured[1:] if one.agent.noise == first.noise]),
        robustness=_comparisons(_with_and_without(measured)),
        task_notes={"geo-compose": "held out: shapes of questions that were never trained on"},
        training={names[run.path]: list(jsonl.read(run.path / "log.jsonl")) for run in runs if run.verb == "train"},
        mixture=_mixture(runs),
        timings={names[run.path]: run.manifest["seconds"] for run in runs},
        peak_memory_gb=peak_memory_gb,
        settings={names[run.path]: {key: value for key, value in run.config.items() if key != "verb"} for run in runs},
        commands=commands,
        cases=choose({one.agent.name: one.episodes for one in measured if one.agent.noise == first.noise}),
        sources=[*(Source(one.agent.name, one.episodes) for one in measured), *_teachers(runs, names)],
    )


def labels(paths: Sequence[Path]) -> dict[Path, str]:
    """A short name for each directory: its own, with as many of its parents as tell it from the others."""
    found = {path: path.name for path in paths}
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        counts = Counter(found.values())
        found = {path: "/".join(path.parts[-depth:]) if counts[name] > 1 else name for path, name in found.items()}
    return found


def _require_comparable(evaluations: Sequence[Run], episodes: Mapping[Path, Sequence[Trajectory]]) -> None:
    """Raise ConfigError where conditions differ; noise is the one difference that a report measures."""
    found = {
        run.path: conditions(shown(run.path), episodes[run.path], config=run.config, manifest=run.manifest)
        for run in evaluations
    }
    require_comparable([replace(one, noise=None) for one in found.values()])
    for noise in dict.fromkeys(map(_noise, evaluations)):
        require_comparable([found[run.path] for run in evaluations if _noise(run) == noise])


def _noise(run: Run) -> str:
    """What was done to the tools of a run, as it was typed; empty where nothing was."""
    specs = [spec.partition(":")[2] for spec in run.config["tools"] if spec.startswith(NOISE)]
    return "; ".join(dict.fromkeys(spec.partition(":")[0] for spec in specs))


def _measured(
    evaluations: Sequence[Run], trained: Sequence[Run], episodes: Mapping[Path, Sequence[Trajectory]]
) -> Iterator[Measured]:
    """The agents in the order of their first runs; runs of one agent under one noise on other tasks belong together."""
    groups: list[list[Run]] = []
    for run in evaluations:
        for group in groups:
            tasks = {task for one in group for task in one.manifest["results"]}
            first = group[0]
            same = (first.manifest["agent"], _noise(first), first.cell) == (
                run.manifest["agent"],
                _noise(run),
                run.cell,
            )
            if same and not tasks & set(run.manifest["results"]):
                group.append(run)
                break
        else:
            groups.append([run])
    names = [_name(group[0]) for group in groups]
    own = labels([group[0].path for group in groups])
    for name, group in zip(names, groups, strict=True):
        run = group[0]
        suffix = f" ({own[run.path]})" if names.count(name) > 1 else ""
        agent = ReportAgent(
            name=f"{name}{suffix}",
            description=run.manifest["description"] + (f", tools under noise: {_noise(run)}" if _noise(run) else ""),
            model=f"{run.manifest['agent']}{suffix if not _noise(run) else ''}",
            noise=_noise(run),
            trajectories=_learned_from(run, trained),
        )
        yield Measured(agent, tuple(group), tuple(one for run in group for one in episodes[run.path]))


def _name(run: Run) -> str:
    if run.cell:
        return run.cell
    noise = _noise(run)
    return f"{run.manifest['agent']}, noise {noise}" if noise else str(run.manifest["agent"])


def _learned_from(run: Run, trained: Sequence[Run]) -> int | None:
    """How many trajectories a fine-tuned agent learned from: by its training run, wherever that is found."""
    if not run.manifest.get("tuned"):
        return None
    for one in trained:
        if str(run.manifest["agent"]).endswith(f"+{one.manifest['adapter_sha256'][:8]}"):
            return int(one.manifest["trajectories"])
    try:
        return int(read_manifest(Path(run.config["agent"]))["trajectories"])
    except (DataError, KeyError, TypeError, ValueError):  # it was moved, or is of another kind
        return None


def _by_task(measured: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for one in measured:
        for run in one.runs:
            for task, summary in run.manifest["results"].items():
                results.setdefault(task, {})[one.agent.name] = summary
    return results


def _with_and_without(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    """Each agent under noise, after itself without."""
    clean = {one.agent.model: one for one in measured if not one.agent.noise}
    yield from ((clean[one.agent.model], one) for one in measured if one.agent.noise and one.agent.model in clean)


def _comparisons(pairs: Iterable[tuple[Measured, Measured]]) -> dict[str, dict[str, Comparison]]:
    """Each second agent against the first of its pair, on the tasks of which both were scored on some question."""
    found: dict[str, dict[str, Comparison]] = {}
    for first, second in pairs:
        for task in dict.fromkeys(one.task for one in second.episodes):
            before, after = ([one for one in each.episodes if one.task == task] for each in (first, second))
            if before:
                found.setdefault(task, {})[second.agent.name] = compare(before, after)
    return found


def _last(measured: Sequence[Measured]) -> ReportAgent:
    return [one.agent for one in measured if one.agent.noise == measured[0].agent.noise][-1]


def _teachers(runs: Sequence[Run], names: Mapping[Path, str]) -> Iterator[Source]:
    for run in runs:
        if run.verb in ("collect", "record"):
            who = run.manifest.get("teacher") or "recorded"
            yield Source(f"{names[run.path]}: {who}", list(read_trajectories(run.path)))


def _mixture(runs: Sequence[Run]) -> Mixture | None:
    collected = {name: count for run in runs if run.verb == "collect" for name, count in run.manifest["counts"].items()}
    mixed = next((run for run in runs if run.verb == "mix"), None)
    teachers = list(dict.fromkeys(run.manifest["teacher"] for run in runs if run.verb == "collect"))
    if mixed is None or not teachers:
        return None
    return Mixture(", ".join(teachers), collected, mixed.manifest["counts"], mixed.manifest["history"])
