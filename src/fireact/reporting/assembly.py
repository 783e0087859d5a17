"""The verb ``report``: makes one page from run directories. It reads only what the other verbs wrote.

    report.html   self-contained        report.md   with plots/ (SVG, and PNG for papers)        report.json

Invariant: each file is complete or absent, and ``report.json`` is written last.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fireact.base import jsonl
from fireact.base.commands import GATHERING
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import RunDir, absolute_path, read_config, read_manifest, relative_path, shell_path
from fireact.base.settings import CheckedSettings, setting
from fireact.base.verbs import Verb
from fireact.errors import ConfigError, DataError
from fireact.evaluation.breakdown import split_by_training
from fireact.evaluation.comparison import ScoreComparison, compare_scores
from fireact.evaluation.conditions import Conditions, conditions_of, find_differences, require_comparable
from fireact.evaluation.measures import summarise_group
from fireact.evaluation.pairing import index_trajectories
from fireact.evaluation.summary import Summary
from fireact.reporting.cases import choose_cases
from fireact.reporting.figures import build_plots
from fireact.reporting.html import render_html
from fireact.reporting.markdown import render_markdown
from fireact.reporting.plots import save_plot
from fireact.reporting.report_data import EpisodeSource, Mixture, ReportAgent, ReportData, default_baselines
from fireact.reporting.runs import FILE, ReportedRun, read_runs, select_measured_runs, short_labels
from fireact.reporting.summary import report_to_dict
from fireact.reporting.wording import describe_prompt_tokens, describe_trained_questions, make_encodable
from fireact.rollout.collection import EpisodeCounts
from fireact.types import Trajectory

PAGE = "report.html"
_PICTURE = re.compile(r"^(!\[.*\]\()plots/", re.MULTILINE)
LARGE = 5_000_000
"""Bytes of a page above which a message warns that it is large."""
UNPAIRED = ("split", "questions")
"""Where one of these conditions differs, two runs did not ask the same questions, so no difference can be paired."""


@dataclass(frozen=True, slots=True)
class ReportConfig(CheckedSettings):
    """Settings of ``report``. The first agent evaluated without noise is the baseline."""

    runs: Sequence[str] = setting(normalise=lambda runs: tuple(dict.fromkeys(map(absolute_path, runs))))
    """Directories of eval (and train, mix, collect), of a quickstart or study, or files of episodes."""


@dataclass(frozen=True, slots=True)
class MarkdownOption:
    """The option that prints the report."""

    markdown: bool = setting(False, panel="Output")
    """Print the report in Markdown."""


def report(config: ReportConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the report of some runs into ``out`` and return the manifest."""
    runs = list(read_runs(config.runs))
    report_data = assemble_report(
        runs, commands=[f"fireact report {' '.join(map(shell_path, config.runs))} -o {shell_path(out)}"]
    )
    with RunDir(out, verb="report", settings=config, force=force) as run:
        write_report(report_data, run.path)  # even when resumed: the runs may have changed since
        size = (run.path / PAGE).stat().st_size
        if size > LARGE:
            progress.say(
                f"{relative_path(run.path / PAGE)} has {size / 1e6:.1f} MB: browsers open it slowly. Report fewer runs."
            )
        return run.finish(runs=list(config.runs))


@dataclass(frozen=True, slots=True)
class AgentEvaluation:
    """An agent, the runs that measured it (of different tasks), and all their episodes."""

    agent: ReportAgent
    runs: tuple[ReportedRun, ...]
    episodes: tuple[Trajectory, ...]

    def episodes_on(self, task: str) -> list[Trajectory]:
        return [episode for episode in self.episodes if episode.task == task]

    def conditions(self, task: str) -> Conditions:
        """The conditions under which the agent was measured on a task."""
        run = next(run for run in self.runs if task in run.tasks)
        return conditions_of(self.agent.name, self.episodes_on(task), config=run.config, manifest=run.manifest)


