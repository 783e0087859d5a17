"""What the cells of a study say: one row a cell, each against its baseline, and what choosing among methods would give.

Invariant: rows are read off the directories of stages and nothing else, so they can be made again at any time. Comparisons
are paired by question. Nothing is run here and nothing is written.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fireact.collection import CollectConfig
from fireact.errors import DataError
from fireact.evaluation.run import EvalConfig
from fireact.evaluation.statistics import bootstrap
from fireact.evaluation.summary import compare
from fireact.models.weights import BUILT_IN
from fireact.store import plain, read_manifest, read_trajectories
from fireact.study.cells import Cell
from fireact.study.stages import Stage
from fireact.types import FINISH, Trajectory

_REFLECTS = re.compile(
    r"\breflect|\bI should\b|\bquery should\b|\bfor the wrong thing\b|\bsearch goes well\b|\ball that I need\b",
    re.IGNORECASE,
)
"""Words by which a reflection is told: those of the released data, and of the scripted teacher."""


FEW = 5
"""Right answers below which a gain is not put in proportion to them."""
_ASKED = ("tasks", "n", "split", "order", "tools", "method", "examples", "temperature", "repairs", "native")


@dataclass
class Measured:
    """A cell that was run: its episodes by task, and the directories of its stages."""

    cell: Cell
    stages: Sequence[Stage]
    root: Path
    episodes: Mapping[str, Sequence[Trajectory]] = field(default_factory=dict)

    def manifest(self, verb: str) -> Mapping[str, Any] | None:
        """The manifest of the cell's stage of a verb (of several collections: ``collections``)."""
        stage = next((one for one in self.stages if one.verb == verb), None)
        return None if stage is None else read_manifest(stage.path(self.root))

    def collections(self) -> list[Mapping[str, Any]]:
        return [read_manifest(one.path(self.root)) for one in self.stages if one.verb == "collect"]


def measured(cell: Cell, stages: Sequence[Stage], root: Path) -> Measured:
    """Read the episodes of a cell whose stages are complete."""
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in read_trajectories(stages[-1].path(root)):
        by_task.setdefault(trajectory.task, []).append(trajectory)
    return Measured(cell, stages, root, by_task)


def row(one: Measured, other: Measured | None) -> dict[str, Any]:
    """The cell as ``results.jsonl`` holds it, compared with another one."""
    evaluation = one.manifest("eval")
    assert evaluation is not None  # a measured cell has its evaluation
    return {
        "cell": one.cell.name,
        "axes": dict(one.cell.axes),
        "settings": settings(one),
        "agent": evaluation["agent"],
        "tuned": evaluation["tuned"],
        "tools": evaluation["tools"],
        "results": {task: dict(found) for task, found in evaluation["results"].items()},
        "behaviour": {task: behaviour(found) for task, found in one.episodes.items()},
        "against": differences(one, other),
        "training": _training(one),
        "data": _data(one),
        "stages": [f"{stage.verb}/{stage.key}" for stage in one.stages],
        "versions": {
            verb: found["versions"] for verb in ("train", "tune", "eval") if (found := one.manifest(verb)) is not None
        },
    }


def settings(one: Measured) -> dict[str, Any]:
    """What a cell was made with, defaults too: its model, what that was trained on and how, and how it was asked.

    ``recipe``, ``mixture`` and ``size`` are None for a prompted cell, ``method`` for a fine-tuned one without examples.
    """
    given, tuned = one.cell.settings, one.cell.tuned
    asked = EvalConfig(agent="")
    by = {stage.verb: stage for stage in one.stages}
    recipe = asdict(by["train"].values["recipe"]) if "train" in by else {"epochs": by["tune"].epochs} if tuned else None
    evaluation = {name: by["eval"].values.get(name, getattr(asked, name)) for name in _ASKED}
    mixture = dict(by["mix"].values) if tuned else {}
    found = {
        "base": given.get("base", BUILT_IN),
        "seed": one.cell.seed,
        "noise": given.get("noise", ""),
        **evaluation,
        "method": None if tuned and not evaluation["examples"] else evaluation["method"],
        "size": mixture.pop("n", None),
        "mixture": {"name": given["mixture"], **mixture} if tuned else None,
        "recipe": recipe,
        "collections": [
            {"teacher": CollectConfig().teacher, **stage.values} for stage in one.stages if stage.verb == "collect"
        ],
    }
    return {**dict.fromkeys(found), **plain(found)}


