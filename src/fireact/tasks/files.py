"""A user's file as a task: ``FILE:QUESTION,ANSWER`` with the names of two columns.

    my.jsonl                                    columns "question" and "answer"
    my.csv:prompt,label                         columns of other names
    my.parquet:q,a,id=key,aliases=also          a column of ids, and one of further correct answers
    my.jsonl:q,a,scorer=choice,split=part       how answers are scored, and a column that names each row's split

An answer that is a list, or text that spells a list of texts, counts as an answer and its aliases; a column of aliases
holds a list, or text with ``|`` between them. ``scorer`` is free_form, yes_no or choice; by default yes_no where every
answer is yes or no (or true or false), else free_form. Rows are split by a hash of the question: 80 % train,
10 % dev, 10 % test. So a question never changes its split as the file grows, and no training question is ever tested
on. ``split=COLUMN`` takes the split from the file instead, ``split=all`` puts every row in every split (for a file that
is only ever evaluated on).

Invariant: the file is read once, when the task is built. Names of columns cannot contain a comma, a colon or "=".
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fireact.errors import ConfigError, DataError, unknown_name_error
from fireact.tasks.rows import Row, read_rows, require_column
from fireact.tasks.scoring import SCORERS, best_scores, gold_answers
from fireact.types import Example, Limits

OPTIONS = ("aliases", "id", "scorer", "split")
SPLITS = ("train", "dev", "test")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
PROMPTS = {"free_form": "hotpotqa", "yes_no": "strategyqa", "choice": "mmlu"}
"""The task whose few-shot examples are used for each scorer, since they show the form of the answers."""

_SPEC = re.compile(r"(?P<path>.+?\.(?:jsonl|json|csv|parquet))(?::(?P<columns>.*))?", re.IGNORECASE)
RENAMED_SPLITS = {"validation": "dev", "valid": "dev", "val": "dev"}


@dataclass(frozen=True, slots=True)
class FileTask:
    """A task with its questions in one file; ``by_split`` holds them in the order of the file."""

    name: str
    scorer: str
    by_split: Mapping[str, Sequence[Example]]
    limits: Limits = field(default_factory=Limits)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.by_split)

    @property
    def prompts(self) -> str:
        """The task whose few-shot examples are used for an LM that was not fine-tuned."""
        return PROMPTS[self.scorer]

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split. Raises ConfigError for one that has none."""
        if split not in self.by_split:
            counts_text = ", ".join(f"{name} {len(examples)}" for name, examples in self.by_split.items())
            raise ConfigError(
                f"{self.name} has no question in the split {split!r}. There are: {counts_text}. Rows are split by a "
                "hash of the question; split=COLUMN takes the split from the file, split=all puts every row in every "
                "split."
            )
        return self.by_split[split]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return best_scores(SCORERS[self.scorer], gold_answers(example), answer)


def is_file_spec(spec: str) -> bool:
    """Whether a spec names a file of questions, whether or not the file exists."""
    return _SPEC.fullmatch(spec) is not None


def split_file_spec(spec: str) -> tuple[str, str]:
    """The path and the columns of a file spec; the columns are empty where the spec names none."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(
            f"{spec!r} is not FILE:QUESTION,ANSWER with a file that ends in .jsonl, .json, .csv or .parquet."
        )
    return match["path"], match["columns"] or ""


def load_file_task(spec: str) -> FileTask:
    """The task of a file spec. Raises ConfigError for a wrong spec, DataError for a file that does not fit it."""
    path_text, columns = split_file_spec(spec)
    path = Path(path_text).expanduser()
    choice = parse_columns(spec, columns)
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path} has no rows, so there is nothing to ask.")
    if {"example", "steps"} <= rows[0].keys():
        raise DataError(
            f"{path} holds trajectories, not questions with answers. Ask their questions again: fireact eval AGENT "
            f"--questions-of {path}"
        )
    for name in sorted(choice.names):
        require_column(rows, name, path)
    examples = require_distinct_ids(build_examples(rows, choice, location=str(path)), path)
    scorer = choice.options.get("scorer") or infer_scorer(examples)
    return FileTask(path.stem, scorer, group_by_split(examples, rows, choice.options.get("split", ""), path))


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """The columns of a question and its answer, and the options of a spec."""

    question: str
    answer: str
    options: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that a row must have."""
        named_in_options = (self.options[key] for key in ("id", "aliases") if key in self.options)
        return tuple(dict.fromkeys([self.question, self.answer, *named_in_options]))


