"""The four tasks of the paper (section 3): HotpotQA, StrategyQA, Bamboogle and MMLU.

Their questions are not part of the package. They lie in a folder laid out as the released code's ``data`` (named as
``hotpotqa:FOLDER`` or by FIREACT_DATA, the folder itself or the one above it), in a folder that ``datasets`` saved, or
come from the hub where no folder is named.

    hotpotqa/dev.json  strategyqa/strategyqa_dev.json  bamboogle/test.csv  mmlu/test/anatomy_test.csv

Invariant: an id is the split and the position in its file, for every source, so runs over the same split pair up (the
hub's sets keep the order of the files). MMLU's positions count within a subject, and subjects are in alphabetical
order: the released code takes them in the order in which the file system lists them. MMLU's cells are read as plain
text; the released code reads them with pandas, which turns some words ("None") into nan and reformats numbers.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError, unknown_name_error
from fireact.tasks import hub
from fireact.tasks.rows import Row, read_rows
from fireact.tasks.scoring import Scorer, best_scores, gold_answers, score_free_form, score_prefix
from fireact.types import Example, Limits

SPLITS = ("train", "dev", "val", "test")
LETTERS = "ABCD"
DATA = "FIREACT_DATA"

ParsedRow = tuple[str, str, dict[str, Any]]
"""The question, answer and meta of a row."""


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """Where a task's questions are, and how a row is parsed."""

    files: Callable[[Path], Mapping[str, Sequence[Path]]]
    read: Callable[[Path], Sequence[Row]]
    parse_row: Callable[[Row], ParsedRow]
    on_hub: hub.HubDataset


@dataclass(frozen=True, slots=True)
class PaperTask:
    """One task of the paper; with no ``folder`` its questions come from the hub, when they are first asked for."""

    name: str
    source: QuestionSource
    scorer: Scorer
    folder: Path | None
    limits: Limits = field(default_factory=Limits)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the source, without the single subjects of MMLU."""
        if self.folder is None:
            return tuple(self.source.on_hub.splits)
        if hub.is_saved(self.folder):
            return tuple(hub.read_saved_splits(self.folder, self.source.on_hub))
        return tuple(split for split in self.source.files(self.folder) if split in SPLITS)

    @property
    def hub_dataset(self) -> tuple[str, str | None]:
        """The data set on the hub that has these questions, and its configuration."""
        return self.source.on_hub.repository, self.source.on_hub.config

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split in the order of its file; for MMLU also of one subject, such as ``anatomy_test``.

        Raises ConfigError for a split that does not exist or has no answers, DataError for rows that cannot be read,
        and ProviderError where the hub cannot be reached.
        """
        examples: list[Example] = []
        places: Counter[str] = Counter()
        for location, rows in self._iterate_rows(split):
            for number, row in enumerate(rows, 1):
                question, answer, meta = self._parse_row(row, location=f"{location}, row {number}", split=split)
                group = f"{meta['subject'] or self.name}_{split.rpartition('_')[2]}" if "subject" in meta else split
                examples.append(Example(f"{group}-{places[group]}", question, answer, meta))
                places[group] += 1
        return tuple(examples)

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return best_scores(self.scorer, gold_answers(example), answer)

    def _iterate_rows(self, split: str) -> Iterator[tuple[str, Sequence[Row]]]:
        folder, hub_set = self.folder, self.source.on_hub
        if folder is not None and not hub.is_saved(folder):
            for path in self._require_split(self.source.files(folder), split):
                yield str(path), self.source.read(path)
            return
        self._require_split(dict.fromkeys(self.splits), split)
        if folder is None:
            yield hub_set.repository, hub.load_hub_rows(hub_set, split, task=self.name)
        else:
            yield str(folder), hub.read_saved_rows(folder, hub_set, split)

    def _require_split(self, splits: Mapping[str, Any], split: str) -> Any:
        if split not in splits:
            subjects = (
                " One subject, such as anatomy_test, is a split too." if self.folder and self.name == "mmlu" else ""
            )
            location = self.folder or f"the hub's {self.source.on_hub.repository}"
            note = f"There is none in {location}.{subjects}"
            raise unknown_name_error(f"split of {self.name}", split, self.splits, note=note)
        return splits[split]

    def _parse_row(self, row: Row, *, location: str, split: str) -> ParsedRow:
        if row.get("answer", row.get("Answer")) is None:
            other_splits = ", ".join(split_name for split_name in self.splits if split_name != split) or "none"
            raise ConfigError(
                f"{self.name} {split} has no answers ({location}), so nothing can be scored. Others: {other_splits}."
            )
        try:
            question, answer, meta = self.source.parse_row(row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{location}: not a row of {self.name} ({error!r}). Its columns are {', '.join(map(str, row))}; "
                f"{', '.join(self.source.on_hub.columns)} are known."
            ) from error
        if not isinstance(question, str) or not question.strip() or not answer.strip():
            raise DataError(f"{location}: question or answer is empty or no text: {question!r}, {answer!r}.")
        return question, answer, {name: value for name, value in meta.items() if value is not None}


def _build_task(name: str, scorer: Scorer, source: QuestionSource, argument: str) -> PaperTask:
    return PaperTask(name, source, scorer, _find_folder(name, source, argument))


