"""The verb ``report``: run directories become one page, read from what the other verbs left and nothing else."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError
from fireact.evaluation.conditions import Conditions, conditions, differences, require_comparable
from fireact.evaluation.pairing import keyed
from fireact.evaluation.summary import Comparison, compare
from fireact.progress import SILENT, Progress
from fireact.reporting.cases import choose
from fireact.reporting.data import Mixture, ReportAgent, ReportData, Source, baselines
from fireact.reporting.runs import FILE, GATHERED, Run, labels, measuring, read_runs
from fireact.reporting.write import PAGE, write
from fireact.store import RunDir, absolute, read_config, read_manifest, shown, typed
from fireact.types import Trajectory

LARGE = 5_000_000
"""Bytes of a page above which that is said."""
UNPAIRED = ("split", "questions")
"""Conditions without which the same question is not asked twice: what differs in one of them has no paired difference."""


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """Settings of ``report``: the runs that it shows; the first agent evaluated without noise is the baseline."""

    runs: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(dict.fromkeys(map(absolute, self.runs))))


def report(config: ReportConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the report of some runs into ``out`` and return the manifest."""
    runs = list(read_runs(config.runs))
    found = assemble(runs, commands=[f"fireact report {' '.join(map(typed, config.runs))} -o {typed(out)}"])
    with RunDir(out, verb="report", settings=asdict(config), force=force) as run:
        write(found, run.path)  # each time: the runs may have changed since
        size = (run.path / PAGE).stat().st_size
        if size > LARGE:
            progress.say(
                f"{shown(run.path / PAGE)} has {size / 1e6:.1f} MB: browsers open it slowly. Report fewer runs."
            )
        return run.finish(runs=list(config.runs))


@dataclass(frozen=True, slots=True)
class Measured:
    """An agent, the runs that measured it (of different tasks), and all their episodes."""

    agent: ReportAgent
    runs: tuple[Run, ...]
    episodes: tuple[Trajectory, ...]

    def on(self, task: str) -> list[Trajectory]:
        return [one for one in self.episodes if one.task == task]

    def conditions(self, task: str) -> Conditions:
        """The conditions under which the agent was measured on a task."""
        run = next(run for run in self.runs if task in run.manifest["results"])
        return conditions(self.agent.name, self.on(task), config=run.config, manifest=run.manifest)


def assemble(
    runs: Sequence[Run], *, title: str = "", commands: Sequence[str] = (), peak_memory_gb: float | None = None
) -> ReportData:
    """What the runs say, as one report; by default its ``title`` is a study's, or names the agent and the tasks.

    Agents without noise come first. Raises ConfigError when none of the runs holds episodes or two evaluations are not comparable;
    cells of a study may differ on purpose, which the report then says.
    """
    evaluations = measuring(runs)
    if not evaluations:
        raise ConfigError(
            f"none of {', '.join(str(run.path) for run in runs)} holds episodes. Give a directory of 'fireact eval', "
            "or one of collect, record or mix, or a file of episodes."
        )
    episodes = {run.path: run.read() for run in evaluations}
    _require_comparable([run for run in evaluations if run.verb in ("eval", FILE) and not run.study], episodes)
    measured = sorted(
        _measured(evaluations, [run for run in runs if run.verb == "train"], episodes),
        key=lambda one: bool(one.agent.noise),
    )
    names, results = labels([run.path for run in runs]), _by_task(measured)
    names |= {run.path: f"{run.verb}: {run.cell}" for run in runs if run.cell}
    against = _against(measured, results)
    changes = list(_changes(measured, against))
    return ReportData(
        title=title or _title(runs, measured, results),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        agents=[one.agent for one in measured],
        results=results,
        paired=against,
        of_studies=any(run.study for run in evaluations),
        comparisons=_by_agent([one for one in changes if not one.by_noise]),
        robustness=_by_agent([one for one in changes if one.by_noise]),
        unlike=list(dict.fromkeys(said for one in changes for said in one.unlike)),
        task_notes={"geo-compose": "held out: shapes of questions that were never trained on"},
        training={names[run.path]: list(jsonl.read(run.path / "log.jsonl")) for run in runs if run.verb == "train"},
        mixtures=_mixtures(runs, names),
        timings={names[run.path]: run.manifest["seconds"] for run in runs if run.verb != FILE},
        peak_memory_gb=peak_memory_gb,
        settings={
            names[run.path]: {key: value for key, value in run.config.items() if key != "verb"}
            for run in runs
            if run.verb != FILE
        },
        commands=commands,
        cases=choose(*_side_by_side(measured, against)),
        sources=[*map(_source, measured), *_teachers([run for run in runs if run.path not in episodes], names)],
    )


def comparable(runs: Sequence[Run]) -> list[Run]:
    """The runs without those evaluations whose numbers do not compare with the first one's."""
    kept: list[Run] = []
    episodes: dict[Path, Sequence[Trajectory]] = {}
    for run in runs:
        if run.verb not in ("eval", FILE):
            kept.append(run)
            continue
        episodes[run.path] = run.read()
        try:
            _require_comparable([*(one for one in kept if one.verb in ("eval", FILE) and not one.study), run], episodes)
        except ConfigError:
            continue
        kept.append(run)
    return kept


