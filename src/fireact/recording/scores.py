"""Scores for trajectories that have none yet: by a function of the user's, or by a file of answers.

Invariant: the file of trajectories is replaced at once or not at all; an episode that ended in a fault stays without
scores; one without a match keeps what it had, and is named.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from fireact import jsonl, names
from fireact.agents import load_task
from fireact.collection import counts
from fireact.errors import ConfigError, DataError
from fireact.store import TRAJECTORIES, RunDir, read_config, read_trajectories
from fireact.tasks.files import file_task
from fireact.types import Example, Task, Trajectory

Grader = Callable[[Trajectory], Trajectory | None]
"""The trajectory with its scores, or None where it cannot be scored."""
VERBS = ("record", "collect")
"""Whose directories are scored: in others scores have already been used."""

SHORTEST_WITHIN = 8
"""Letters of a question that is looked for within a recorded one; shorter ones would be found anywhere."""


@dataclass(slots=True)
class Grades:
    """What ``score`` did: how many it scored, their mean EM, and the ids of those that it did not."""

    scored: int = 0
    em: float = 0.0
    unmatched: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def score(
    run: Path,
    *,
    by: str | Callable[[Trajectory], Any] | None = None,
    answers: str | Path | None = None,
    task: str | None = None,
) -> Grades:
    """Score the trajectories of a run directory, or of a JSONL file, in place.

    ``by`` is a function (or module:function) of a trajectory that returns a number, a mapping of names to numbers with
    ``em`` among them, or None for no match; numbers are in [0, 1]. ``answers`` is a file (FILE[:QUESTION,ANSWER,id=ID]) of
    right answers by question or id, scored by the ``task``, or by EM and F1 as free text. Raises ConfigError or DataError.
    """
    if (by is None) == (answers is None):
        raise ConfigError("score needs one of --with module:function and --answers FILE.")
    if by is not None and task is not None:
        raise ConfigError("--task says how --answers are scored; --with scores by itself.")
    grade = by_function(by) if by is not None else by_answers(str(answers), task)
    with ExitStack() as held:
        directory = held.enter_context(_held(run)) if run.is_dir() else None
        file = run / TRAJECTORIES if directory else run
        grades = Grades()
        if directory:
            jsonl.cut_torn_tail(file)
        jsonl.write(file, (one.to_dict() for one in _graded(read_trajectories(file), grade, grades)))
        if directory and directory.complete:
            _recount(directory)
    grades.em = grades.em / grades.scored if grades.scored else 0.0
    return grades


def _held(run: Path) -> RunDir:
    settings = read_config(run)
    verb = str(settings.pop("verb", ""))
    if verb not in VERBS:
        raise ConfigError(f"{run} is of 'fireact {verb}', where scores are in use already. Score: {', '.join(VERBS)}.")
    return RunDir(run, verb=verb, settings=settings)


def _recount(run: RunDir) -> None:
    """The manifest with the new counts and the hash of the new file."""
    facts = {name: value for name, value in run.manifest.items() if name not in ("verb", "sha256", "versions")}
    run.finish(**{**facts, "counts": counts(read_trajectories(run.path))})


def _graded(trajectories: Iterator[Trajectory], grade: Grader, grades: Grades) -> Iterator[Trajectory]:
    for one in trajectories:
        if one.stop == "error":
            grades.faults.append(one.example.id)
            yield one
            continue
        found = grade(one)
        if found is None:
            grades.unmatched.append(one.example.id)
            yield one
            continue
        grades.scored += 1
        grades.em += found.scores["em"]
        yield found


def by_function(given: str | Callable[[Trajectory], Any]) -> Grader:
    """A grader from a function, or from its module:function path."""
    if isinstance(given, str) and ":" not in given:
        raise ConfigError(f"--with {given!r} is no module:function, such as my_scores:correct.")
    function = names.resolve("scorer", given) if isinstance(given, str) else given
    if not callable(function):
        raise ConfigError(f"--with {given!r} is no function.")

    def grade(trajectory: Trajectory) -> Trajectory | None:
        try:
            value = function(trajectory)
        except Exception as error:  # the user's own code; nothing has been written
            raise ConfigError(
                f"{given!r} failed on {trajectory.example.id}: {type(error).__name__}: {error}. No score was changed."
            ) from error
        return None if value is None else trajectory.with_scores(_scores(value, given, trajectory.example.id))

    return grade


def _scores(value: Any, given: Any, episode: str) -> dict[str, float]:
    found = dict(value) if isinstance(value, Mapping) else {"em": value, "f1": value}
    if "em" not in found:
        raise ConfigError(
            f"{given!r} gave {value!r} for {episode}: 'em' is missing, which 'mix --where correct' reads."
        )
    found.setdefault("f1", found["em"])
    for name, number in found.items():
        right = isinstance(number, int | float) and math.isfinite(number) and 0 <= number <= 1
        if not isinstance(name, str) or not right:
            raise ConfigError(f"{given!r} gave {name} = {number!r} for {episode}; a score is a number from 0 to 1.")
    return {name: float(number) for name, number in found.items()}


def by_answers(spec: str, task_name: str | None) -> Grader:
    """A grader from a file of right answers: the task of a file (``tasks.files``), with its aliases and scoring.

    An answer by the episode's id goes before one by its question, and a question that is the recorded one before one that
    stands within it (agents put questions into sentences of their own); of several of those the longest.
    """
    gold = file_task(_with_columns(spec))
    scorer: Task = load_task(task_name) if task_name is not None else cast(Task, gold)
    rows = {one.id: one for part in gold.by_split.values() for one in part}
    named = rows if ",id=" in _with_columns(spec) else {}
    asked: dict[str, Example] = {}
    for one in rows.values():
        if asked.setdefault(_squeezed(one.question), one).answer != one.answer and not named:
            raise DataError(f"{spec}: {one.question!r} has two answers. Delete one.")
    longest = sorted((one for one in asked if len(one) >= SHORTEST_WITHIN), key=len, reverse=True)

    def grade(trajectory: Trajectory) -> Trajectory | None:
        example = trajectory.example
        question = _squeezed(example.question)
        found = named.get(example.id) or asked.get(question) or asked.get(example.id)
        found = found or next((asked[one] for one in longest if one in question), None)
        if found is None:
            return None
        meta = {name: value for name, value in example.meta.items() if name != "aliases"}  # of an earlier scoring
        known = replace(example, answer=found.answer, meta={**meta, **found.meta})
        return replace(trajectory, example=known, scores=scorer.score(known, trajectory.answer))

    return grade


def _with_columns(spec: str) -> str:
    """A file's name with its columns, where none are given: question, else id, and answer."""
    path = Path(spec)
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        return spec
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = set(next(csv.reader(file), ()))
    else:
        columns = set(next(jsonl.read(path), {}))
    if "question" in columns:
        return f"{spec}:question,answer,id=id" if "id" in columns else spec
    return f"{spec}:id,answer" if "id" in columns else spec


def _squeezed(text: str) -> str:
    return " ".join(text.split())
