"""Whether questions of training data overlap an evaluation set: the same words, or most of its 5-grams.

Questions made from one pattern share most of their words and still differ. So a pair must also share its distinctive
words: names, numbers, and words that few questions of the set have. Only questions are compared, not the steps.
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

from fireact.base.names import known_names
from fireact.errors import ConfigError, DataError, FireactError
from fireact.rollout.loading import load_task
from fireact.tasks.scoring import normalise_answer
from fireact.types import Task

SPLITS = ("dev", "test")
NGRAM = 5
MIN_COVERAGE = 0.7
"""The share of an evaluation question's n-grams, and of its distinctive words, that a question must contain."""
MAX_COUNT, MAX_SHARE = 2, 0.05
"""A word is distinctive when at most this number, or this share, of the set's questions have it."""
UNKNOWN = "no task of that name is known"
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The questions of a named set, indexed for look-up: ``holders`` maps each n-gram to the questions that have it."""

    name: str
    exact: frozenset[str]
    ngrams: tuple[frozenset[str], ...]
    distinctive: tuple[frozenset[str], ...]
    holders: dict[str, tuple[int, ...]]

    def overlaps(self, question: str) -> bool:
        """Whether the set has this question, or one that is mostly the same."""
        words = normalise_answer(question)
        if words in self.exact:
            return True
        question_ngrams, shared = word_ngrams(words), Counter[int]()
        for ngram in question_ngrams:
            shared.update(self.holders.get(ngram, ()))
        question_words = frozenset(words.split())
        return any(
            count >= MIN_COVERAGE * len(self.ngrams[index])
            and len(question_words & self.distinctive[index]) >= max(1, MIN_COVERAGE * len(self.distinctive[index]))
            for index, count in shared.items()
        )


def word_ngrams(words: str) -> frozenset[str]:
    """The 5-grams of a normalised text; a shorter text has none."""
    word_list = words.split()
    return frozenset(" ".join(word_list[start : start + NGRAM]) for start in range(len(word_list) - NGRAM + 1))


def prepare_evaluation_set(name: str, questions: Iterable[str]) -> EvaluationSet:
    """An evaluation set of these questions."""
    originals = {words: question for question in questions if (words := normalise_answer(question))}
    distinct = sorted(originals)
    word_counts = Counter(word for words in distinct for word in set(words.split()))
    rare_limit = max(MAX_COUNT, MAX_SHARE * len(distinct))
    ngram_sets = [word_ngrams(words) for words in distinct]
    holders: dict[str, list[int]] = {}
    for index, ngrams in enumerate(ngram_sets):
        for ngram in ngrams:
            holders.setdefault(ngram, []).append(index)
    return EvaluationSet(
        name,
        frozenset(distinct),
        tuple(ngram_sets),
        tuple(
            frozenset(word for word in words.split() if word_counts[word] <= rare_limit)
            | find_names_and_numbers(originals[words])
            for words in distinct
        ),
        {ngram: tuple(indices) for ngram, indices in holders.items()},
    )


def find_names_and_numbers(question: str) -> frozenset[str]:
    """The words that are names or numbers: with a capital beyond the first word, or with a digit."""
    first, *later_words = question.split() or [""]
    marked_words = [word for word in later_words if word[:1].isupper()] + [
        word for word in (first, *later_words) if _DIGIT.search(word)
    ]
    return frozenset(normalise_answer(" ".join(marked_words)).split())


@cache
def load_evaluation_sets(against: str) -> tuple[EvaluationSet, ...]:
    """The sets that ``--against`` names: a file of questions, TASK:SPLIT, or TASK for its held-out splits.

    Raises ConfigError for an unknown task or split.
    """
    if Path(against).is_file():
        return (prepare_evaluation_set(against, read_questions(Path(against))),)
    name, _, split = against.rpartition(":")
    if name in known_names("task"):
        return (prepare_evaluation_set(against, _questions_of_split(load_task(name), split)),)
    task, sets = load_task(against), []
    for held_split in SPLITS:
        with suppress(ConfigError):  # a task need not have every split
            sets.append(prepare_evaluation_set(f"{against} {held_split}", _questions_of_split(task, held_split)))
    return tuple(sets)


@cache
def load_held_out_sets(task: str) -> tuple[tuple[EvaluationSet, ...], str]:
    """The held-out splits of a task that the data names, and the reason where there are none.

    Only a known name is looked up: a name invented in the data must not import and call code.
    """
    if task not in known_names("task"):
        return (), UNKNOWN
    try:
        if getattr(load_task(task), "folder", "") is None:  # the user did not ask for a download from a hub
            return (), "its questions are not on this machine"
        sets = load_evaluation_sets(task)
    except FireactError as error:
        return (), str(error).rstrip(".")
    return sets, "" if sets else f"it has no {' or '.join(SPLITS)} split"


def find_uncompared_tasks(tasks: Iterable[str]) -> dict[str, str]:
    """The tasks in the data whose held-out splits cannot be read, each with the reason."""
    return {task: why for task in tasks if (why := load_held_out_sets(task)[1])}


def _questions_of_split(task: Task, split: str) -> list[str]:
    return [example.question for example in task.examples(split)]


def read_questions(path: Path) -> list[str]:
    """The questions of a file: JSONL, a JSON array, or CSV with a column ``question``. Raises DataError without any."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(_parse_rows(path.suffix, text))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"cannot read questions from {path}: {error}.") from error
    questions = [question for row in rows if (question := _question_of_row(row))]
    if not questions:
        raise DataError(f"{path} holds no questions: its rows have no field 'question'.")
    return questions


def _parse_rows(suffix: str, text: str) -> Iterator[Any]:
    if suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
    elif text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _question_of_row(row: Any) -> str:
    if not isinstance(row, dict):
        return ""
    lowered = {str(key).lower(): value for key, value in row.items()}
    inner = lowered.get("example")
    return str(inner.get("question", "")) if isinstance(inner, dict) else str(lowered.get("question") or "")
