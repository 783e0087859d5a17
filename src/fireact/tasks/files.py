"""A file of the user's own as a task: ``FILE:QUESTION,ANSWER`` with the names of two columns.

    my.jsonl                                    columns "question" and "answer"
    my.csv:prompt,label                         columns of other names
    my.parquet:q,a,id=key,aliases=also          a column of ids, and one of other right answers
    my.jsonl:q,a,scorer=choice,split=part       how answers are scored, and a column that names each row's split

An answer that is a list counts as an answer and its aliases; a column of aliases holds a list, or text with ``|``
between them. ``scorer`` is free_form, yes_no or choice; by default yes_no where every answer is yes or no (or true or
false), else free_form. Rows are split by a hash of the question: 80 % train, 10 % dev, 10 % test. So a question never
changes its split as the file grows, and nothing that was trained on is tested on. ``split=COLUMN`` takes the
split from the file instead, ``split=all`` puts every row in every split (for a file that is only ever evaluated on).

Invariant: the file is read once, when the task is made. Columns whose names hold a comma, a colon or "=" cannot be named.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fireact.errors import ConfigError, DataError, unknown
from fireact.tasks.rows import Row, column, read_rows
from fireact.tasks.scoring import SCORERS, best, golds
from fireact.types import Example, Limits

OPTIONS = ("aliases", "id", "scorer", "split")
SPLITS = ("train", "dev", "test")
PROMPTS = {"free_form": "hotpotqa", "yes_no": "strategyqa", "choice": "mmlu"}
"""Whose few-shot examples show the form of the answers."""

_SPEC = re.compile(r"(?P<path>.+?\.(?:jsonl|json|csv|parquet))(?::(?P<columns>.*))?", re.IGNORECASE)
_RENAMED = {"validation": "dev", "valid": "dev", "val": "dev"}


@dataclass(frozen=True, slots=True)
class FileTask:
    """A task whose questions stand in one file; ``by_split`` holds them in the order of the file."""

    name: str
    scorer: str
    by_split: Mapping[str, Sequence[Example]]
    limits: Limits = field(default_factory=Limits)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.by_split)

    @property
    def prompts(self) -> str:
        """The task whose few-shot examples are shown to an LM that was not fine-tuned."""
        return PROMPTS[self.scorer]

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split. Raises ConfigError for one that has none."""
        if split not in self.by_split:
            there = ", ".join(f"{name} {len(examples)}" for name, examples in self.by_split.items())
            raise ConfigError(
                f"{self.name} has no question in the split {split!r}. There are: {there}. Rows are split by a hash of the "
                "question; split=COLUMN takes the split from the file, split=all puts every row in every split."
            )
        return self.by_split[split]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return best(SCORERS[self.scorer], golds(example), answer)


def is_file(spec: str) -> bool:
    """Whether a spec names a file of questions, there or not."""
    return _SPEC.fullmatch(spec) is not None


def path_and_columns(spec: str) -> tuple[str, str]:
    """The two parts of a spec that ``is_file``; the second is empty where no columns are named."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(
            f"{spec!r} is not FILE:QUESTION,ANSWER with a file that ends in .jsonl, .json, .csv or .parquet."
        )
    return match["path"], match["columns"] or ""


def file_task(spec: str) -> FileTask:
    """The task that a spec describes. Raises ConfigError for a wrong spec, DataError for a file that does not fit it."""
    where, columns = path_and_columns(spec)
    path = Path(where).expanduser()
    question, answer, options = _columns(spec, columns)
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path} has no rows, so there is nothing to ask.")
    named = {question, answer, *(options[key] for key in ("id", "aliases") if key in options)}
    for name in sorted(named):
        column(rows, name, path)
    examples = [
        _example(row, question, answer, options, where=f"{path}, row {number}") for number, row in enumerate(rows, 1)
    ]
    scorer = options.get("scorer") or _scorer(examples)
    by_split = _by_split(_distinct(examples, path), rows, options.get("split", ""), path)
    return FileTask(path.stem, scorer, by_split)


def _columns(spec: str, text: str) -> tuple[str, str, dict[str, str]]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    names = [part for part in parts if "=" not in part] or ["question", "answer"]
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(names) != 2:
        raise ConfigError(
            f"{spec!r} names {len(names)} columns; name two: FILE:QUESTION,ANSWER, then id=COLUMN and so on."
        )
    for option in options:
        if option not in OPTIONS:
            raise unknown("option of a file task", option, OPTIONS)
    if options.get("scorer", "free_form") not in SCORERS:
        raise unknown("scorer", options["scorer"], SCORERS)
    return names[0], names[1], options


def _example(row: Row, question: str, answer: str, options: Mapping[str, str], *, where: str) -> Example:
    found, also = _texts(row[answer]), options.get("aliases")
    aliases = found[1:] + (_aliases(row[also]) if also else [])
    asked = row[question]
    if not isinstance(asked, str) or not asked.strip():
        raise DataError(
            f"{where}: the question (column {question!r}) is {asked!r}; it must be a text that is not empty."
        )
    if not found:
        raise DataError(f"{where}: the answer (column {answer!r}) is {row[answer]!r}; it must not be empty.")
    own = options.get("id")
    name = hashlib.sha256(_words(asked).encode()).hexdigest()[:12] if own is None else str(row[own])
    return Example(name, asked.strip(), found[0], {"aliases": aliases} if aliases else {})


def _texts(value: object) -> list[str]:
    """A cell as texts: a list gives several, true and false are yes and no, nothing gives none."""
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    if value is None or value != value or not str(value).strip():  # NaN is what Parquet may hold for nothing
        return []
    return [("yes" if value else "no") if isinstance(value, bool) else str(value).strip()]


def _aliases(value: object) -> list[str]:
    return _texts(value.split("|") if isinstance(value, str) else value)


def _scorer(examples: Sequence[Example]) -> str:
    closed = all(gold.lower() in ("yes", "no") for example in examples for gold in golds(example))
    return "yes_no" if closed else "free_form"


def _distinct(examples: Sequence[Example], path: Path) -> Sequence[Example]:
    twice = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
    if twice:
        first = next(example.question for example in examples if example.id == twice[0])
        raise DataError(
            f"{path} has the id {twice[0]!r} more than once ({len(twice)} such): {first!r}. Without id=COLUMN, the id is made "
            "from the question. Delete the repeated rows, or name a column of ids that differ."
        )
    return examples


def _by_split(examples: Sequence[Example], rows: Sequence[Row], how: str, path: Path) -> dict[str, Sequence[Example]]:
    if how == "all":
        return dict.fromkeys(SPLITS, tuple(examples))
    if how:
        column(rows, how, path)
    found: dict[str, list[Example]] = {}
    for example, row in zip(examples, rows, strict=True):
        name = str(row[how]).strip().lower() if how else _hashed(example.question)
        found.setdefault(_RENAMED.get(name, name), []).append(example)
    return {name: found[name] for name in sorted(found, key=lambda name: (name not in SPLITS, _place(name), name))}


def _place(name: str) -> int:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS)


def _hashed(question: str) -> str:
    share = int(hashlib.sha256(f"split {_words(question)}".encode()).hexdigest()[:8], 16) % 100
    return "train" if share < 80 else "dev" if share < 90 else "test"


def _words(question: str) -> str:
    """The question as far as it matters for who it is: white space and letter case do not."""
    return " ".join(question.lower().split())
