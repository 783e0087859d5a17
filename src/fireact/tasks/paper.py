"""The four tasks of the paper (section 3): HotpotQA, StrategyQA, Bamboogle and MMLU.

Their questions are not part of the package. They lie in a folder laid out as the released code's ``data`` (named as
``hotpotqa:FOLDER`` or by FIREACT_DATA, the folder itself or the one above it), in a folder that ``datasets`` saved, or
come from the hub where no folder is named.

    hotpotqa/dev.json  strategyqa/strategyqa_dev.json  bamboogle/test.csv  mmlu/test/anatomy_test.csv

Invariant: an id is the split and the place in its file, from whichever source, so runs over the same split pair up (the
hub's sets keep the order of the files). MMLU's are placed within their subject, and subjects stand in alphabetical
order: the released code takes them in the order in which the file system lists them. Cells of MMLU are text as they
stand; the released code reads them with pandas, which turns some words ("None") into nan and reformats numbers.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError
from fireact.tasks import hub
from fireact.tasks.rows import Row, read_rows
from fireact.tasks.scoring import Scorer, best, free_form, golds, prefix
from fireact.types import Example, Limits

SPLITS = ("train", "dev", "val", "test")
LETTERS = "ABCD"
DATA = "FIREACT_DATA"

Parts = tuple[str, str, dict[str, Any]]
"""Question, answer and meta of a row."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's questions are found and how a row is read."""

    files: Callable[[Path], Mapping[str, Sequence[Path]]]
    read: Callable[[Path], Sequence[Row]]
    parts: Callable[[Row], Parts]
    on_hub: hub.HubSet


@dataclass(frozen=True, slots=True)
class PaperTask:
    """One task of the paper; with no ``folder`` its questions come from the hub, when they are first asked for."""

    name: str
    source: Source
    scorer: Scorer
    folder: Path | None
    limits: Limits = field(default_factory=Limits)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, single subjects of MMLU aside."""
        if self.folder is None:
            return tuple(self.source.on_hub.splits)
        if hub.is_saved(self.folder):
            return tuple(hub.saved_splits(self.folder, self.source.on_hub))
        return tuple(split for split in self.source.files(self.folder) if split in SPLITS)

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split in the order of its file; for MMLU also of one subject, such as ``anatomy_test``.

        Raises ConfigError for a split that is not there or has no answers, DataError for rows that cannot be read, and
        ProviderError where the hub cannot be reached.
        """
        found: list[Example] = []
        places: Counter[str] = Counter()
        for where, rows in self._rows(split):
            for number, row in enumerate(rows, 1):
                question, answer, meta = self._parts(row, where=f"{where}, row {number}", split=split)
                group = f"{meta['subject'] or self.name}_{split.rpartition('_')[2]}" if "subject" in meta else split
                found.append(Example(f"{group}-{places[group]}", question, answer, meta))
                places[group] += 1
        return tuple(found)

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return best(self.scorer, golds(example), answer)

    def _rows(self, split: str) -> Iterator[tuple[str, Sequence[Row]]]:
        folder, of = self.folder, self.source.on_hub
        if folder is not None and not hub.is_saved(folder):
            for path in self._known(self.source.files(folder), split):
                yield str(path), self.source.read(path)
            return
        self._known(dict.fromkeys(self.splits), split)
        if folder is None:
            yield of.repository, hub.hub_rows(of, split, task=self.name)
        else:
            yield str(folder), hub.saved_rows(folder, of, split)

    def _known(self, splits: Mapping[str, Any], split: str) -> Any:
        if split not in splits:
            subjects = ", or one subject, such as anatomy_test" if self.folder and self.name == "mmlu" else ""
            where = self.folder or f"the hub's {self.source.on_hub.repository}"
            raise ConfigError(
                f"{self.name} has no split {split!r} in {where}. Known: {', '.join(self.splits)}{subjects}."
            )
        return splits[split]

    def _parts(self, row: Row, *, where: str, split: str) -> Parts:
        if row.get("answer", row.get("Answer")) is None:
            others = ", ".join(other for other in self.splits if other != split) or "none"
            raise ConfigError(
                f"{self.name} {split} has no answers ({where}), so nothing can be scored. Others: {others}."
            )
        try:
            question, answer, meta = self.source.parts(row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: not a row of {self.name} ({error!r}). Its columns are {', '.join(map(str, row))}; "
                f"{', '.join(self.source.on_hub.columns)} are known."
            ) from error
        if not isinstance(question, str) or not question.strip() or not answer.strip():
            raise DataError(f"{where}: question or answer is empty or no text: {question!r}, {answer!r}.")
        return question, answer, {name: value for name, value in meta.items() if value is not None}


def _task(name: str, scorer: Scorer, source: Source, argument: str) -> PaperTask:
    return PaperTask(name, source, scorer, _folder(name, source, argument))


