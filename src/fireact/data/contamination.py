"""Whether questions of training data overlap an evaluation set: the same words, or most runs of five words.

Questions made from one pattern share most of their words and are not the same, so a pair must also share its telling
words: names, numbers, and those that few questions of the set have. Only questions are compared, not what was said or observed.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fireact.agents import load_task
from fireact.errors import ConfigError, DataError, FireactError
from fireact.names import known
from fireact.tasks.scoring import normalise
from fireact.types import Task

SPLITS = ("dev", "test")
RUN = 5
COVERED = 0.7
"""The share of an evaluation question's runs, and of its telling words, that must be found again."""
FEW, FEW_SHARE = 2, 0.05
"""A word is telling when at most so many questions of the set have it, or this share of them."""
UNKNOWN = "no task of that name is known"
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Questions of a named set, prepared for looking others up in it: their runs and telling words, and who has which run."""

    name: str
    exact: frozenset[str]
    runs: tuple[frozenset[str], ...]
    telling: tuple[frozenset[str], ...]
    holders: dict[str, tuple[int, ...]]

    def overlaps(self, question: str) -> bool:
        """Whether the set has this question, or one that is mostly the same."""
        words = normalise(question)
        if words in self.exact:
            return True
        own, shared = runs(words), Counter[int]()
        for run in own:
            shared.update(self.holders.get(run, ()))
        there = frozenset(words.split())
        return any(
            count >= COVERED * len(self.runs[index])
            and len(there & self.telling[index]) >= max(1, COVERED * len(self.telling[index]))
            for index, count in shared.items()
        )


def runs(words: str) -> frozenset[str]:
    """The runs of five words of a normalised text; none where it is shorter."""
    found = words.split()
    return frozenset(" ".join(found[at : at + RUN]) for at in range(len(found) - RUN + 1))


def prepare(name: str, questions: Iterable[str]) -> EvaluationSet:
    """An evaluation set of these questions."""
    asked = {words: question for question in questions if (words := normalise(question))}
    distinct = sorted(asked)
    spread = Counter(word for words in distinct for word in set(words.split()))
    few = max(FEW, FEW_SHARE * len(distinct))
    found = [runs(words) for words in distinct]
    holders: dict[str, list[int]] = {}
    for index, one in enumerate(found):
        for run in one:
            holders.setdefault(run, []).append(index)
    return EvaluationSet(
        name,
        frozenset(distinct),
        tuple(found),
        tuple(
            frozenset(word for word in words.split() if spread[word] <= few) | names(asked[words]) for words in distinct
        ),
        {run: tuple(at) for run, at in holders.items()},
    )


def names(question: str) -> frozenset[str]:
    """The words that are names or numbers: with a capital beyond the first word, or with a digit."""
    first, *rest = question.split() or [""]
    found = [word for word in rest if word[:1].isupper()] + [word for word in (first, *rest) if _DIGIT.search(word)]
    return frozenset(normalise(" ".join(found)).split())


@cache
def sets_against(against: str) -> tuple[EvaluationSet, ...]:
    """The sets that ``--against`` means: a file of questions, TASK:SPLIT, or TASK for its held-out splits.

    Raises ConfigError for a task or split that there is not.
    """
    if Path(against).is_file():
        return (prepare(against, questions_of(Path(against))),)
    name, _, split = against.rpartition(":")
    if name in known("task"):
        return (prepare(against, _questions(load_task(name), split)),)
    task, found = load_task(against), []
    for held in SPLITS:
        with suppress(ConfigError):  # a task need not have every split
            found.append(prepare(f"{against} {held}", _questions(task, held)))
    return tuple(found)


@cache
def held_out_of(task: str) -> tuple[tuple[EvaluationSet, ...], str]:
    """The held-out splits of a task that data names, and why there are none where there are none.

    Only a known name is looked up: one that data made up must not import and call what it names.
    """
    if task not in known("task"):
        return (), UNKNOWN
    try:
        if getattr(load_task(task), "folder", "") is None:  # its questions would be fetched from a hub, unasked
            return (), "its questions are not on this machine"
        found = sets_against(task)
    except FireactError as error:
        return (), str(error).rstrip(".")
    return found, "" if found else f"it has no {' or '.join(SPLITS)} split"


def not_compared(tasks: Iterable[str]) -> dict[str, str]:
    """The tasks of data whose held-out splits cannot be looked into, each with why."""
    return {task: why for task in tasks if (why := held_out_of(task)[1])}


def _questions(task: Task, split: str) -> list[str]:
    return [example.question for example in task.examples(split)]


def questions_of(path: Path) -> list[str]:
    """The questions of a file: JSONL, a JSON array, or CSV with a column ``question``. Raises DataError without any."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(_rows(path.suffix, text))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"cannot read questions from {path}: {error}.") from error
    found = [question for row in rows if (question := _question(row))]
    if not found:
        raise DataError(f"{path} holds no questions: its rows have no field 'question'.")
    return found


def _rows(suffix: str, text: str) -> Iterator[Any]:
    if suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
    elif text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _question(row: Any) -> str:
    if not isinstance(row, dict):
        return ""
    lowered = {str(key).lower(): value for key, value in row.items()}
    inner = lowered.get("example")
    return str(inner.get("question", "")) if isinstance(inner, dict) else str(lowered.get("question") or "")
