"""The results of a study: one row a cell, compared with its baseline, and what a choice among methods would give.

Invariant: rows are made from the directories of the stages alone, so they can be made again at any time. Comparisons
are paired by question. Nothing is run here and nothing is written.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fireact.base.run_directory import CONFIG, read_config, read_manifest, read_trajectories, to_toml_table
from fireact.errors import DataError
from fireact.evaluation import conditions
from fireact.evaluation.comparison import compare_scores
from fireact.evaluation.statistics import bootstrap_mean
from fireact.evaluation.summary import read_summaries
from fireact.reporting.rows import (
    BaselineChange,
    Behaviour,
    ChoiceScore,
    DataFacts,
    MethodChoice,
    StudyRow,
    TrainingFacts,
)
from fireact.rollout.collection import CollectConfig, read_counts
from fireact.study.cells import Cell
from fireact.study.stages import Stage
from fireact.types import FINISH, Trajectory

_REFLECTION_WORDS = re.compile(
    r"\breflect|\bI should\b|\bquery should\b|\bfor the wrong thing\b|\bsearch goes well\b|\ball that I need\b",
    re.IGNORECASE,
)
"""Words that mark a thought as a reflection, in the released data and at the scripted teacher."""

MIN_RIGHT = 5
"""A gain is put in proportion to the baseline only if the baseline has this many right answers."""
_EVAL_SETTINGS = ("tasks", "n", "split", "order", "tools", "method", "examples", "temperature", "repairs", "native")


@dataclass
class CellResult:
    """A complete cell: its trajectories by task, and its stages with the directory that holds them."""

    cell: Cell
    stages: Sequence[Stage]
    root: Path
    episodes: Mapping[str, Sequence[Trajectory]] = field(default_factory=dict)

    def stage(self, *verbs: str) -> Stage | None:
        """The cell's stage of one of these verbs; of collections there may be several."""
        return next((stage for stage in self.stages if stage.verb in verbs), None)

    def manifest(self, *verbs: str) -> Mapping[str, Any] | None:
        """The manifest of the cell's stage of one of these verbs."""
        stage = self.stage(*verbs)
        return None if stage is None else read_manifest(stage.path(self.root))

    @property
    def collections(self) -> list[Stage]:
        """The stages that collected the cell's data."""
        return [stage for stage in self.stages if stage.verb == "collect"]


def read_cell_result(cell: Cell, stages: Sequence[Stage], root: Path) -> CellResult:
    """Read the trajectories of a cell whose stages are complete."""
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in read_trajectories(stages[-1].path(root)):
        by_task.setdefault(trajectory.task, []).append(trajectory)
    return CellResult(cell, stages, root, by_task)


def build_row(cell_result: CellResult, baseline_result: CellResult | None, *, varied: Collection[str] = ()) -> StudyRow:
    """The row of a cell, compared with a baseline; ``varied`` are the settings that axes set."""
    evaluation = cell_result.manifest("eval")
    assert evaluation is not None  # a complete cell has an evaluation
    changes, reasons = compare_with_baseline(cell_result, baseline_result, varied=varied)
    manifests = {verb: cell_result.manifest(verb) for verb in ("train", "tune", "eval")}
    return StudyRow(
        cell=cell_result.cell.name,
        axes=dict(cell_result.cell.axes),
        settings=settings_of_cell(cell_result),
        **{name: evaluation[name] for name in ("agent", "tuned", "tools")},
        results=read_summaries(evaluation),
        behaviour={task: summarise_behaviour(episodes) for task, episodes in cell_result.episodes.items()},
        against=changes,
        not_compared=reasons,
        training=_summarise_training(cell_result),
        data=_summarise_data(cell_result),
        stages=[f"{stage.verb}/{stage.key}" for stage in cell_result.stages],
        versions={verb: manifest["versions"] for verb, manifest in manifests.items() if manifest is not None},
    )


