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
from fireact.evaluation.evaluate import EvalConfig
from fireact.evaluation.statistics import bootstrap_mean
from fireact.models.weights import BUILT_IN
from fireact.rollout.collection import CollectConfig
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

    def manifest(self, verb: str) -> Mapping[str, Any] | None:
        """The manifest of the cell's stage of a verb; for several collections see ``collection_manifests``."""
        stage = next((stage for stage in self.stages if stage.verb == verb), None)
        return None if stage is None else read_manifest(stage.path(self.root))

    def collection_manifests(self) -> list[Mapping[str, Any]]:
        return [read_manifest(stage.path(self.root)) for stage in self.stages if stage.verb == "collect"]


def read_cell_result(cell: Cell, stages: Sequence[Stage], root: Path) -> CellResult:
    """Read the trajectories of a cell whose stages are complete."""
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in read_trajectories(stages[-1].path(root)):
        by_task.setdefault(trajectory.task, []).append(trajectory)
    return CellResult(cell, stages, root, by_task)


def build_row(
    cell_result: CellResult, baseline_result: CellResult | None, *, varied: Collection[str] = ()
) -> dict[str, Any]:
    """The row of a cell in ``results.jsonl``, compared with a baseline; ``varied`` are the settings that axes set."""
    evaluation = cell_result.manifest("eval")
    changes, reasons = compare_with_baseline(cell_result, baseline_result, varied=varied)
    assert evaluation is not None  # a complete cell has an evaluation
    return {
        "cell": cell_result.cell.name,
        "axes": dict(cell_result.cell.axes),
        "settings": settings_of_cell(cell_result),
        "agent": evaluation["agent"],
        "tuned": evaluation["tuned"],
        "tools": evaluation["tools"],
        "results": {task: dict(result) for task, result in evaluation["results"].items()},
        "behaviour": {task: summarise_behaviour(episodes) for task, episodes in cell_result.episodes.items()},
        "against": changes,
        "not_compared": reasons,
        "training": _summarise_training(cell_result),
        "data": _summarise_data(cell_result),
        "stages": [f"{stage.verb}/{stage.key}" for stage in cell_result.stages],
        "versions": {
            verb: manifest["versions"]
            for verb in ("train", "tune", "eval")
            if (manifest := cell_result.manifest(verb)) is not None
        },
    }


def settings_of_cell(cell_result: CellResult) -> dict[str, Any]:
    """All settings of a cell, with defaults: its model, the data and the recipe of its training, and its evaluation.

    For a prompted cell ``recipe``, ``mixture`` and ``size`` are None; for a fine-tuned cell without examples
    ``method`` is None. The ``recipe`` of a job at a provider has only its epochs.
    """
    chosen, is_fine_tuned = cell_result.cell.settings, cell_result.cell.is_fine_tuned
    defaults = EvalConfig(agent="")
    stages_by_verb = {stage.verb: stage for stage in cell_result.stages}
    recipe = None
    if "train" in stages_by_verb:
        recipe = asdict(stages_by_verb["train"].values["recipe"])
    elif is_fine_tuned:
        recipe = {"epochs": stages_by_verb["tune"].epochs}
    evaluation = {name: stages_by_verb["eval"].values.get(name, getattr(defaults, name)) for name in _EVAL_SETTINGS}
    mixture = dict(stages_by_verb["mix"].values) if is_fine_tuned else {}
    all_settings = {
        "base": chosen.get("base", BUILT_IN),
        "seed": cell_result.cell.seed,
        "noise": chosen.get("noise", ""),
        **evaluation,
        "method": None if is_fine_tuned and not evaluation["examples"] else evaluation["method"],
        "size": mixture.pop("n", None),
        "mixture": {"name": chosen["mixture"], **mixture} if is_fine_tuned else None,
        "recipe": recipe,
        "collections": [
            {"teacher": CollectConfig().teacher, **stage.values}
            for stage in cell_result.stages
            if stage.verb == "collect"
        ],
    }
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
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return by task the change in EM and F1 from the baseline on the same questions, and by task why there is none.

    A change also holds EM's gain in proportion, and the ``conditions`` in which the two differ. Settings that are
    ``varied`` on purpose are no such condition.
    """
    changes: dict[str, Any] = {}
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
        setting_differences = conditions.find_differences(
            _conditions(baseline_result, before), _conditions(cell_result, after)
        )
        condition_rows = [
            {"setting": difference.setting, "before": difference.before, "after": difference.after}
            for difference in setting_differences
        ]
        changes[task] = change | {
            "conditions": [condition for condition in condition_rows if condition["setting"] not in varied]
        }
    return changes, reasons


def _conditions(cell_result: CellResult, episodes: Sequence[Trajectory]) -> conditions.Conditions:
    """The conditions of a cell's evaluation on one task."""
    eval_path = cell_result.stages[-1].path(cell_result.root) if cell_result.stages else None
    config = read_config(eval_path) if eval_path is not None and (eval_path / CONFIG).is_file() else {}
    return conditions.conditions_of(
        cell_result.cell.name, episodes, config=config, manifest=cell_result.manifest("eval")
    )