def _require_comparable(evaluations: Sequence[Run], episodes: Mapping[Path, Sequence[Trajectory]]) -> None:
    """Raise ConfigError where conditions differ; noise is the one difference that a report measures."""
    found = {
        run.path: conditions(shown(run.path), episodes[run.path], config=run.config, manifest=run.manifest)
        for run in evaluations
    }
    require_comparable([replace(one, noise=None, disturbed=frozenset()) for one in found.values()])
    for noise in dict.fromkeys(run.noise for run in evaluations):
        require_comparable([found[run.path] for run in evaluations if run.noise == noise])


def _measured(
    evaluations: Sequence[Run], trained: Sequence[Run], episodes: Mapping[Path, Sequence[Trajectory]]
) -> Iterator[Measured]:
    """The agents in the order of their first runs; runs of one agent under one noise on other tasks belong together."""
    groups = _groups(evaluations)
    names = [_name(group[0]) for group in groups]
    own = labels([group[0].path for group in groups])
    unique = {
        group[0].path: f"{name} ({own[group[0].path]})" if names.count(name) > 1 else name
        for name, group in zip(names, groups, strict=True)
    }
    for group in groups:
        run = group[0]
        clean = _without_noise(group, groups)
        size, student = _training(run, trained)
        agent = ReportAgent(
            name=unique[run.path],
            description=run.manifest["description"] + (f", tools under noise: {run.noise}" if run.noise else ""),
            model=unique[clean.path] if clean else str(run.manifest["agent"]),
            noise=run.noise,
            trajectories=size,
            line=run.line if run.cell else student,
        )
        yield Measured(agent, tuple(group), tuple(one for run in group for one in episodes[run.path]))


def _groups(evaluations: Sequence[Run]) -> list[list[Run]]:
    """The runs of each agent: those that differ in their task alone, in the order of the first of them."""
    groups: list[list[Run]] = []
    for run in evaluations:
        key = (run.manifest["agent"], run.noise, run.cell)
        for group in groups:
            tasks = {task for one in group for task in one.manifest["results"]}
            first = group[0]
            if (first.manifest["agent"], first.noise, first.cell) == key and not tasks & set(run.manifest["results"]):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _without_noise(group: Sequence[Run], groups: Sequence[Sequence[Run]]) -> Run | None:
    """The first run of the same agent without noise, itself where it has none; a study says which it takes."""
    if not group[0].noise:
        return group[0]
    wanted = {path for run in group for path in run.against.values()}
    tasks = {task for run in group for task in run.manifest["results"]}
    clean = [one for one in groups if one[0].manifest["agent"] == group[0].manifest["agent"] and not one[0].noise]
    chosen = [one for one in clean if wanted & {run.path for run in one}]
    alike = [one for one in clean if tasks & {task for run in one for task in run.manifest["results"]}]
    return next((one[0] for one in [*chosen, *alike, *clean]), None)


def _name(run: Run) -> str:
    if run.cell:
        return run.cell
    return f"{run.manifest['agent']}, noise {run.noise}" if run.noise else str(run.manifest["agent"])


def _training(run: Run, trained: Sequence[Run]) -> tuple[int | None, str]:
    """How many trajectories a fine-tuned agent learned from and its student, by its training run wherever that is found."""
    if not run.manifest.get("tuned"):
        return None, ""
    for one in trained:
        if str(run.manifest["agent"]).endswith(f"+{one.manifest['adapter_sha256'][:8]}"):
            return int(one.manifest["trajectories"]), str(one.config["student"])
    try:
        place = Path(run.config["agent"])
        return int(read_manifest(place)["trajectories"]), str(read_config(place).get("student", ""))
    except (DataError, KeyError, TypeError, ValueError):  # it was moved, or is of another kind
        return None, ""