def assemble_report(
    runs: Sequence[ReportedRun], *, title: str = "", commands: Sequence[str] = (), peak_memory_gb: float | None = None
) -> ReportData:
    """One report of the runs; without ``title`` it has the title of the study, or names the agent and the tasks.

    Agents without noise come first. Raises ConfigError when no run holds episodes, or when two evaluations are not
    comparable. Cells of a study may differ on purpose; the report then names the differences.
    """
    eval_runs = select_measured_runs(runs)
    if not eval_runs:
        raise ConfigError(
            f"none of {', '.join(str(run.path) for run in runs)} holds episodes. Give a directory of 'fireact eval', "
            "or one of collect, record or mix, or a file of episodes."
        )
    _require_comparable([run for run in eval_runs if run.is_evaluation and not run.study])
    training_runs, measured_paths = [run for run in runs if run.verb == "train"], {run.path for run in eval_runs}
    evaluations = sorted(_group_by_agent(eval_runs, training_runs), key=lambda evaluation: bool(evaluation.agent.noise))
    names, results = short_labels([run.path for run in runs]), _results_by_task(evaluations)
    names |= {run.path: f"{run.verb}: {run.cell}" for run in runs if run.cell}
    against = _find_baselines(evaluations, results)
    changes = list(_compute_changes(evaluations, against))
    return ReportData(
        title=title or _title(runs, evaluations, results),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        agents=[evaluation.agent for evaluation in evaluations],
        results=results,
        paired=against,
        of_studies=any(run.study for run in eval_runs),
        comparisons=_comparisons_by_agent([change for change in changes if not change.by_noise]),
        robustness=_comparisons_by_agent([change for change in changes if change.by_noise]),
        unlike=list(dict.fromkeys(difference for change in changes for difference in change.unlike)),
        cautions=list(_list_cautions(evaluations)),
        task_notes={"geo-compose": "held out: shapes of questions that were never trained on"},
        training={names[run.path]: list(jsonl.read_objects(run.path / "log.jsonl")) for run in training_runs},
        mixtures=_mixtures(runs, names),
        timings={names[run.path]: run.manifest["seconds"] for run in runs if run.verb != FILE},
        peak_memory_gb=peak_memory_gb,
        settings={
            names[run.path]: {key: value for key, value in run.config.items() if key != "verb"}
            for run in runs
            if run.verb != FILE
        },
        commands=commands,
        cases=choose_cases(*_episodes_side_by_side(evaluations, against)),
        sources=[
            *(
                EpisodeSource(evaluation.agent.name, evaluation.episodes, [run.path for run in evaluation.runs])
                for evaluation in evaluations
            ),
            *(
                EpisodeSource(
                    f"{names[run.path]}: {run.manifest.get('teacher') or 'recorded'}", run.trajectories, [run.path]
                )
                for run in runs
                if run.verb in GATHERING and run.path not in measured_paths
            ),
        ],
    )


def _list_cautions(evaluations: Sequence[AgentEvaluation]) -> Iterator[str]:
    """Questions that an agent was trained on, with EM apart, and what its prompt takes."""
    for evaluation in evaluations:
        for task in dict.fromkeys(episode.task for episode in evaluation.episodes):
            scored = [episode for episode in evaluation.episodes_on(task) if {"em", "f1"} <= episode.scores.keys()]
            if groups := split_by_training(scored):
                summaries = {value: summarise_group(group) for value, group in groups.items()}
                yield f"{evaluation.agent.name}, {describe_trained_questions(task, summaries)}"
        prompts = (run.manifest.get("prompt") for run in evaluation.runs if run.is_evaluation)
        if prompt := next(filter(None, prompts), None):
            yield f"{evaluation.agent.name}, {describe_prompt_tokens(prompt)}"