def pool_seeds(cells: Mapping[str, CellResult]) -> dict[str, dict[str, Any]]:
    """By group of cells that differ only in their seed, and by task: the change from the baselines over all seeds.

    A question counts once, with the mean of its seeds. So the interval covers other questions, but not other seeds.
    """
    pairs_by_group: dict[str, list[tuple[CellResult, CellResult]]] = {}
    for cell_result in cells.values():
        if (baseline_result := find_baseline(cell_result.cell, cells)) is not None:
            pairs_by_group.setdefault(cell_result.cell.group, []).append((cell_result, baseline_result))
    pooled: dict[str, dict[str, Any]] = {}
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


def _compare_episodes(name: str, before: Sequence[Trajectory], after: Sequence[Trajectory]) -> dict[str, Any]:
    """The comparison of two cells on one task, and the gain in proportion if the baseline has enough right answers.

    ``asked`` counts the questions that the baseline and the cell were scored on. Raises DataError if they share none.
    """
    change = compare_scores(before, after).to_dict()
    question_counts = [
        len({trajectory.example.id for trajectory in side if trajectory.stop != "error"}) for side in (before, after)
    ]
    baseline_em = _mean_em(before)
    # A question counts once, however many seeds it was asked with.
    right_count = baseline_em * len({trajectory.example.id for trajectory in before})
    relative = change["em"]["difference"] / baseline_em if right_count >= MIN_RIGHT else None
    return {"cell": name, **change, "relative": relative, "asked": question_counts}


