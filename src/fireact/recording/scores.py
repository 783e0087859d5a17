"""Scores recorded trajectories, by a function of the user or by a file of answers.

Invariant: the file of trajectories is replaced as a whole or not at all. An episode that ended in an error stays
without scores. An episode without a match keeps its scores, and its id is reported.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from fireact.base import jsonl, names
from fireact.base.commands import GATHERING
from fireact.base.run_directory import TRAJECTORIES, RunDir, read_config, read_trajectories
from fireact.errors import ConfigError, DataError
from fireact.recording.endings import describe_endings
from fireact.rollout.episode_facts import count_episodes, read_episode_facts
from fireact.rollout.loading import load_task
from fireact.tasks.files import load_file_task
from fireact.types import Example, Task, Trajectory

Grader = Callable[[Trajectory], Trajectory | None]
"""The trajectory with its scores, or None where it cannot be scored."""
MIN_CONTAINED_CHARS = 8
"""Fewest characters of a question that may match inside a recorded one; shorter ones would match anywhere."""


@dataclass(slots=True)
class Grades:
    """The result of ``score``: how many episodes it scored, their mean EM, and the ids of the others.

    ``endings`` says how many episodes have no answer, and why.
    """

    scored: int = 0
    em: float = 0.0
    unmatched: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)


def score(
    run: Path,
    *,
    by: str | Callable[[Trajectory], Any] | None = None,
    answers: str | Path | None = None,
    task: str | None = None,
) -> Grades:
    """Score the trajectories of a run directory, or of a JSONL file, in place.

    ``by`` is a function (or module:function) of a trajectory. It returns a number, a mapping of names to numbers that
    includes ``em``, or None for no match; numbers are in [0, 1]. ``answers`` is a file (FILE[:QUESTION,ANSWER,id=ID])
    of right answers by question or id. They are scored by the ``task``, or else as free text by EM and F1. Raises
    ConfigError or DataError.
    """
    if (by is None) == (answers is None):
        raise ConfigError("score needs one of --with module:function and --answers FILE.")
    if by is not None and task is not None:
        raise ConfigError("--task says how --answers are scored; --with scores by itself.")
    grade = grader_from_function(by) if by is not None else grader_from_answers(str(answers), task)
    with ExitStack() as stack:
        directory = stack.enter_context(_open_run_dir(run)) if run.is_dir() else None
        file = run / TRAJECTORIES if directory else run
        grades = Grades()
        if directory:
            jsonl.cut_torn_tail(file)
        jsonl.write_objects(
            file, (trajectory.to_dict() for trajectory in _grade_all(read_trajectories(file), grade, grades))
        )
        if directory and directory.complete:
            _recount(directory)
        grades.endings = describe_endings(read_trajectories(file))
    grades.em = grades.em / grades.scored if grades.scored else 0.0
    return grades


def _open_run_dir(run: Path) -> RunDir:
    settings = read_config(run)
    verb = str(settings.pop("verb", ""))
    if verb not in GATHERING:
        raise ConfigError(
            f"{run} is of 'fireact {verb}', where scores are in use already. Score: {', '.join(GATHERING)}."
        )
    return RunDir(run, verb=verb, settings=settings)


def _recount(run: RunDir) -> None:
    """Write the manifest again, with the new counts and the hash of the new file."""
    facts = {name: value for name, value in run.manifest.items() if name not in ("verb", "sha256", "versions")}
    run.finish(**{**facts, "counts": count_episodes(read_episode_facts(run.path))})


def _grade_all(trajectories: Iterator[Trajectory], grade: Grader, grades: Grades) -> Iterator[Trajectory]:
    for trajectory in trajectories:
        if trajectory.stop == "error":
            grades.faults.append(trajectory.example.id)
            yield trajectory
            continue
        graded = grade(trajectory)
        if graded is None:
            grades.unmatched.append(trajectory.example.id)
            yield trajectory
            continue
        grades.scored += 1
        grades.em += graded.scores["em"]
        yield graded


def grader_from_function(scorer: str | Callable[[Trajectory], Any]) -> Grader:
    """A grader from a function, or from its module:function path."""
    if isinstance(scorer, str) and ":" not in scorer:
        raise ConfigError(f"--with {scorer!r} is no module:function, such as my_scores:correct.")
    function = names.resolve_plugin("scorer", scorer) if isinstance(scorer, str) else scorer
    if not callable(function):
        raise ConfigError(f"--with {scorer!r} is no function.")

    def grade(trajectory: Trajectory) -> Trajectory | None:
        try:
            value = function(trajectory)
        except Exception as error:  # the user's own code; nothing has been written
            raise ConfigError(
                f"{scorer!r} failed on {trajectory.example.id}: {type(error).__name__}: {error}. No score was changed."
            ) from error
        return None if value is None else trajectory.with_scores(_check_scores(value, scorer, trajectory.example.id))

    return grade


def _check_scores(value: Any, scorer: Any, episode: str) -> dict[str, float]:
    scores = dict(value) if isinstance(value, Mapping) else {"em": value, "f1": value}
    if "em" not in scores:
        raise ConfigError(
            f"{scorer!r} gave {value!r} for {episode}: 'em' is missing, which 'mix --where correct' reads."
        )
    scores.setdefault("f1", scores["em"])
    for name, number in scores.items():
        is_valid = isinstance(number, int | float) and math.isfinite(number) and 0 <= number <= 1
        if not isinstance(name, str) or not is_valid:
            raise ConfigError(f"{scorer!r} gave {name} = {number!r} for {episode}; a score is a number from 0 to 1.")
    return {name: float(number) for name, number in scores.items()}


def grader_from_answers(spec: str, task_name: str | None) -> Grader:
    """A grader from a file of right answers, which is read as a file task (``tasks.files``) with aliases and scoring.

    A match by the episode's id comes first, then one by the whole question. Last comes a question that is part of the
    recorded one, since agents put questions into their own sentences; the longest such question wins.
    """
    gold = load_file_task(_add_columns(spec))
    scorer: Task = load_task(task_name) if task_name is not None else cast(Task, gold)
    gold_examples = {example.id: example for split_examples in gold.by_split.values() for example in split_examples}
    by_id = gold_examples if ",id=" in _add_columns(spec) else {}
    by_question: dict[str, Example] = {}
    for gold_example in gold_examples.values():
        if (
            by_question.setdefault(_collapse_spaces(gold_example.question), gold_example).answer != gold_example.answer
            and not by_id
        ):
            raise DataError(f"{spec}: {gold_example.question!r} has two answers. Delete one.")
    long_questions = sorted(
        (question for question in by_question if len(question) >= MIN_CONTAINED_CHARS), key=len, reverse=True
    )

    def grade(trajectory: Trajectory) -> Trajectory | None:
        example = trajectory.example
        question = _collapse_spaces(example.question)
        gold_match = by_id.get(example.id) or by_question.get(question) or by_question.get(example.id)
        gold_match = gold_match or next(
            (by_question[candidate] for candidate in long_questions if candidate in question), None
        )
        if gold_match is None:
            return None
        meta = {
            name: value for name, value in example.meta.items() if name != "aliases"
        }  # aliases stem from an earlier scoring
        answered_example = replace(example, answer=gold_match.answer, meta={**meta, **gold_match.meta})
        return replace(trajectory, example=answered_example, scores=scorer.score(answered_example, trajectory.answer))

    return grade


def _add_columns(spec: str) -> str:
    """A file's name with its columns added where it names none: question, else id, and answer."""
    path = Path(spec)
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        return spec
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = set(next(csv.reader(file), ()))
    else:
        columns = set(next(jsonl.read_objects(path), {}))
    if "question" in columns:
        return f"{spec}:question,answer,id=id" if "id" in columns else spec
    return f"{spec}:id,answer" if "id" in columns else spec


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())