def select_comparable(runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    """The runs without the evaluations that are not comparable with the earlier ones."""
    accepted_runs: list[ReportedRun] = []
    for run in runs:
        earlier_runs = [accepted for accepted in accepted_runs if accepted.is_evaluation and not accepted.study]
        try:
            _require_comparable([*earlier_runs, run] if run.is_evaluation else [])
        except ConfigError:
            continue
        accepted_runs.append(run)
    return accepted_runs


def _require_comparable(eval_runs: Sequence[ReportedRun]) -> None:
    """Raise ConfigError where conditions differ; only noise may differ, because a report measures its effect."""
    conditions_by_path = {
        run.path: conditions_of(relative_path(run.path), run.trajectories, config=run.config, manifest=run.manifest)
        for run in eval_runs
    }
    require_comparable(
        [replace(run_conditions, noise=None, disturbed=frozenset()) for run_conditions in conditions_by_path.values()]
    )
    for noise in dict.fromkeys(run.noise for run in eval_runs):
        require_comparable([conditions_by_path[run.path] for run in eval_runs if run.noise == noise])


def _group_by_agent(
    eval_runs: Sequence[ReportedRun], training_runs: Sequence[ReportedRun]
) -> Iterator[AgentEvaluation]:
    """The agents in the order of their first runs; an agent has all runs under the same noise, each on other tasks."""
    groups = _group_runs(eval_runs)
    names = [run.cell or (f"{run.agent}, noise {run.noise}" if run.noise else run.agent) for run, *_ in groups]
    path_labels = short_labels([group[0].path for group in groups])
    unique = {
        group[0].path: f"{name} ({path_labels[group[0].path]})" if names.count(name) > 1 else name
        for name, group in zip(names, groups, strict=True)
    }
    for group in groups:
        run = group[0]
        clean = _without_noise(group, groups)
        size, student = _training_of(run, training_runs)
        agent = ReportAgent(
            name=unique[run.path],
            description=run.description + (f", tools under noise: {run.noise}" if run.noise else ""),
            model=unique[clean.path] if clean else run.agent,
            noise=run.noise,
            trajectories=size,
            line=run.line if run.cell else student,
            tuned=run.manifest.get("tuned"),
        )
        yield AgentEvaluation(agent, tuple(group), tuple(episode for run in group for episode in run.trajectories))


def _group_runs(eval_runs: Sequence[ReportedRun]) -> list[list[ReportedRun]]:
    """The runs of each agent: a group holds runs that differ only in their tasks; groups keep the order of the runs."""
    groups: list[list[ReportedRun]] = []
    for run in eval_runs:
        key = (run.agent, run.noise, run.cell)
        for group in groups:
            tasks = {task for grouped_run in group for task in grouped_run.tasks}
            first = group[0]
            if (first.agent, first.noise, first.cell) == key and not tasks & set(run.tasks):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _without_noise(group: Sequence[ReportedRun], groups: Sequence[Sequence[ReportedRun]]) -> ReportedRun | None:
    """The first run of the same agent without noise: preferably the baseline of its study, or one of the same tasks."""
    if not group[0].noise:
        return group[0]
    compared_paths = {path for run in group for path in run.against.values()}
    tasks = {task for run in group for task in run.tasks}
    clean_groups = [runs for runs in groups if runs[0].agent == group[0].agent and not runs[0].noise]
    compared_groups = [runs for runs in clean_groups if compared_paths & {run.path for run in runs}]
    same_task_groups = [runs for runs in clean_groups if tasks & {task for run in runs for task in run.tasks}]
    return next((runs[0] for runs in [*compared_groups, *same_task_groups, *clean_groups]), None)


def _training_of(run: ReportedRun, training_runs: Sequence[ReportedRun]) -> tuple[int | None, str]:
    """How many trajectories a fine-tuned agent learned from, and its student; (None, "") where its run is not found."""
    if not run.manifest.get("tuned"):
        return None, ""
    for training_run in training_runs:
        if run.agent.endswith(f"+{training_run.manifest['adapter_sha256'][:8]}"):
            return int(training_run.manifest["trajectories"]), str(training_run.config["student"])
    try:
        agent_dir = Path(run.config["agent"])
        return int(read_manifest(agent_dir)["trajectories"]), str(read_config(agent_dir).get("student", ""))
    except (DataError, KeyError, TypeError, ValueError):  # the directory was moved, or is of another kind
        return None, ""


def _results_by_task(evaluations: Sequence[AgentEvaluation]) -> dict[str, dict[str, Summary]]:
    results: dict[str, dict[str, Summary]] = {}
    for evaluation in evaluations:
        for run in evaluation.runs:
            for task, summary in run.results.items():
                results.setdefault(task, {})[evaluation.agent.name] = summary
    return results


def _title(runs: Sequence[ReportedRun], evaluations: Sequence[AgentEvaluation], results: Mapping[str, Any]) -> str:
    """The titles of the studies; without a study, the last agent with the noise of the first agent, and the tasks."""
    if studies := [run.study for run in runs if run.study]:
        return "; ".join(dict.fromkeys(studies))
    same_tools = [evaluation for evaluation in evaluations if evaluation.agent.noise == evaluations[0].agent.noise]
    last = same_tools[-1]
    if not results:
        return last.agent.name
    everywhere = len(same_tools) == 1 or all(last.episodes_on(task) for task in results)
    return f"{last.agent.name if everywhere else f'{len(same_tools)} agents'} on {', '.join(results)}"


def _find_baselines(
    evaluations: Sequence[AgentEvaluation], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Task -> agent -> its baseline: from its study, else from ``default_baselines``."""
    by_path = {run.path: evaluation.agent for evaluation in evaluations for run in evaluation.runs}
    agents = [evaluation.agent for evaluation in evaluations]
    baseline_names = default_baselines(agents, results)
    if any(
        run.against for evaluation in evaluations for run in evaluation.runs
    ):  # an agent without a baseline in its study gets none
        noisy = {agent.name for agent in agents if agent.noise}
        baseline_names = {
            task: {name: by_agent[name] for name in by_agent if name in noisy}
            for task, by_agent in baseline_names.items()
        }
    for evaluation in evaluations:
        for run in evaluation.runs:
            for task, path in run.against.items():
                if path in by_path:
                    baseline_names.setdefault(task, {})[evaluation.agent.name] = by_path[path].name
    return baseline_names


@dataclass(frozen=True, slots=True)
class AgentChange:
    """The change from one agent to another on a task (None where nothing can be paired), and what else differs."""

    task: str
    first: ReportAgent
    second: ReportAgent
    comparison: ScoreComparison | None
    unlike: Sequence[str]

    @property
    def by_noise(self) -> bool:
        return self.first.name == self.second.model != self.second.name


def _compute_changes(
    evaluations: Sequence[AgentEvaluation], against: Mapping[str, Mapping[str, str]]
) -> Iterator[AgentChange]:
    """On each task, every agent against its baseline, and every agent under noise against itself without noise."""
    by_name = {evaluation.agent.name: evaluation for evaluation in evaluations}
    for task in dict.fromkeys(task for evaluation in evaluations for run in evaluation.runs for task in run.tasks):
        agents = [evaluation.agent for evaluation in evaluations if evaluation.episodes_on(task)]
        agent_names = {agent.name for agent in agents}
        pairs = list(against.get(task, {}).items())
        pairs += [
            (agent.name, agent.model)
            for agent in agents
            if agent.noise and agent.model != agent.name and agent.model in agent_names
        ]
        for name, baseline_name in dict.fromkeys(pairs):
            first, second = by_name[baseline_name], by_name[name]
            before, after = first.episodes_on(task), second.episodes_on(task)
            seeds = _share_questions(before, after)
            intended = {"noise"} if first.agent.noise != second.agent.noise else set()
            intended |= (
                {"seed"} if seeds else set()
            )  # only common seeds are compared, so further seeds of one side do not matter
            differing = find_differences(first.conditions(task), second.conditions(task))
            differing = [difference for difference in differing if difference.setting not in intended]
            paired = seeds or _share_questions(before, after, seeds=False)
            paired = paired and not any(difference.setting in UNPAIRED for difference in differing)
            yield AgentChange(
                task,
                first.agent,
                second.agent,
                compare_scores(before, after, seeds=seeds) if paired else None,
                [f"{name} against {baseline_name}, {difference}" for difference in differing],
            )


def _share_questions(before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True) -> bool:
    """Whether two agents have a question in common, and neither answered one twice (by several methods, say)."""
    try:
        return bool(index_trajectories(before, seeds=seeds).keys() & index_trajectories(after, seeds=seeds).keys())
    except DataError:
        return False


def _comparisons_by_agent(changes: Sequence[AgentChange]) -> dict[str, dict[str, ScoreComparison]]:
    """Task -> agent -> its comparison."""
    by_task: dict[str, dict[str, ScoreComparison]] = {}
    for change in changes:
        if change.comparison is not None:
            by_task.setdefault(change.task, {})[change.second.name] = change.comparison
    return by_task


def _episodes_side_by_side(
    evaluations: Sequence[AgentEvaluation], against: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, Sequence[Trajectory]]]:
    """For each task, the episodes by agent to show side by side: first a baseline, then the agents compared with it."""
    for task in dict.fromkeys(task for evaluation in evaluations for run in evaluation.runs for task in run.tasks):
        same_tools = [
            evaluation
            for evaluation in evaluations
            if evaluation.agent.noise == evaluations[0].agent.noise and evaluation.episodes_on(task)
        ]
        if not same_tools:
            continue
        baseline_name = against.get(task, {}).get(same_tools[-1].agent.name)
        compared = [
            evaluation
            for evaluation in same_tools
            if against.get(task, {}).get(evaluation.agent.name) == baseline_name
            and evaluation.agent.name != baseline_name
        ]
        baseline_evaluations = [evaluation for evaluation in evaluations if evaluation.agent.name == baseline_name]
        yield {evaluation.agent.name: evaluation.episodes_on(task) for evaluation in [*baseline_evaluations, *compared]}


def _mixtures(runs: Sequence[ReportedRun], names: Mapping[Path, str]) -> list[Mixture]:
    """The mixtures, each with the collections behind it, also where a mix was made from other mixes."""
    mixtures = []
    for run in runs:
        if run.verb == "mix" and (collections := _collections_of(run, runs)):
            teacher = ", ".join(dict.fromkeys(str(collection.manifest["teacher"]) for collection in collections))
            name = run.cell or names[run.path]
            history = run.manifest.get("history", ())
            mixtures.append(Mixture(name, teacher, _sum_counts(collections), run.counts, history))
    return mixtures


def _collections_of(run: ReportedRun, runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    """The collections behind a mix. Sources that were moved are found by the names of their directories."""
    sources = list(map(Path, run.config.get("sources", ())))
    candidates = [candidate for candidate in runs if candidate.verb in ("collect", "mix") and candidate is not run]
    matching_runs = [candidate for candidate in candidates if candidate.path.resolve() in sources]
    matching_runs = matching_runs or [
        candidate for candidate in candidates if candidate.path.name in {path.name for path in sources}
    ]
    collections = [
        collection
        for source_run in matching_runs
        for collection in ([source_run] if source_run.verb == "collect" else _collections_of(source_run, candidates))
    ]
    return list({collection.path: collection for collection in collections}.values())


def _sum_counts(runs: Sequence[ReportedRun]) -> dict[str, EpisodeCounts]:
    """The counts of several collections, added up."""
    totals: dict[str, EpisodeCounts] = {}
    for name, counts in (item for run in runs for item in run.counts.items()):
        totals[name] = totals.get(name, EpisodeCounts()) + counts
    return totals


def read_printable_markdown(directory: Path) -> str:
    """The Markdown report of a directory with absolute paths of pictures, so that it can be read anywhere."""
    markdown_text = (directory / "report.md").read_text(encoding="utf-8")
    directory_url = quote(directory.resolve().as_posix())
    return _PICTURE.sub(rf"\g<1>{directory_url}/plots/", markdown_text)


def write_report(report: ReportData, directory: Path) -> None:
    """Write every form of the report; replaces the files of an earlier report."""
    plots = build_plots(report)
    for plot in plots:
        save_plot(plot, directory / "plots")
    files = {
        "report.md": render_markdown(report, plots={f"plots/{plot.name}.svg": plot.words for plot in plots}),
        PAGE: render_html(report),
        "report.json": json.dumps(report_to_dict(report), ensure_ascii=False, indent=1) + "\n",
    }
    for name, text in files.items():
        jsonl.replace_text(directory / name, make_encodable(text))


REPORT = Verb(
    "report", ReportConfig, report, out="runs/report", out_help="Where report.html, report.md and report.json go.",
    example="`fireact report runs/eval-base runs/eval-fireact runs/train -o runs/report`",
    shorthand=MarkdownOption, has_dry_run=False,
    command_line="fireact.cli.running:report_command",
)  # fmt: skip
