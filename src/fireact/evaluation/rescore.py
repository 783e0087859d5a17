"""Scores a stored run again by the rule of a task, and compares the result with the scores that the run reported.

Invariant: no model runs, except a judge where one is given. Every difference from a reported score is listed, and none
is resolved. Requested questions without an episode count as wrong, as in the released code; episodes that ended in a
fault of the infrastructure are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from fireact.base.progress import SILENT, Progress
from fireact.data.sources import read_any_trajectories
from fireact.errors import ConfigError, DataError
from fireact.evaluation.statistics import Estimate, bootstrap_mean
from fireact.formats.read import find_reader
from fireact.formats.source import open_source_file
from fireact.render.released_run import read_released_run
from fireact.tasks.judge import Judge
from fireact.tasks.paper import PaperTask
from fireact.tasks.scoring import score_answer
from fireact.types import Example, Task, Trajectory

TOLERANCE = 1e-9
_SPLITS = ("train", "dev", "val", "test")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One score of one episode that differs from the reported one."""

    id: str
    question: str
    answer: str | None
    gold: str
    score: str
    theirs: float
    ours: float


@dataclass(frozen=True, slots=True)
class RescoreResult:
    """The scores of a run that was scored again, over ``n`` questions; ``missing`` of them have no episode."""

    task: str
    n: int
    missing: int
    faults: int
    finished: int
    golds: Mapping[str, int]
    """How many gold answers come from the task, and how many from the run (where the task lacks the question)."""
    means: Mapping[str, Estimate]
    reported: Mapping[str, float]
    disagreements: tuple[Disagreement, ...]
    trajectories: tuple[Trajectory, ...]
    judge: Judge | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the trajectories are left out."""
        judge = self.judge
        judged = {} if judge is None else {
            "judge_model": judge.name, "judge_unclear": judge.unclear, "judge_usage": asdict(judge.usage),
        }  # fmt: skip
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
            **judged,
        }


def read_run_trajectories(path: Path, *, task: str = "") -> Iterator[Trajectory]:
    """The trajectories of a run directory or of a file in any format, which may be the released code's ``.json``."""
    is_released = path.suffix.lower() == ".json" and _reader_name(path) in ("released-run", "")
    return read_released_run(path, task=task) if is_released else read_any_trajectories(path)


def _reader_name(path: Path) -> str:
    """The name of a file's format; empty where it is not recognised."""
    try:
        return find_reader(open_source_file(path)).name
    except DataError:
        return ""


def rescore(
    trajectories: Iterable[Trajectory],
    task: Task,
    *,
    n: int | None = None,
    judge: Judge | None = None,
    progress: Progress = SILENT,
) -> RescoreResult:
    """Score the first ``n`` episodes of a task again (all by default); the mean is over ``n``.

    A gold answer comes from the task where it has a question with the same text, else from the run.
    Raises ConfigError where the run has no episode of the task, DataError where none is left to score.
    """
    task_trajectories = _select_task(trajectories, task.name, n)
    scorable = [trajectory for trajectory in task_trajectories if trajectory.stop != "error"]
    missing = 0 if n is None else n - len(task_trajectories)
    if not scorable:
        raise DataError(f"all {len(task_trajectories)} episodes ended in a fault: none is left to score.")
    examples_by_question = _index_examples(task)
    scored = []
    progress.start("score", total=len(scorable))
    try:
        for trajectory in scorable:
            scored.append(_score_again(trajectory, task, examples_by_question, judge))
            progress.advance()
    finally:
        progress.end()
    pairs = list(zip(scorable, scored, strict=True))
    count = len(scorable) + missing
    golds = Counter(
        "task" if _find_example(trajectory.example, examples_by_question) else "run" for trajectory in scorable
    )
    return RescoreResult(
        task=task.name,
        n=count,
        missing=missing,
        faults=len(task_trajectories) - len(scorable),
        finished=sum(trajectory.stop == "finish" for trajectory in scorable),
        golds={"task": golds["task"], "run": golds["run"]},
        means={
            name: bootstrap_mean([trajectory.scores[name] for trajectory in scored] + [0.0] * missing)
            for name in scored[0].scores
        },
        reported=_average_reported(scorable, count),
        disagreements=tuple(item for before, after in pairs for item in _find_disagreements(before, after)),
        trajectories=tuple(scored),
        judge=judge,
    )


def _select_task(trajectories: Iterable[Trajectory], name: str, n: int | None) -> list[Trajectory]:
    if n is not None and n < 1:
        raise ConfigError(f"-n {n} questions cannot be scored; it is 1 at least.")
    counts_by_task: Counter[str] = Counter()

    def iterate_matching() -> Iterator[Trajectory]:
        for trajectory in trajectories:
            counts_by_task[trajectory.task] += 1
            if trajectory.task == name:
                yield trajectory

    task_trajectories = list(islice(iterate_matching(), n))
    if not task_trajectories:
        task_counts = ", ".join(f"{task} {count}" for task, count in counts_by_task.items()) or "none"
        raise ConfigError(f"the run has no episode of the task {name}. There are: {task_counts}. Give another --task.")
    return task_trajectories


def _score_again(
    trajectory: Trajectory, task: Task, examples_by_question: Mapping[str, Sequence[Example]], judge: Judge | None
) -> Trajectory:
    example = _find_example(trajectory.example, examples_by_question) or trajectory.example
    scores = score_answer(task, example, trajectory.answer)
    if judge is not None:
        scores["judge"] = judge(example, trajectory.answer)
    return replace(trajectory, example=example, scores=scores)


def _index_examples(task: Task) -> Mapping[str, Sequence[Example]]:
    """The task's examples by question. Nothing is downloaded: without the set, the run's own gold answers are used."""
    if isinstance(task, PaperTask) and task.folder is None:
        return {}
    examples_by_question: dict[str, list[Example]] = {}
    for split in getattr(task, "splits", _SPLITS):
        try:
            examples = task.examples(split)
        except ConfigError:  # a split that is not there, or has no answers
            continue
        for example in examples:
            examples_by_question.setdefault(_join_words(example.question), []).append(example)
    return examples_by_question


def _find_example(example: Example, examples_by_question: Mapping[str, Sequence[Example]]) -> Example | None:
    """The task's example with the same question; among several, the one with the same id, else the first."""
    candidates = examples_by_question.get(_join_words(example.question), ())
    return next(
        (candidate for candidate in candidates if candidate.id == example.id), candidates[0] if candidates else None
    )


def _join_words(question: str) -> str:
    return " ".join(question.split())


def _average_reported(trajectories: Sequence[Trajectory], n: int) -> dict[str, float]:
    """The reported means over ``n``, for the scores that every episode has."""
    names = [name for name in trajectories[0].scores if all(name in trajectory.scores for trajectory in trajectories)]
    return {name: sum(trajectory.scores[name] for trajectory in trajectories) / n for name in names}


def _find_disagreements(before: Trajectory, after: Trajectory) -> Iterator[Disagreement]:
    for name, ours in after.scores.items():
        theirs = before.scores.get(name)
        if theirs is not None and abs(theirs - ours) > TOLERANCE:
            example = after.example
            yield Disagreement(example.id, example.question, after.answer, example.answer, name, theirs, ours)