def settings_of_cell(cell_result: CellResult) -> dict[str, Any]:
    """All settings of a cell, with defaults: its model, the data and the recipe of its training, and its evaluation.

    For a prompted cell ``recipe``, ``mixture`` and ``size`` are None; for a fine-tuned cell without examples
    ``method`` is None. The ``recipe`` of a job at a provider has only its epochs.
    """
    cell, evaluation, mix_stage = cell_result.cell, cell_result.stages[-1], cell_result.stage("mix")
    recipe = None
    if training := cell_result.stage("train", "tune"):
        recipe = asdict(training.values["recipe"]) if training.verb == "train" else {"epochs": training.epochs}
    mixture, config = {} if mix_stage is None else dict(mix_stage.values), evaluation.config(cell_result.root)
    all_settings = {
        "base": cell.base,
        "seed": cell.seed,
        "noise": cell.noise,
        **{name: evaluation.values.get(name, getattr(config, name)) for name in _EVAL_SETTINGS},
        "size": mixture.pop("n", None),
        "mixture": None if mix_stage is None else {"name": cell.mixture, **mixture},
        "recipe": recipe,
        "collections": [{"teacher": CollectConfig().teacher, **stage.values} for stage in cell_result.collections],
    }
    if cell.is_fine_tuned and not config.examples:
        all_settings["method"] = None
    return {**dict.fromkeys(all_settings), **to_toml_table(all_settings)}


def find_baseline(cell: Cell, results: Mapping[str, CellResult]) -> CellResult | None:
    """The cell that a cell is compared with; among several seeds the one with the same seed, else the first."""
    if not cell.against:
        return None
    candidates = [result for result in results.values() if cell.against in (result.cell.name, result.cell.group)]
    return next(
        (result for result in candidates if result.cell.seed == cell.seed), candidates[0] if candidates else None
    )


def compare_with_baseline(
    cell_result: CellResult, baseline_result: CellResult | None, *, varied: Collection[str] = ()
) -> tuple[dict[str, BaselineChange], dict[str, str]]:
    """Return by task the change in EM and F1 from the baseline on the same questions, and by task why there is none.

    Settings that are ``varied`` on purpose are no condition in which the two differ.
    """
    changes: dict[str, BaselineChange] = {}
    reasons: dict[str, str] = {}
    if baseline_result is None:
        return changes, reasons
    for task, after in cell_result.episodes.items():
        before = baseline_result.episodes.get(task, ())
        try:
            if not before:
                raise DataError("it was not asked any question of this task")
            change = _compare_episodes(baseline_result.cell.name, before, after)
        except DataError as error:
            reasons[task] = f"{baseline_result.cell.name}: {error}"
            continue
        differences = conditions.find_differences(_conditions(baseline_result, before), _conditions(cell_result, after))
        unvaried = [difference for difference in differences if difference.setting not in varied]
        changes[task] = replace(change, conditions=unvaried)
    return changes, reasons


def _conditions(cell_result: CellResult, episodes: Sequence[Trajectory]) -> conditions.Conditions:
    """The conditions of a cell's evaluation on one task."""
    eval_path = cell_result.stages[-1].path(cell_result.root) if cell_result.stages else None
    config = read_config(eval_path) if eval_path is not None and (eval_path / CONFIG).is_file() else {}
    return conditions.conditions_of(
        cell_result.cell.name, episodes, config=config, manifest=cell_result.manifest("eval")
    )


def pool_seeds(cells: Mapping[str, CellResult]) -> dict[str, dict[str, BaselineChange]]:
    """By group of cells that differ only in their seed, and by task: the change from the baselines over all seeds.

    A question counts once, with the mean of its seeds. So the interval covers other questions, but not other seeds.
    """
    pairs_by_group: dict[str, list[tuple[CellResult, CellResult]]] = {}
    for cell_result in cells.values():
        if (baseline_result := find_baseline(cell_result.cell, cells)) is not None:
            pairs_by_group.setdefault(cell_result.cell.group, []).append((cell_result, baseline_result))
    pooled: dict[str, dict[str, BaselineChange]] = {}
    for group, pairs in pairs_by_group.items():
        baseline_names = {baseline_result.cell.group for _, baseline_result in pairs}
        if group in baseline_names:  # compared with one of its own seeds
            baseline_names = {baseline_result.cell.name for _, baseline_result in pairs}
        for task in pairs[0][0].episodes if len(pairs) > 1 else ():
            # The cell's seed marks both sides of a pair, so that each seed is compared with its own baseline.
            after = [
                replace(trajectory, seed=cell_result.cell.seed)
                for cell_result, _ in pairs
                for trajectory in cell_result.episodes.get(task, ())
            ]
            before = [
                replace(trajectory, seed=cell_result.cell.seed)
                for cell_result, baseline_result in pairs
                for trajectory in baseline_result.episodes.get(task, ())
            ]
            try:
                pooled.setdefault(group, {})[task] = _compare_episodes(", ".join(sorted(baseline_names)), before, after)
            except DataError:
                continue  # the rows of the group's cells say why
    return {group: tasks for group, tasks in pooled.items() if tasks}