def baseline(cell: Cell, others: Mapping[str, Measured]) -> Measured | None:
    """The cell that a cell is compared with: by its name, or, of several seeds, the one with the same seed, or the first."""
    if not cell.against:
        return None
    group = [one for one in others.values() if cell.against in (one.cell.name, one.cell.group)]
    return next((one for one in group if one.cell.seed == cell.seed), group[0] if group else None)


def differences(one: Measured, other: Measured | None) -> dict[str, Any]:
    """By task: EM and F1 of a cell less those of the other on the same questions, and EM's gain in proportion."""
    if other is None:
        return {}
    found = {
        task: _difference(other.cell.name, other.episodes.get(task, ()), own) for task, own in one.episodes.items()
    }
    return {task: change for task, change in found.items() if change is not None}


def over_seeds(cells: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """By group of cells that differ in their seed alone, and task: all its seeds less those that they are compared with.

    A question counts once, with the mean of its seeds; the interval is over questions, not over seeds that were not run.
    """
    groups: dict[str, list[tuple[Measured, Measured]]] = {}
    for one in cells.values():
        if (other := baseline(one.cell, cells)) is not None:
            groups.setdefault(one.cell.group, []).append((one, other))
    found: dict[str, dict[str, Any]] = {}
    for group, pairs in groups.items():
        others = {other.cell.group for _, other in pairs}
        if group in others:  # compared with one of its own seeds
            others = {other.cell.name for _, other in pairs}
        for task in pairs[0][0].episodes if len(pairs) > 1 else ():
            after = [replace(t, seed=one.cell.seed) for one, _ in pairs for t in one.episodes.get(task, ())]
            before = [replace(t, seed=one.cell.seed) for one, other in pairs for t in other.episodes.get(task, ())]
            if change := _difference(", ".join(sorted(others)), before, after):
                found.setdefault(group, {})[task] = change
    return found


def _difference(name: str, before: Sequence[Trajectory], after: Sequence[Trajectory]) -> dict[str, Any] | None:
    """What ``compare`` says, and the gain in proportion to what is compared with, where enough of that is right.

    None where they were not asked the same questions.
    """
    try:
        change = compare(before, after).to_dict()
    except DataError:
        return None
    level = _mean(before)
    right = level * len({one.example.id for one in before})  # a question counts once, however many seeds
    relative = change["em"]["difference"] / level if right >= FEW else None
    return {"cell": name, **change, "relative": relative}


def behaviour(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """What the agent did: turns (mean and deviation), searches a question, and the share of questions by method used."""
    scored = [one for one in trajectories if one.stop != "error"]
    turns = [len(one.steps) for one in scored]
    used = Counter(map(method_used, scored))
    costs = [one.usage.cost for one in scored]
    return {
        "turns": statistics.fmean(turns),
        "turns_deviation": statistics.pstdev(turns),
        "calls_of_tools": statistics.fmean(map(calls_of_tools, scored)),
        "used": {name: used[name] / len(scored) for name in sorted(used)},
        "usd_per_question": None if any(cost is None for cost in costs) else sum(c or 0.0 for c in costs) / len(scored),
        "noisy_steps": statistics.fmean(sum(step.noise is not None for step in one.steps) for one in scored),
    }


def method_used(trajectory: Trajectory) -> str:
    """The method that an episode's steps show: io, cot, react or reflexion (told by its words), or none without an answer."""
    steps = trajectory.steps
    if trajectory.stop != "finish":
        return "no answer"
    if len(steps) == 1:
        return "cot" if steps[0].thought else "io"
    return "reflexion" if any(_REFLECTS.search(step.thought) for step in steps) else "react"


def calls_of_tools(trajectory: Trajectory) -> int:
    """How many steps call a tool."""
    return sum(step.action is not None and step.action.name != FINISH for step in trajectory.steps)


def choice(group: Sequence[Measured], chooser: Measured | None = None) -> dict[str, Any]:
    """By task: EM if chance, the best single method, or an oracle chose each question's method, with 95 % intervals.

    Of several methods that are right the oracle takes the one with the fewest turns (paper, Tables 4 and 10). ``chosen`` are
    the shares of methods that it takes; ``chooser`` is an agent that chooses itself, on the same questions.
    """
    found: dict[str, Any] = {}
    for task in dict.fromkeys(name for one in group for name in one.episodes):
        by_cell = {
            one.cell.name: {t.example.id: t for t in one.episodes.get(task, ()) if t.stop != "error"} for one in group
        }
        shared = sorted(set.intersection(*(set(own) for own in by_cell.values())))
        if not shared:
            continue
        asked = [{name: own[key] for name, own in by_cell.items()} for key in shared]
        best = max(by_cell, key=lambda name: _mean([question[name] for question in asked]))
        taken = [
            min(question, key=lambda name: (-_em(question[name]), len(question[name].steps))) for question in asked
        ]
        oracle = [question[name] for question, name in zip(asked, taken, strict=True)]
        chosen = Counter(taken)
        found[task] = {
            "n": len(shared),
            "random": _interval([statistics.fmean(map(_em, question.values())) for question in asked]),
            "best": {"cell": best, **_interval([_em(question[best]) for question in asked])},
            "oracle": {
                **_interval(list(map(_em, oracle))),
                "turns": statistics.fmean(len(one.steps) for one in oracle),
            },
            "chooser": None if chooser is None else _chosen_by(chooser, task, shared),
            "chosen": {name: chosen[name] / len(shared) for name in by_cell},
        }
    return found


def _chosen_by(chooser: Measured, task: str, questions: Sequence[str]) -> dict[str, Any] | None:
    """What an agent that chooses its method itself makes of the same questions; None where it was not asked all of them."""
    own = {one.example.id: one for one in chooser.episodes.get(task, ()) if one.stop != "error"}
    if not set(questions) <= set(own):
        return None
    asked = [own[key] for key in questions]
    turns = statistics.fmean(len(one.steps) for one in asked)
    return {"cell": chooser.cell.name, **_interval(list(map(_em, asked))), "turns": turns}


def _interval(values: Sequence[float]) -> dict[str, Any]:
    estimate = bootstrap(values)
    return {"em": estimate.mean, "em_interval": estimate.interval}


def _em(trajectory: Trajectory) -> float:
    return trajectory.scores["em"]


def _mean(trajectories: Sequence[Trajectory]) -> float:
    scored = [_em(one) for one in trajectories if one.stop != "error"]
    return statistics.fmean(scored) if scored else 0.0


def _training(one: Measured) -> dict[str, Any] | None:
    """Of a fine-tuned cell: what its manifest says, examples a second (all epochs counted), and bytes of weights saved."""
    stage = next((stage for stage in one.stages if stage.verb == "train"), None)
    if stage is None:
        return None
    manifest, place = read_manifest(stage.path(one.root)), stage.path(one.root)
    names = ("samples", "dropped", "tokens", "target_tokens", "steps", "training_seconds", "tokens_per_second",
             "trained_parameters", "final_loss", "device")  # fmt: skip
    examples = manifest["samples"] * stage.values["recipe"].epochs
    weights = [file.stat().st_size for name in ("adapter", "model") for file in (place / name).glob("*.safetensors")]
    return {
        **{name: manifest[name] for name in names},
        "examples_per_second": examples * manifest["tokens_per_second"] / manifest["tokens"],
        "weights_bytes": sum(weights) or None,
    }


def _data(one: Measured) -> dict[str, Any] | None:
    """Of a fine-tuned cell: how many episodes were collected, how many are right, and how many are trained on."""
    mixed = one.manifest("mix")
    if mixed is None:
        return None
    used = sum(count["n"] for count in mixed["counts"].values())
    collected = [(name, count) for found in one.collections() for name, count in found["counts"].items()]
    mine = [count for name, count in collected if name in mixed["counts"]]
    return {
        "trajectories": used,
        "by_task_and_method": {name: count["n"] for name, count in mixed["counts"].items()},
        "collected": sum(count["n"] for count in mine) or None,
        "right": sum(count["correct"] for count in mine) or None,
        "history": mixed["history"],
    }
