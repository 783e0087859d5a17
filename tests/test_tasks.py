"""The four tasks: sizes, splits, limits, scoring by task, and a validation that finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from fakes import Small
from fireact.errors import ConfigError
from fireact.tasks.geo import LIMITS, GeoTask, geo_choice, geo_compose, geo_hop, geo_yesno
from fireact.tasks.validate import solve_question, validate_task
from fireact.types import Example, Limits
from fireact.world.facts import Fact
from fireact.world.questions import SHAPES, WorldMeta

TASKS = [geo_hop(), geo_yesno(), geo_choice(), geo_compose()]


@dataclass(frozen=True)
class Altered:
    """A task whose first test question is changed."""

    inner: GeoTask
    change: Callable[[Example], Example]
    name: str = "altered"
    limits: Limits = LIMITS

    def examples(self, split: str) -> Sequence[Example]:
        first, *rest = self.inner.examples(split)
        return [self.change(first), *rest] if split == "test" else [first, *rest]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return self.inner.score(example, answer)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_is_sound(task: GeoTask) -> None:
    found = validate_task(task)
    assert found.problems == ()
    assert sum(found.counts["test"].values()) >= 150 and sum(found.counts["dev"].values()) >= 50
    assert set(found.counts) == set(task.splits)
    assert task.limits == Limits(max_steps=8, max_tokens=96, reflect_at=(3, 6))


@pytest.mark.parametrize("task", TASKS[:3], ids=lambda task: task.name)
def test_training_tasks_have_enough_to_train_on(task: GeoTask) -> None:
    assert len(task.examples("train")) >= 400
    assert task.examples("train") == task.examples("train")


def test_the_held_out_task_has_no_train_split_and_no_shape_of_the_others() -> None:
    with pytest.raises(ConfigError, match="held out"):
        geo_compose().examples("train")
    with pytest.raises(ConfigError, match=r"unknown split of .* 'tset'"):
        geo_compose().examples("tset")
    trained = {make for task, shapes in SHAPES.items() if task != "geo-compose" for make, _ in shapes}
    assert not trained & {make for make, _ in SHAPES["geo-compose"]}


def _meta(**values: object) -> Callable[[Example], Example]:
    return lambda example: replace(example, meta={**example.meta, **values})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda example: replace(example, answer="Atlantis"), "not the only one"),
        (lambda example: replace(example, answer=""), "does not score 1"),
        (_meta(wrong=[geo_hop().examples("test")[0].answer]), "the wrong answer"),
        (lambda example: replace(example, question=geo_hop().examples("train")[0].question), "share the question"),
        (lambda example: replace(example, question=geo_hop().examples("test")[1].question), "more than once"),
        (_meta(entities=list(geo_hop().examples("train")[0].meta["entities"])), "of another split"),
        (_meta(facts=[{"country": "Atlantis", "relation": "capital", "value": "X", "find": "value"}]), "table"),
    ],
)
def test_validation_finds_what_is_wrong(change: Callable[[Example], Example], problem: str) -> None:
    assert any(problem in found for found in validate_task(Altered(geo_hop(), change)).problems)


def test_validation_finds_a_fact_that_the_tool_does_not_give() -> None:
    found = validate_task(geo_compose(), lambda **_: "No results found.")
    assert len(found.problems) >= 250 and "within 3 queries" in found.problems[0]


def test_validation_takes_a_task_of_the_users_own() -> None:
    found = validate_task(
        Small()
    )  # it has no facts, so its scoring and splits are checked; it asks the same in every split
    assert found.counts["dev"] == {"?": 200}
    assert len(found.problems) == 3 and all("share the question 'Question 0?'" in problem for problem in found.problems)


def test_a_comparison_that_is_too_close_has_no_answer() -> None:
    facts = [Fact("Norway", "people", "5.2 million"), Fact("Finland", "people", "5.5 million")]
    meta = WorldMeta("comparison", 2, ["Norway", "Finland"], facts, ["Norway"], [])
    assert solve_question("?", meta) == set()