def _folder(name: str, source: Source, argument: str) -> Path | None:
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


def _named(pattern: str) -> Callable[[Path], Mapping[str, Sequence[Path]]]:
    """Files whose name says their split: ``pattern`` has one group for it."""

    def files(folder: Path) -> Mapping[str, Sequence[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = re.fullmatch(pattern, path.name)
            if match and match[1] in SPLITS:
                found.setdefault(match[1], [path])
        return {split: found[split] for split in SPLITS if split in found}

    return files


def _mmlu_files(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Each split with the files of all subjects, and each subject's file as a split of its own."""
    whole = {split: sorted((folder / split).glob(f"*_{split}.csv")) for split in SPLITS}
    whole = {split: paths for split, paths in whole.items() if paths}
    return whole | {path.stem: [path] for paths in whole.values() for path in paths}


def _mmlu_rows(path: Path) -> Sequence[Row]:
    rows = read_rows(path, ["question", *LETTERS, "answer"])
    subject = path.stem.rpartition("_")[0]
    return [{**row, "choices": [row[letter] for letter in LETTERS], "subject": subject} for row in rows]


def _hotpotqa_parts(row: Row) -> Parts:
    return row["question"], str(row["answer"]), _some(row, type="type", level="level", source_id="id")


def _strategyqa_parts(row: Row) -> Parts:
    if not isinstance(row["answer"], bool):
        raise ValueError(f"the answer {row['answer']!r} is neither true nor false")
    known = _some(row, term="term", description="description", facts="facts", decomposition="decomposition")
    return row["question"], "yes" if row["answer"] else "no", known | _some(row, source_id="qid")


def _bamboogle_parts(row: Row) -> Parts:
    return row["Question"], str(row["Answer"]), {}


def _mmlu_parts(row: Row) -> Parts:
    """The question with its options, in the words of the released code; the hub gives the answer as a number."""
    options, answer = list(row["choices"]), row["answer"]
    letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(LETTERS) else str(answer).strip().upper()
    if len(options) != len(LETTERS) or letter not in tuple(LETTERS):
        raise ValueError(f"expected {len(LETTERS)} options and one of their letters, found {options} and {answer!r}")
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    question = "\n".join([f"Question: {row['question']}", *lines])
    return question, letter, {"subject": row.get("subject") or "", "options": options}


def _some(row: Row, **names: str) -> dict[str, Any]:
    return {ours: row[theirs] for ours, theirs in names.items() if row.get(theirs) is not None}


_HOTPOTQA = Source(
    files=_named(r"(\w+)\.json"),
    read=read_rows,
    parts=_hotpotqa_parts,
    on_hub=hub.HubSet(
        "hotpotqa/hotpot_qa",
        "distractor",
        {"train": "train", "dev": "validation"},
        ("id", "question", "answer", "type", "level"),
    ),
)
_STRATEGYQA = Source(
    files=_named(r"strategyqa_([a-z]+?)(?:_filtered)?\.json"),
    read=read_rows,
    parts=_strategyqa_parts,
    on_hub=hub.HubSet(
        "ChilleD/StrategyQA",
        None,
        {"train": "train", "test": "test"},
        ("qid", "term", "description", "question", "answer", "facts", "decomposition"),
    ),
)
_BAMBOOGLE = Source(
    files=_named(r"(\w+)\.csv"),
    read=read_rows,
    parts=_bamboogle_parts,
    on_hub=hub.HubSet("chiayewken/bamboogle", None, {"test": "test"}, ("Question", "Answer")),
)
_MMLU = Source(
    files=_mmlu_files,
    read=_mmlu_rows,
    parts=_mmlu_parts,
    on_hub=hub.HubSet(
        "cais/mmlu",
        "all",
        {"train": "auxiliary_train", "dev": "dev", "val": "validation", "test": "test"},
        ("question", "subject", "choices", "answer"),
    ),
)


def hotpotqa(folder: str = "") -> PaperTask:
    """Free-form questions of two hops and comparisons (Yang et al. 2018)."""
    return _task("hotpotqa", free_form, _HOTPOTQA, folder)


def strategyqa(folder: str = "") -> PaperTask:
    """Yes/no questions whose steps are not spelled out (Geva et al. 2021)."""
    return _task("strategyqa", prefix, _STRATEGYQA, folder)


def bamboogle(folder: str = "") -> PaperTask:
    """125 free-form questions of two hops, for evaluation only (Press et al. 2023)."""
    return _task("bamboogle", free_form, _BAMBOOGLE, folder)


def mmlu(folder: str = "") -> PaperTask:
    """Multiple choice over 57 subjects (Hendrycks et al. 2021)."""
    return _task("mmlu", prefix, _MMLU, folder)
