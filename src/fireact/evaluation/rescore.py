"""Scores a stored run again by the rule of a task, and compares with the scores that the run itself reported.

Invariant: no model is run (a judge apart, where one is given); every difference from a reported score is listed, none is
decided. Questions that were asked for and have no episode count as wrong, as in the released code; episodes that a fault
of the infrastructure ended are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError
from fireact.evaluation.statistics import Estimate, bootstrap
from fireact.progress import SILENT, Progress
from fireact.store import read_trajectories
from fireact.tasks.judge import Judge
from fireact.tasks.paper import PaperTask
from fireact.tasks.released import read_released_run
from fireact.tasks.scoring import scores_of
from fireact.types import Example, Task, Trajectory

TOLERANCE = 1e-9
_SPLITS = ("train", "dev", "val", "test")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One score of one episode that is not what the run reported."""

    id: str
    question: str
    answer: str | None
    gold: str
    score: str
    theirs: float
    ours: float


@dataclass(frozen=True, slots=True)
class Rescored:
    """What scoring again gave; ``n`` questions count, ``missing`` of which have no episode."""

    task: str
    n: int
    missing: int
    faults: int
    finished: int
    golds: Mapping[str, int]
    """How many gold answers are the task's, and how many the run's own (the task has no such question at hand)."""
    means: Mapping[str, Estimate]
    reported: Mapping[str, float]
    disagreements: tuple[Disagreement, ...]
    trajectories: tuple[Trajectory, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the trajectories are left out."""
        scores = {name: mean.mean for name, mean in self.means.items()}
        return {
            "task": self.task,
            "n": self.n,
            "missing": self.missing,
            "faults": self.faults,
            "finished": self.finished,
            "golds": dict(self.golds),
            **scores,
            **{f"{name}_interval": mean.interval for name, mean in self.means.items()},
            "reported": dict(self.reported),
            "disagreements": [asdict(item) for item in self.disagreements],
        }


def read_run(path: Path, *, task: str = "") -> Iterator[Trajectory]:
    """The trajectories of a run directory, a JSONL file, or a ``.json`` file of the released code."""
    return read_released_run(path, task=task) if path.suffix.lower() == ".json" else read_trajectories(path)


def rescore(
    trajectories: Iterable[Trajectory],
    task: Task,
    *,
    n: int | None = None,
    judge: Judge | None = None,
    progress: Progress = SILENT,
) -> Rescored:
    """Score the first ``n`` episodes of a task again (all by default); the mean is over ``n``.

    Gold answers are the task's where its questions are at hand, found by the question's text, else those in the run.
    Raises ConfigError where the run has no episode of the task, DataError where none is left to score.
    """
    kept = _of_task(trajectories, task.name, n)
    sound = [trajectory for trajectory in kept if trajectory.stop != "error"]
    missing = 0 if n is None else n - len(kept)
    if not sound:
        raise DataError(f"all {len(kept)} episodes ended in a fault: none is left to score.")
    known = _known(task)
    scored = []
    progress.start("rescore", total=len(sound))
    try:
        for trajectory in sound:
            scored.append(_again(trajectory, task, known, judge))
            progress.advance()
    finally:
        progress.end()
    pairs = list(zip(sound, scored, strict=True))
    count = len(sound) + missing
    golds = Counter("task" if _own(trajectory.example, known) else "run" for trajectory in sound)
    return Rescored(
        task=task.name,
        n=count,
        missing=missing,
        faults=len(kept) - len(sound),
        finished=sum(trajectory.stop == "finish" for trajectory in sound),
        golds={"task": golds["task"], "run": golds["run"]},
        means={name: bootstrap([t.scores[name] for t in scored] + [0.0] * missing) for name in scored[0].scores},
        reported=_reported(sound, count),
        disagreements=tuple(item for before, after in pairs for item in _differences(before, after)),
        trajectories=tuple(scored),
    )


def _of_task(trajectories: Iterable[Trajectory], name: str, n: int | None) -> list[Trajectory]:
    if n is not None and n < 1:
        raise ConfigError(f"-n {n} questions cannot be scored; it is 1 at least.")
    others: Counter[str] = Counter()

    def own() -> Iterator[Trajectory]:
        for trajectory in trajectories:
            others[trajectory.task] += 1
            if trajectory.task == name:
                yield trajectory

    kept = list(islice(own(), n))
    if not kept:
        there = ", ".join(f"{task} {count}" for task, count in others.items()) or "none"
        raise ConfigError(f"the run has no episode of the task {name}. There are: {there}. Give another --task.")
    return kept


def _again(
    trajectory: Trajectory, task: Task, known: Mapping[str, Sequence[Example]], judge: Judge | None
) -> Trajectory:
    example = _own(trajectory.example, known) or trajectory.example
    scores = scores_of(task, example, trajectory.answer)
    if judge is not None:
        scores["judge"] = judge(example, trajectory.answer)
    return replace(trajectory, example=example, scores=scores)


def _known(task: Task) -> Mapping[str, Sequence[Example]]:
    """The task's examples by question. A set that would have to be fetched is not: the run holds its gold answers."""
    if isinstance(task, PaperTask) and task.folder is None:
        return {}
    found: dict[str, list[Example]] = {}
    for split in getattr(task, "splits", _SPLITS):
        try:
            examples = task.examples(split)
        except ConfigError:  # a split that is not there, or has no answers
            continue
        for example in examples:
            found.setdefault(_words(example.question), []).append(example)
    return found


def _own(example: Example, known: Mapping[str, Sequence[Example]]) -> Example | None:
    """The task's example with the same question; where a question is repeated, that with the same id if there is one."""
    found = known.get(_words(example.question), ())
    return next((one for one in found if one.id == example.id), found[0] if found else None)


def _words(question: str) -> str:
    return " ".join(question.split())


def _reported(trajectories: Sequence[Trajectory], n: int) -> dict[str, float]:
    """The run's own means over ``n``, of the scores that each of its episodes has."""
    names = [name for name in trajectories[0].scores if all(name in t.scores for t in trajectories)]
    return {name: sum(trajectory.scores[name] for trajectory in trajectories) / n for name in names}


def _differences(before: Trajectory, after: Trajectory) -> Iterator[Disagreement]:
    for name, ours in after.scores.items():
        theirs = before.scores.get(name)
        if theirs is not None and abs(theirs - ours) > TOLERANCE:
            example = after.example
            yield Disagreement(example.id, example.question, after.answer, example.answer, name, theirs, ours)