def parse_columns(spec: str, text: str) -> ColumnChoice:
    """The columns and options of ``QUESTION,ANSWER,id=COLUMN``. Raises ConfigError for an unknown option."""
    parts = [item.strip() for item in text.split(",") if item.strip()]
    names = [item for item in parts if "=" not in item] or ["question", "answer"]
    options = dict(item.split("=", 1) for item in parts if "=" in item)
    if len(names) != 2:
        raise ConfigError(
            f"{spec!r} names {len(names)} columns; name two: FILE:QUESTION,ANSWER, then id=COLUMN and so on."
        )
    for option in options:
        if option not in OPTIONS:
            raise unknown_name_error("option of a file task", option, OPTIONS)
    if options.get("scorer", "free_form") not in SCORERS:
        raise unknown_name_error("scorer", options["scorer"], SCORERS)
    return ColumnChoice(names[0], names[1], options)


def build_examples(rows: Sequence[Row], columns: ColumnChoice, *, location: str) -> list[Example]:
    """The examples of rows. Raises DataError with the number of a row that is none."""
    return [
        _build_example(row, columns.question, columns.answer, columns.options, location=f"{location}, row {number}")
        for number, row in enumerate(rows, 1)
    ]


def _build_example(row: Row, question: str, answer: str, options: Mapping[str, str], *, location: str) -> Example:
    answers, aliases_column = _cell_texts(row[answer]), options.get("aliases")
    aliases = answers[1:] + (_cell_aliases(row[aliases_column]) if aliases_column else [])
    question_text = row[question]
    if not isinstance(question_text, str) or not question_text.strip():
        raise DataError(
            f"{location}: the question (column {question!r}) is {question_text!r}; it must be a text that is not empty."
        )
    if not answers:
        raise DataError(f"{location}: the answer (column {answer!r}) is {row[answer]!r}; it must not be empty.")
    id_column = options.get("id")
    name = (
        hashlib.sha256(_normalise_question(question_text).encode()).hexdigest()[:12]
        if id_column is None
        else str(row[id_column])
    )
    return Example(name, question_text.strip(), answers[0], {"aliases": aliases} if aliases else {})


def _cell_texts(value: object) -> list[str]:
    """The texts of a cell: a list gives several, true and false give yes and no, an empty cell gives none."""
    if isinstance(value, list | tuple):
        return [text for item in value for text in _cell_texts(item)]
    if isinstance(value, str) and (texts := _parse_list(value)):
        return _cell_texts(texts)
    if value is None or value != value or not str(value).strip():  # Parquet may hold NaN for an empty cell
        return []
    return [("yes" if value else "no") if isinstance(value, bool) else str(value).strip()]


def _parse_list(text: str) -> list[str] | None:
    """The texts of a list that a cell spells, as JSON (PopQA), Python or pandas write it; None for any other text."""
    inside = text.strip()[1:-1] if text.strip().startswith("[") and text.strip().endswith("]") else ""
    if not inside or _QUOTED.sub("", inside).strip(", \n"):
        return None
    try:
        return [str(ast.literal_eval(quoted[0])) for quoted in _QUOTED.finditer(inside)]
    except (ValueError, SyntaxError):
        return None


def _cell_aliases(value: object) -> list[str]:
    return _cell_texts(value.split("|") if isinstance(value, str) else value)


def infer_scorer(examples: Sequence[Example]) -> str:
    """yes_no where every answer is yes or no, else free_form."""
    closed = all(gold.lower() in ("yes", "no") for example in examples for gold in gold_answers(example))
    return "yes_no" if closed else "free_form"


def require_distinct_ids(examples: Sequence[Example], path: Path | str) -> Sequence[Example]:
    """The examples. Raises DataError where two have the same id."""
    repeated_ids = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
    if repeated_ids:
        first_question = next(example.question for example in examples if example.id == repeated_ids[0])
        raise DataError(
            f"{path} has the id {repeated_ids[0]!r} more than once ({len(repeated_ids)} such): {first_question!r}. "
            "Without id=COLUMN, the id is made from the question. Delete the repeated rows, or name a column of ids "
            "that differ."
        )
    return examples


def group_by_split(
    examples: Sequence[Example], rows: Sequence[Row], split_option: str, path: Path | str
) -> dict[str, Sequence[Example]]:
    """The examples by split: by a hash of the question, or as the option ``split`` of the spec says."""
    if split_option == "all":
        return dict.fromkeys(SPLITS, tuple(examples))
    if split_option:
        require_column(rows, split_option, path)
    grouped: dict[str, list[Example]] = {}
    for example, row in zip(examples, rows, strict=True):
        name = str(row[split_option]).strip().lower() if split_option else _hash_to_split(example.question)
        grouped.setdefault(RENAMED_SPLITS.get(name, name), []).append(example)
    return {
        name: grouped[name] for name in sorted(grouped, key=lambda name: (name not in SPLITS, _split_rank(name), name))
    }


def _split_rank(name: str) -> int:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS)


def _hash_to_split(question: str) -> str:
    share = int(hashlib.sha256(f"split {_normalise_question(question)}".encode()).hexdigest()[:8], 16) % 100
    return "train" if share < 80 else "dev" if share < 90 else "test"


def _normalise_question(question: str) -> str:
    """The question without differences in white space and letter case, which do not change its identity."""
    return " ".join(question.lower().split())
