"""A data set of the hub as a task: ``hub:OWNER/NAME:QUESTION,ANSWER`` with the names of two columns.

    hub:rajpurkar/squad:question,answers.text            a column inside another
    hub:OWNER/NAME@CONFIG:prompt,label,id=key            a configuration, and the options of a file of questions

The splits are the hub's, with ``validation`` as dev; a set of one split alone is split by a hash of the question, as a
file of questions is. Invariant: nothing is fetched before the first question is asked for; each split is read once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fireact.errors import ConfigError, DataError, unknown_name_error
from fireact.tasks import hub
from fireact.tasks.files import (
    PROMPTS,
    RENAMED_SPLITS,
    ColumnChoice,
    build_examples,
    group_by_split,
    infer_scorer,
    parse_columns,
    require_distinct_ids,
)
from fireact.tasks.rows import Row
from fireact.tasks.scoring import SCORERS, best_scores, gold_answers
from fireact.types import Example, Limits

_SPEC = re.compile(r"(?P<repository>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<config>[^:]+))?(?::(?P<columns>.*))?")


@dataclass(frozen=True)
class HubTask:
    """A task with its questions on the hub."""

    name: str
    repository: str
    config: str | None
    columns: ColumnChoice
    limits: Limits = field(default_factory=Limits)

    @property
    def hub_dataset(self) -> tuple[str, str | None]:
        """The data set on the hub that has these questions, and its configuration."""
        return self.repository, self.config

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._hub_splits if len(self._hub_splits) > 1 else self._by_hash)

    @property
    def prompts(self) -> str:
        """The task whose few-shot examples are used for an LM that was not fine-tuned."""
        return PROMPTS[self._scorer]

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split. Raises ConfigError for one that does not exist."""
        if len(self._hub_splits) == 1:
            if split not in self._by_hash:
                raise unknown_name_error(f"split of {self.name}", split, self._by_hash)
            return self._by_hash[split]
        if split not in self._hub_splits:
            raise unknown_name_error(f"split of {self.name}", split, self._hub_splits)
        return self._read(self._hub_splits[split])[0]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return best_scores(SCORERS[self._scorer], gold_answers(example), answer)

    @cached_property
    def _cache(self) -> dict[str, tuple[Sequence[Example], Sequence[Row]]]:
        return {}

    @cached_property
    def _hub_splits(self) -> Mapping[str, str]:
        """Our name of each split -> the hub's."""
        found = hub.list_splits(self.repository, self.config)
        return {RENAMED_SPLITS.get(name.lower(), name.lower()): name for name in found}

    @cached_property
    def _by_hash(self) -> Mapping[str, Sequence[Example]]:
        (only,) = self._hub_splits.values()
        return group_by_split(*self._read(only), self.columns.options.get("split", ""), self.repository)

    @cached_property
    def _scorer(self) -> str:
        first = next(iter(self._hub_splits.values()))
        return self.columns.options.get("scorer") or infer_scorer(self._read(first)[0])

    def _read(self, split: str) -> tuple[Sequence[Example], Sequence[Row]]:
        if split not in self._cache:
            rows = hub.read_split(self.repository, self.config, split)
            if not rows:
                raise DataError(f"{self.repository} has no rows in its split {split}, so there is nothing to ask.")
            rows = [{**row, **_pick_columns(row, self.columns.names, self.repository)} for row in rows]
            examples = build_examples(rows, self.columns, location=f"{self.repository}, {split}")
            self._cache[split] = (require_distinct_ids(examples, self.repository), rows)
        return self._cache[split]


def from_name(spec: str) -> HubTask:
    """The task of ``OWNER/NAME[@CONFIG]:QUESTION,ANSWER``. Raises ConfigError for any other text."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"hub:{spec} is not hub:OWNER/NAME:QUESTION,ANSWER with the names of two columns.")
    repository = match["repository"]
    columns = parse_columns(f"hub:{spec}", match["columns"] or "")
    return HubTask(repository.rpartition("/")[2], repository, match["config"], columns)


def _pick_columns(row: Row, names: Sequence[str], repository: str) -> dict[str, Any]:
    """The columns of these names; ``a.b`` is the value b inside the column a."""
    picked: dict[str, Any] = {}
    for name in names:
        value: Any = row
        for part in [name] if name in row else name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise DataError(f"{repository} has no column {name!r}. There are: {', '.join(map(str, row))}.")
            value = value[part]
        picked[name] = value
    return picked
