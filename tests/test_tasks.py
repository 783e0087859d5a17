"""The four tasks: sizes, splits, limits, scoring by task, and a validation that finds what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fakes import Small
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.rollout.loading import load_task
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


def _hub_set(folder: Path, **splits: list[dict[str, Any]]) -> None:
    """A data set that ``datasets`` loads under the name of its folder, as it loads one of the hub."""
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_data_set_of_the_hub_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"Who is {n}?", "answers": {"text": [f"{n}", f"the {n}"]}, "key": f"k{n}"} for n in range(6)]
    _hub_set(Path("me/qa"), train=rows[:4], validation=rows[4:])
    task = load_task("hub:me/qa:q,answers.text,id=key")
    assert task.name == "qa" and task.splits == ("train", "dev")
    first, second = task.examples("dev")
    assert (first.id, first.question, first.answer, first.meta) == ("k4", "Who is 4?", "4", {"aliases": ["the 4"]})
    assert task.score(second, "the 5")["em"] == 1.0 and task.score(second, "6")["em"] == 0.0
    with pytest.raises(ConfigError, match="split of qa"):
        task.examples("test")
    with pytest.raises(DataError, match=r"no column 'question'. There are: q, answers, key"):
        load_task("hub:me/qa").examples("train")
    _hub_set(Path("me/small"), train=[{"question": f"Is {n} odd?", "answer": n % 2 == 1} for n in range(40)])
    alone = load_task("hub:me/small")
    assert alone.splits == ("train", "dev", "test") and alone.prompts == "strategyqa"
    assert sum(len(alone.examples(split)) for split in alone.splits) == 40


@pytest.mark.parametrize("spec", ["hub:", "hub:a/b/c:q,a", "hub:me/qa:q", "hub:me/qa:q,a,colour=red"])
def test_a_spec_of_the_hub_that_names_no_set_or_columns_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        load_task(spec)


def test_a_set_that_is_not_on_the_hub_is_told_with_ways_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ProviderError, match="cannot load me/none from the hub"):
        load_task("hub:me/none:q,a").examples("train")