def _find_folder(name: str, source: QuestionSource, argument: str) -> Path | None:
    """The folder with a task's files: the one named, else below FIREACT_DATA, else None. Raises ConfigError."""

    def holds(folder: Path) -> bool:
        return hub.is_saved(folder) or bool(source.files(folder))

    if argument:
        root = Path(argument).expanduser()
        for folder in (root / name, root / "fireact" / name, root):
            if holds(folder):
                return folder
        raise ConfigError(
            f"{root} holds no questions of {name}: {'no split in it' if root.is_dir() else 'there is no such folder'}. "
            f"Name the folder {name!r} of the released data, the one above it, or one that datasets saved."
        )
    if os.environ.get(DATA):
        root = Path(os.environ[DATA]).expanduser()
        return next((folder for folder in (root / "fireact" / name, root / name) if holds(folder)), None)
    return None


def _match_files(pattern: str) -> Callable[[Path], Mapping[str, Sequence[Path]]]:
    """A function that finds the files by split: the one group of ``pattern`` is the split in a file's name."""

    def files(folder: Path) -> Mapping[str, Sequence[Path]]:
        paths_by_split: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = re.fullmatch(pattern, path.name)
            if match and match[1] in SPLITS:
                paths_by_split.setdefault(match[1], [path])
        return {split: paths_by_split[split] for split in SPLITS if split in paths_by_split}

    return files


def _find_mmlu_files(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Each split with the files of all subjects, and each subject's file as a split of its own."""
    paths_by_split = {split: sorted((folder / split).glob(f"*_{split}.csv")) for split in SPLITS}
    paths_by_split = {split: paths for split, paths in paths_by_split.items() if paths}
    return paths_by_split | {path.stem: [path] for paths in paths_by_split.values() for path in paths}


def _read_mmlu_rows(path: Path) -> Sequence[Row]:
    rows = read_rows(path, ["question", *LETTERS, "answer"])
    subject = path.stem.rpartition("_")[0]
    return [{**row, "choices": [row[letter] for letter in LETTERS], "subject": subject} for row in rows]


def _parse_hotpotqa_row(row: Row) -> ParsedRow:
    return row["question"], str(row["answer"]), _rename_columns(row, type="type", level="level", source_id="id")


def _parse_strategyqa_row(row: Row) -> ParsedRow:
    if not isinstance(row["answer"], bool):
        raise ValueError(f"the answer {row['answer']!r} is neither true nor false")
    meta = _rename_columns(row, term="term", description="description", facts="facts", decomposition="decomposition")
    return row["question"], "yes" if row["answer"] else "no", meta | _rename_columns(row, source_id="qid")


def _parse_bamboogle_row(row: Row) -> ParsedRow:
    return row["Question"], str(row["Answer"]), {}


def _parse_mmlu_row(row: Row) -> ParsedRow:
    """The question with its options, in the words of the released code; the hub gives the answer as a number."""
    options, answer = list(row["choices"]), row["answer"]
    letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(LETTERS) else str(answer).strip().upper()
    if len(options) != len(LETTERS) or letter not in tuple(LETTERS):
        raise ValueError(f"expected {len(LETTERS)} options and one of their letters, found {options} and {answer!r}")
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    question = "\n".join([f"Question: {row['question']}", *lines])
    return question, letter, {"subject": row.get("subject") or "", "options": options}


def _rename_columns(row: Row, **names: str) -> dict[str, Any]:
    return {meta_name: row[column_name] for meta_name, column_name in names.items() if row.get(column_name) is not None}


_HOTPOTQA = QuestionSource(
    files=_match_files(r"(\w+)\.json"),
    read=read_rows,
    parse_row=_parse_hotpotqa_row,
    on_hub=hub.HubDataset(
        "hotpotqa/hotpot_qa",
        "distractor",
        {"train": "train", "dev": "validation"},
        ("id", "question", "answer", "type", "level"),
    ),
)
_STRATEGYQA = QuestionSource(
    files=_match_files(r"strategyqa_([a-z]+?)(?:_filtered)?\.json"),
    read=read_rows,
    parse_row=_parse_strategyqa_row,
    on_hub=hub.HubDataset(
        "ChilleD/StrategyQA",
        None,
        {"train": "train", "test": "test"},
        ("qid", "term", "description", "question", "answer", "facts", "decomposition"),
    ),
)
_BAMBOOGLE = QuestionSource(
    files=_match_files(r"(\w+)\.csv"),
    read=read_rows,
    parse_row=_parse_bamboogle_row,
    on_hub=hub.HubDataset("chiayewken/bamboogle", None, {"test": "test"}, ("Question", "Answer")),
)
_MMLU = QuestionSource(
    files=_find_mmlu_files,
    read=_read_mmlu_rows,
    parse_row=_parse_mmlu_row,
    on_hub=hub.HubDataset(
        "cais/mmlu",
        "all",
        {"train": "auxiliary_train", "dev": "dev", "val": "validation", "test": "test"},
        ("question", "subject", "choices", "answer"),
    ),
)


def hotpotqa(folder: str = "") -> PaperTask:
    """Free-form questions of two hops and comparisons (Yang et al. 2018)."""
    return _build_task("hotpotqa", score_free_form, _HOTPOTQA, folder)


def strategyqa(folder: str = "") -> PaperTask:
    """Yes/no questions whose steps are not spelled out (Geva et al. 2021)."""
    return _build_task("strategyqa", score_prefix, _STRATEGYQA, folder)


def bamboogle(folder: str = "") -> PaperTask:
    """125 free-form questions of two hops, for evaluation only (Press et al. 2023)."""
    return _build_task("bamboogle", score_free_form, _BAMBOOGLE, folder)


def mmlu(folder: str = "") -> PaperTask:
    """Multiple choice over 57 subjects (Hendrycks et al. 2021)."""
    return _build_task("mmlu", score_prefix, _MMLU, folder)