def summarise_behaviour(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """What the agent did: turns (mean and deviation), tool calls a question, and the share of questions by method used.

    ``questions`` counts them by method used and by turns.
    """
    scored = [trajectory for trajectory in trajectories if trajectory.stop != "error"]
    turns = [len(trajectory.steps) for trajectory in scored]
    method_counts = Counter(map(classify_method, scored))
    counts = Counter((classify_method(trajectory), len(trajectory.steps)) for trajectory in scored)
    costs = [trajectory.usage.cost for trajectory in scored]
    return {
        "turns": statistics.fmean(turns),
        "turns_deviation": statistics.pstdev(turns),
        "calls_of_tools": statistics.fmean(map(count_tool_calls, scored)),
        "used": {name: method_counts[name] / len(scored) for name in sorted(method_counts)},
        "questions": {
            name: {str(n): counts[name, n] for n in sorted(set(turns)) if counts[name, n]}
            for name in sorted(method_counts)
        },
        "usd_per_question": None
        if any(cost is None for cost in costs)
        else sum(cost or 0.0 for cost in costs) / len(scored),
        "noisy_steps": statistics.fmean(
            sum(step.noise is not None for step in trajectory.steps) for trajectory in scored
        ),
    }


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


def summarise_choice(group: Sequence[CellResult], chooser: CellResult | None = None) -> dict[str, Any]:
    """By task: EM if chance, the best single method, or an oracle chose each question's method, with 95 % intervals.

    Among several methods that are right, the oracle takes the one with the fewest turns (paper, Tables 4 and 10).
    ``chosen`` holds the share of each method in its choices. ``chooser`` is an agent that chooses itself, on the same
    questions.
    """
    choices: dict[str, Any] = {}
    for task in dict.fromkeys(name for cell_result in group for name in cell_result.episodes):
        by_cell = {
            cell_result.cell.name: {
                trajectory.example.id: trajectory
                for trajectory in cell_result.episodes.get(task, ())
                if trajectory.stop != "error"
            }
            for cell_result in group
        }
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
        choices[task] = {
            "n": len(shared_ids),
            "random": _em_with_interval([statistics.fmean(map(_em, question.values())) for question in questions]),
            "best": {"cell": best_cell, **_em_with_interval([_em(question[best_cell]) for question in questions])},
            "oracle": {
                **_em_with_interval(list(map(_em, oracle))),
                "turns": statistics.fmean(len(trajectory.steps) for trajectory in oracle),
            },
            "chooser": None if chooser is None else _summarise_chooser(chooser, task, shared_ids),
            "chosen": {name: chosen[name] / len(shared_ids) for name in by_cell},
        }
    return choices


def _summarise_chooser(chooser: CellResult, task: str, questions: Sequence[str]) -> dict[str, Any] | None:
    """EM and turns of an agent that chooses its method itself; None if it was not asked all of these questions."""
    episodes_by_id = {
        trajectory.example.id: trajectory for trajectory in chooser.episodes.get(task, ()) if trajectory.stop != "error"
    }
    if not set(questions) <= set(episodes_by_id):
        return None
    chooser_episodes = [episodes_by_id[example_id] for example_id in questions]
    turns = statistics.fmean(len(trajectory.steps) for trajectory in chooser_episodes)
    return {"cell": chooser.cell.name, **_em_with_interval(list(map(_em, chooser_episodes))), "turns": turns}


def _em_with_interval(values: Sequence[float]) -> dict[str, Any]:
    estimate = bootstrap_mean(values)
    return {"em": estimate.mean, "em_interval": estimate.interval}


def _em(trajectory: Trajectory) -> float:
    return trajectory.scores["em"]


def _mean_em(trajectories: Sequence[Trajectory]) -> float:
    scored = [_em(trajectory) for trajectory in trajectories if trajectory.stop != "error"]
    return statistics.fmean(scored) if scored else 0.0


def _summarise_training(cell_result: CellResult) -> dict[str, Any] | None:
    """Facts of a fine-tuned cell's training: its manifest, examples a second, bytes of saved weights."""
    stage = next((stage for stage in cell_result.stages if stage.verb == "train"), None)
    if stage is None:
        return None
    manifest, run_path = read_manifest(stage.path(cell_result.root)), stage.path(cell_result.root)
    names = ("samples", "dropped", "tokens", "target_tokens", "steps", "training_seconds", "tokens_per_second",
             "trained_parameters", "final_loss", "device")  # fmt: skip
    examples = manifest["samples"] * stage.values["recipe"].epochs
    weights = [file.stat().st_size for name in ("adapter", "model") for file in (run_path / name).glob("*.safetensors")]
    return {
        **{name: manifest[name] for name in names},
        "examples_per_second": examples * manifest["tokens_per_second"] / manifest["tokens"],
        "weights_bytes": sum(weights) or None,
    }


def _summarise_data(cell_result: CellResult) -> dict[str, Any] | None:
    """Facts of a fine-tuned cell's data: how many episodes were collected, how many are right, how many are trained on.

    ``turns`` and ``turns_deviation`` describe the trajectories that are trained on (paper, Figure 6).
    """
    mix_manifest = cell_result.manifest("mix")
    if mix_manifest is None:
        return None
    trajectory_count = sum(count["n"] for count in mix_manifest["counts"].values())
    mixture = next(stage for stage in cell_result.stages if stage.verb == "mix")
    turns = [len(trajectory.steps) for trajectory in read_trajectories(mixture.path(cell_result.root))]
    episode_counts = [
        (name, count) for manifest in cell_result.collection_manifests() for name, count in manifest["counts"].items()
    ]
    used_counts = [count for name, count in episode_counts if name in mix_manifest["counts"]]
    return {
        "trajectories": trajectory_count,
        "turns": statistics.fmean(turns),
        "turns_deviation": statistics.pstdev(turns),
        "by_task_and_method": {name: count["n"] for name, count in mix_manifest["counts"].items()},
        "collected": sum(count["n"] for count in used_counts) or None,
        "right": sum(count["correct"] for count in used_counts) or None,
        "history": mix_manifest["history"],
    }
