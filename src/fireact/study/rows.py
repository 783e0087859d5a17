"""The rows of ``results.jsonl`` and the facts of a study's manifest, as objects.

Invariant: reading keeps every value as it was written. Files of earlier versions may lack fields that have a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from fireact.evaluation.statistics import Estimate, PairedDifference
from fireact.evaluation.summary import Summary


class JsonRecord:
    """A dataclass whose fields have the names of the keys in a JSON object."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record of a JSON object; keys that it has no field for are left out."""
        names = [item.name for item in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: values[name] for name in names if name in values})


@dataclass(frozen=True)
class Behaviour(JsonRecord):
    """What an agent did on a task: means a question, the share of each method, and questions by method and turns."""

    turns: float
    turns_deviation: float
    calls_of_tools: float = 0.0
    noisy_steps: float = 0.0
    used: Mapping[str, float] = field(default_factory=dict)
    questions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def counts_by_method(self) -> dict[str, int]:
        """Method -> number of its questions."""
        return {method: sum(counts.values()) for method, counts in self.questions.items()}


@dataclass(frozen=True)
class BaselineChange:
    """The change in EM from a baseline cell; ``asked`` counts the questions of both, ``differing`` names settings."""

    cell: str
    em: PairedDifference
    relative: float | None
    asked: Sequence[int]
    differing: Sequence[str]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BaselineChange:
        settings = dict.fromkeys(condition["setting"] for condition in values.get("conditions", ()))
        names = ("cell", "em", "relative", "asked")
        cell, em, relative, asked = (values.get(name) for name in names)
        change = PairedDifference.from_dict(em or {})
        return cls(str(cell), change, relative, asked or [change.n], list(settings))


@dataclass(frozen=True)
class TrainingFacts(JsonRecord):
    """What was trained and how fast."""

    dropped: int
    tokens: int
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
    """The trajectories that were trained on, and how many episodes were collected and right."""

    trajectories: int
    turns: float
    turns_deviation: float
    collected: int | None = None
    right: int | None = None


@dataclass(frozen=True)
class StudyRow:
    """The results of one complete cell."""

    cell: str
    axes: Mapping[str, Any]
    results: Mapping[str, Summary]
    behaviour: Mapping[str, Behaviour]
    against: Mapping[str, BaselineChange]
    not_compared: Mapping[str, str]
    training: TrainingFacts | None
    data: DataFacts | None
    stages: Sequence[str]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyRow:
        """The row of a complete cell."""
        training, data = values.get("training"), values.get("data")
        return cls(
            cell=values["cell"],
            axes=values.get("axes", {}),
            results={task: Summary.from_dict(result) for task, result in values.get("results", {}).items()},
            behaviour={task: Behaviour.from_dict(facts) for task, facts in values.get("behaviour", {}).items()},
            against={task: BaselineChange.from_dict(change) for task, change in values.get("against", {}).items()},
            not_compared=values.get("not_compared", {}),
            training=None if training is None else TrainingFacts.from_dict(training),
            data=None if data is None else DataFacts.from_dict(data),
            stages=values.get("stages", ()),
        )

    @property
    def group(self) -> str:
        """The name of the cell without its seed."""
        seed = self.axes.get("seed")
        return self.cell if seed is None else self.cell.removesuffix(f", seed {seed}")

    @property
    def first_task(self) -> str:
        return next(iter(self.results))


def read_complete_rows(rows: Sequence[Mapping[str, Any]]) -> list[StudyRow]:
    """The rows of the cells that did not fail."""
    return [StudyRow.from_dict(row) for row in rows if "error" not in row]


@dataclass(frozen=True)
class ChoiceScore:
    """EM of one way to choose a method for each question, with the turns and the cell where they are known."""

    em: Estimate
    turns: float
    cell: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], n: int) -> ChoiceScore:
        mean, (low, high) = values["em"], values["em_interval"]
        return cls(Estimate(mean, low, high, n), values.get("turns", 0.0), values.get("cell", ""))


@dataclass(frozen=True)
class MethodChoice:
    """What chance, the best single method, an oracle and a student that chooses reach on the same questions."""

    n: int
    random: ChoiceScore
    best: ChoiceScore
    oracle: ChoiceScore
    chooser: ChoiceScore | None
    chosen: Mapping[str, float]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodChoice:
        n, chooser = values["n"], values["chooser"]
        scores = {name: ChoiceScore.from_dict(values[name], n) for name in ("random", "best", "oracle")}
        return cls(
            n=n,
            chooser=None if chooser is None else ChoiceScore.from_dict(chooser, n),
            chosen=values["chosen"],
            **scores,
        )


@dataclass(frozen=True)
class CellCost(JsonRecord):
    """Dollars and seconds of a cell; None where a price is missing or something was not measured."""

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