def _compare_episodes(name: str, before: Sequence[Trajectory], after: Sequence[Trajectory]) -> BaselineChange:
    """The comparison of two cells on one task. Raises DataError if they share no scored question."""
    scores = compare_scores(before, after)
    question_counts = [
        len({trajectory.example.id for trajectory in side if trajectory.stop != "error"}) for side in (before, after)
    ]
    baseline_em = _mean_em(before)
    # A question counts once, however many seeds it was asked with.
    right_count = baseline_em * len({trajectory.example.id for trajectory in before})
    relative = scores.em.difference.mean / baseline_em if right_count >= MIN_RIGHT else None
    return BaselineChange(name, scores, relative, question_counts)


def summarise_behaviour(trajectories: Sequence[Trajectory]) -> Behaviour:
    """What the agent did in its episodes without a fault."""
    scored = [trajectory for trajectory in trajectories if trajectory.stop != "error"]
    turns = [len(trajectory.steps) for trajectory in scored]
    method_counts = Counter(map(classify_method, scored))
    counts = Counter((classify_method(trajectory), len(trajectory.steps)) for trajectory in scored)
    costs = [trajectory.usage.cost for trajectory in scored]
    return Behaviour(
        turns=statistics.fmean(turns),
        turns_deviation=statistics.pstdev(turns),
        calls_of_tools=statistics.fmean(map(count_tool_calls, scored)),
        used={name: method_counts[name] / len(scored) for name in sorted(method_counts)},
        questions={
            name: {str(n): counts[name, n] for n in sorted(set(turns)) if counts[name, n]}
            for name in sorted(method_counts)
        },
        usd_per_question=None if None in costs else sum(cost or 0.0 for cost in costs) / len(scored),
        noisy_steps=statistics.fmean(sum(step.noise is not None for step in trajectory.steps) for trajectory in scored),
    )


def classify_method(trajectory: Trajectory) -> str:
    """The method that a trajectory's steps show: io, cot, react, reflexion (by its words), or "no answer"."""
    steps = trajectory.steps
    if trajectory.stop != "finish":
        return "no answer"
    if len(steps) == 1:
        return "cot" if steps[0].thought else "io"
    return "reflexion" if any(_REFLECTION_WORDS.search(step.thought) for step in steps) else "react"


def count_tool_calls(trajectory: Trajectory) -> int:
    """How many steps call a tool."""
    return sum(step.action is not None and step.action.name != FINISH for step in trajectory.steps)


