"""The results of a study as objects: the rows of ``results.jsonl``, and what its manifest says of several cells.

Invariant: reading keeps every value as it was written. Files of earlier versions may lack fields that have a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from fireact.base import jsonl
from fireact.evaluation.comparison import ScoreComparison
from fireact.evaluation.conditions import Difference
from fireact.evaluation.statistics import Estimate, PairedDifference
from fireact.evaluation.summary import Summary

RESULTS = "results.jsonl"
"""The file of the rows in a study's directory."""


class JsonRecord:
    """A dataclass whose fields have the names of the keys in a JSON object."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record of a JSON object; keys that it has no field for are left out."""
        names = [item.name for item in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: values[name] for name in names if name in values})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {item.name: to_plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


def to_plain(value: Any) -> Any:
    """The plain values of records, also of those inside tables and lists."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: to_plain(member) for key, member in value.items()}
    return [to_plain(member) for member in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Behaviour(JsonRecord):
    """What an agent did on a task: means a question, the share of each method, and questions by method and turns.

    ``usd_per_question`` is what was paid for the model; None where a price is not known.
    """

    turns: float
    turns_deviation: float
    calls_of_tools: float = 0.0
    used: Mapping[str, float] = field(default_factory=dict)
    questions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    usd_per_question: float | None = None
    noisy_steps: float = 0.0

    def counts_by_method(self) -> dict[str, int]:
        """Method -> number of its questions."""
        return {method: sum(counts.values()) for method, counts in self.questions.items()}


@dataclass(frozen=True)
class BaselineChange:
    """The change from a baseline cell; ``asked`` counts the questions that the baseline and the cell were scored on.

    ``relative`` is EM's gain in proportion, where the baseline has enough right answers. ``conditions`` are the
    settings in which the two differ; None where they were not compared.
    """

    cell: str
    scores: ScoreComparison
    relative: float | None
    asked: Sequence[int]
    conditions: Sequence[Difference] | None = None

    @property
    def em(self) -> PairedDifference:
        return self.scores.em

    @property
    def differing(self) -> list[str]:
        """The names of the settings that differ."""
        return list(dict.fromkeys(difference.setting for difference in self.conditions or ()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        change = {"cell": self.cell, **self.scores.to_dict(), "relative": self.relative, "asked": list(self.asked)}
        return change if self.conditions is None else change | {"conditions": list(map(asdict, self.conditions))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BaselineChange:
        """The change that ``to_dict`` wrote."""
        scores, conditions = ScoreComparison.from_dict(values), values.get("conditions")
        return cls(
            cell=values["cell"],
            scores=scores,
            relative=values.get("relative"),
            asked=values.get("asked") or [scores.em.n],
            conditions=None if conditions is None else [Difference(**condition) for condition in conditions],
        )


@dataclass(frozen=True)
class TrainingFacts(JsonRecord):
    """What was trained and how fast; ``weights_bytes`` are those of the saved weights."""

    samples: int
    dropped: int
    tokens: int
    target_tokens: int
    steps: int
    training_seconds: float
    tokens_per_second: float
    trained_parameters: int
    final_loss: float
    device: str = ""
    examples_per_second: float = 0.0
    weights_bytes: int | None = None


@dataclass(frozen=True)
class DataFacts(JsonRecord):
    """The trajectories that were trained on, and how many episodes were collected and right.

    ``turns`` and ``turns_deviation`` describe the trajectories that are trained on (paper, Figure 6).
    """

    trajectories: int
    turns: float | None = None
    turns_deviation: float | None = None
    by_task_and_method: Mapping[str, int] = field(default_factory=dict)
    collected: int | None = None
    right: int | None = None
    history: Sequence[str] = ()


@dataclass(frozen=True)
class StudyRow(JsonRecord):
    """The results of one complete cell. ``settings`` are all of its settings, ``versions`` those of its stages."""

    cell: str
    axes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    agent: str = ""
    tuned: bool = False
    tools: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Summary] = field(default_factory=dict)
    behaviour: Mapping[str, Behaviour] = field(default_factory=dict)
    against: Mapping[str, BaselineChange] = field(default_factory=dict)
    not_compared: Mapping[str, str] = field(default_factory=dict)
    training: TrainingFacts | None = None
    data: DataFacts | None = None
    stages: Sequence[str] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyRow:
        """The row of a complete cell."""
        by_task: dict[str, Any] = {"results": Summary, "behaviour": Behaviour, "against": BaselineChange}
        members: dict[str, Any] = {
            name: {task: kind.from_dict(fields) for task, fields in values.get(name, {}).items() if fields}
            for name, kind in by_task.items()
        }
        if values.get("training") is not None:
            members["training"] = TrainingFacts.from_dict(values["training"])
        if values.get("data") is not None:
            members["data"] = DataFacts.from_dict(values["data"])
        return super().from_dict({**values, **members})

    @property
    def group(self) -> str:
        """The name of the cell without its seed."""
        seed = self.axes.get("seed")
        return self.cell if seed is None else self.cell.removesuffix(f", seed {seed}")

    @property
    def first_task(self) -> str:
        return next(iter(self.results))


def read_study_rows(file: Path) -> list[StudyRow]:
    """The rows of the cells that did not fail."""
    return [StudyRow.from_dict(row) for row in jsonl.read_objects(file) if "error" not in row]


@dataclass(frozen=True)
class ChoiceScore:
    """EM of one way to choose a method for each question, with the turns and the cell where they are known."""

    em: Estimate
    turns: float | None = None
    cell: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        scores = {"em": self.em.mean, "em_interval": self.em.interval}
        cell, turns = {"cell": self.cell} if self.cell else {}, {} if self.turns is None else {"turns": self.turns}
        return {**cell, **scores, **turns}


@dataclass(frozen=True)
class MethodChoice(JsonRecord):
    """What chance, the best single method, an oracle and a student that chooses reach on the same questions.

    ``chosen`` holds the share of each method in the oracle's choices.
    """

    n: int
    random: ChoiceScore
    best: ChoiceScore
    oracle: ChoiceScore
    chooser: ChoiceScore | None
    chosen: Mapping[str, float]


@dataclass(frozen=True)
class CellCost(JsonRecord):
    """What an agent costs in dollars and seconds; None where a price is missing or something was not measured.

    ``data`` are the episodes that were trained on, ``waste`` those that a filter removed. After
    ``questions_to_break_even`` the agent is cheaper than its teacher.
    """

    seconds_per_question: float
    usd_per_question: float | None = None
    trajectories: int | None = None
    wasted_episodes: float | None = None
    data_usd: float | None = None
    waste_usd: float | None = None
    data_seconds: float | None = None
    waste_seconds: float | None = None
    training_seconds: float | None = None
    training_usd: float | None = None
    teacher_usd_per_question: float | None = None
    teacher_price: str | None = None
    questions_to_break_even: int | None = None
    break_even_note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an agent that was not trained has the first two alone."""
        values = super().to_dict()
        trained = self.trajectories is not None
        return values if trained else {name: values[name] for name in ("seconds_per_question", "usd_per_question")}


@dataclass(frozen=True)
class StudyResults:
    """All results of a study: rows of complete cells, errors of others, changes over seeds, choices, costs.

    ``seeds`` is by group of cells that differ only in their seed, and by task; ``choices`` by task; ``costs`` by cell.
    """

    rows: Sequence[StudyRow]
    failures: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, Mapping[str, BaselineChange]] = field(default_factory=dict)
    choices: Mapping[str, MethodChoice] = field(default_factory=dict)
    costs: Mapping[str, CellCost] = field(default_factory=dict)