def _by_task(measured: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for one in measured:
        for run in one.runs:
            for task, summary in run.manifest["results"].items():
                results.setdefault(task, {})[one.agent.name] = summary
    return results


def _title(runs: Sequence[Run], measured: Sequence[Measured], results: Mapping[str, Any]) -> str:
    """The title of the studies that the runs are of; else the last agent with the tools of the first, and the tasks."""
    if studies := [run.study for run in runs if run.study]:
        return "; ".join(dict.fromkeys(studies))
    alike = [one for one in measured if one.agent.noise == measured[0].agent.noise]
    last = alike[-1]
    if not results:
        return last.agent.name
    everywhere = len(alike) == 1 or all(last.on(task) for task in results)
    return f"{last.agent.name if everywhere else f'{len(alike)} agents'} on {', '.join(results)}"


def _against(measured: Sequence[Measured], results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """With whom each agent is compared on each task: as its study says, else as in any report."""
    by_path = {run.path: one.agent for one in measured for run in one.runs}
    agents = [one.agent for one in measured]
    found = baselines(agents, results)
    if any(run.against for one in measured for run in one.runs):  # then what a study does not compare stays alone
        noisy = {agent.name for agent in agents if agent.noise}
        found = {task: {name: own[name] for name in own if name in noisy} for task, own in found.items()}
    for one in measured:
        for run in one.runs:
            for task, path in run.against.items():
                if path in by_path:
                    found.setdefault(task, {})[one.agent.name] = by_path[path].name
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """An agent against another on a task: the difference, None where none can be paired, and what else differs."""

    task: str
    first: ReportAgent
    second: ReportAgent
    comparison: Comparison | None
    unlike: Sequence[str]

    @property
    def by_noise(self) -> bool:
        return self.first.name == self.second.model != self.second.name


def _changes(measured: Sequence[Measured], against: Mapping[str, Mapping[str, str]]) -> Iterator[Change]:
    """Every agent against the one that it is compared with, and under noise against itself without, on each task."""
    named = {one.agent.name: one for one in measured}
    for task in dict.fromkeys(task for one in measured for run in one.runs for task in run.manifest["results"]):
        here = [one.agent for one in measured if one.on(task)]
        there = {agent.name for agent in here}
        pairs = list(against.get(task, {}).items())
        pairs += [(one.name, one.model) for one in here if one.noise and one.model != one.name and one.model in there]
        for name, other in dict.fromkeys(pairs):
            first, second = named[other], named[name]
            before, after = first.on(task), second.on(task)
            seeds = _share_questions(before, after)
            meant = {"noise"} if first.agent.noise != second.agent.noise else set()
            meant |= {"seed"} if seeds else set()  # of those that one agent has more than the other nothing is compared
            found = differences(first.conditions(task), second.conditions(task))
            found = [one for one in found if one.setting not in meant]
            paired = seeds or _share_questions(before, after, seeds=False)
            paired = paired and not any(one.setting in UNPAIRED for one in found)
            yield Change(
                task,
                first.agent,
                second.agent,
                compare(before, after, seeds=seeds) if paired else None,
                [f"{name} against {other}, {one}" for one in found],
            )


def _share_questions(before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True) -> bool:
    """Whether two agents answered a question both, and none twice (by several methods, where episodes were gathered)."""
    try:
        return bool(keyed(before, seeds=seeds).keys() & keyed(after, seeds=seeds).keys())
    except DataError:
        return False


def _by_agent(changes: Sequence[Change]) -> dict[str, dict[str, Comparison]]:
    """The differences by task and agent."""
    found: dict[str, dict[str, Comparison]] = {}
    for one in changes:
        if one.comparison is not None:
            found.setdefault(one.task, {})[one.second.name] = one.comparison
    return found


def _side_by_side(
    measured: Sequence[Measured], against: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, Sequence[Trajectory]]]:
    """For each task the agents whose episodes are shown beside each other: those compared with one, that one first."""
    for task in dict.fromkeys(task for one in measured for run in one.runs for task in run.manifest["results"]):
        here = [one for one in measured if one.agent.noise == measured[0].agent.noise and one.on(task)]
        if not here:
            continue
        base = against.get(task, {}).get(here[-1].agent.name)
        others = [one for one in here if against.get(task, {}).get(one.agent.name) == base and one.agent.name != base]
        first = [one for one in measured if one.agent.name == base]
        yield {one.agent.name: one.on(task) for one in [*first, *others]}


def _source(one: Measured) -> Source:
    return Source(one.agent.name, one.episodes, [run.path for run in one.runs])


def _teachers(runs: Sequence[Run], names: Mapping[Path, str]) -> Iterator[Source]:
    for run in runs:
        if run.verb in GATHERED:
            who = run.manifest.get("teacher") or "recorded"
            yield Source(f"{names[run.path]}: {who}", run.read(), [run.path])


def _mixtures(runs: Sequence[Run], names: Mapping[Path, str]) -> list[Mixture]:
    """What was mixed, with what was collected for it, at one remove or several."""
    found = []
    for run in runs:
        if run.verb == "mix" and (own := _collected(run, runs)):
            teacher = ", ".join(dict.fromkeys(str(one.manifest["teacher"]) for one in own))
            name = run.cell or names[run.path]
            found.append(Mixture(name, teacher, _counts(own), run.manifest["counts"], run.manifest.get("history", ())))
    return found


def _collected(run: Run, runs: Sequence[Run]) -> list[Run]:
    """The collections that a mix is made of; sources that have been moved are known by the names of their directories."""
    sources = list(map(Path, run.config.get("sources", ())))
    others = [one for one in runs if one.verb in ("collect", "mix") and one is not run]
    own = [one for one in others if one.path.resolve() in sources]
    own = own or [one for one in others if one.path.name in {path.name for path in sources}]
    found = [last for one in own for last in ([one] if one.verb == "collect" else _collected(one, others))]
    return list({one.path: one for one in found}.values())


def _counts(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """The counts of several collections together."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for name, count in run.manifest["counts"].items():
            found.setdefault(name, Counter()).update(count)
    return {name: dict(count) for name, count in found.items()}