def summarise_choice(group: Sequence[CellResult], chooser: CellResult | None = None) -> dict[str, MethodChoice]:
    """By task: EM if chance, the best single method, or an oracle chose each question's method, with 95 % intervals.

    Among several methods that are right, the oracle takes the one with the fewest turns (paper, Tables 4 and 10).
    ``chooser`` is an agent that chooses itself, on the same questions.
    """
    choices: dict[str, MethodChoice] = {}
    for task in dict.fromkeys(name for cell_result in group for name in cell_result.episodes):
        by_cell = {cell_result.cell.name: _scored_by_id(cell_result, task) for cell_result in group}
        shared_ids = sorted(set.intersection(*(set(episodes) for episodes in by_cell.values())))
        if not shared_ids:
            continue
        questions = [{name: episodes[example_id] for name, episodes in by_cell.items()} for example_id in shared_ids]
        best_cell = max(by_cell, key=lambda name: _mean_em([question[name] for question in questions]))
        oracle_names = [
            min(question, key=lambda name: (-_em(question[name]), len(question[name].steps))) for question in questions
        ]
        oracle = [question[name] for question, name in zip(questions, oracle_names, strict=True)]
        chosen = Counter(oracle_names)
        random_ems = [statistics.fmean(map(_em, question.values())) for question in questions]
        choices[task] = MethodChoice(
            n=len(shared_ids),
            random=ChoiceScore(bootstrap_mean(random_ems)),
            best=ChoiceScore(bootstrap_mean([_em(question[best_cell]) for question in questions]), cell=best_cell),
            oracle=_score_choice(oracle),
            chooser=None if chooser is None else _score_chooser(chooser, task, shared_ids),
            chosen={name: chosen[name] / len(shared_ids) for name in by_cell},
        )
    return choices


def _scored_by_id(cell_result: CellResult, task: str) -> dict[str, Trajectory]:
    """The episodes of a task that did not end in a fault, by question."""
    episodes = cell_result.episodes.get(task, ())
    return {trajectory.example.id: trajectory for trajectory in episodes if trajectory.stop != "error"}


def _score_chooser(chooser: CellResult, task: str, questions: Sequence[str]) -> ChoiceScore | None:
    """EM and turns of an agent that chooses its method itself; None if it was not asked all of these questions."""
    episodes_by_id = _scored_by_id(chooser, task)
    if not set(questions) <= set(episodes_by_id):
        return None
    return _score_choice([episodes_by_id[example_id] for example_id in questions], chooser.cell.name)


def _score_choice(episodes: Sequence[Trajectory], cell: str = "") -> ChoiceScore:
    turns = statistics.fmean(len(trajectory.steps) for trajectory in episodes)
    return ChoiceScore(bootstrap_mean(list(map(_em, episodes))), turns, cell)


def _em(trajectory: Trajectory) -> float:
    return trajectory.scores["em"]


def _mean_em(trajectories: Sequence[Trajectory]) -> float:
    scored = [_em(trajectory) for trajectory in trajectories if trajectory.stop != "error"]
    return statistics.fmean(scored) if scored else 0.0


def _summarise_training(cell_result: CellResult) -> TrainingFacts | None:
    """Facts of a fine-tuned cell's training; None for a prompted cell, and for one that a provider trained."""
    stage, manifest = cell_result.stage("train"), cell_result.manifest("train")
    if stage is None or manifest is None:
        return None
    facts, run_path = TrainingFacts.from_dict(manifest), stage.path(cell_result.root)
    weights = [file.stat().st_size for name in ("adapter", "model") for file in (run_path / name).glob("*.safetensors")]
    return replace(
        facts,
        examples_per_second=facts.samples * stage.epochs * facts.tokens_per_second / facts.tokens,
        weights_bytes=sum(weights) or None,
    )


def _summarise_data(cell_result: CellResult) -> DataFacts | None:
    """Facts of a fine-tuned cell's data: how many episodes were collected, how many are right, how many are trained on.

    Only tasks and methods that are trained on count.
    """
    mixture, manifest = cell_result.stage("mix"), cell_result.manifest("mix")
    if mixture is None or manifest is None:
        return None
    mixed = read_counts(manifest)
    turns = [len(trajectory.steps) for trajectory in read_trajectories(mixture.path(cell_result.root))]
    collected = [
        counts
        for stage in cell_result.collections
        for name, counts in read_counts(read_manifest(stage.path(cell_result.root))).items()
        if name in mixed
    ]
    return DataFacts(
        trajectories=sum(counts.n for counts in mixed.values()),
        turns=statistics.fmean(turns),
        turns_deviation=statistics.pstdev(turns),
        by_task_and_method={name: counts.n for name, counts in mixed.items()},
        collected=sum(counts.n for counts in collected) or None,
        right=sum(counts.correct for counts in collected) or None,
        history=manifest["history"],
    )
