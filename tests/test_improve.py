"""Improve: rounds of the student's own tries, each a verb; it stops when nothing is gained, and goes on after a
kill."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fakes import Small, trajectory
from fireact.base import jsonl
from fireact.data import HELD_OUT, MixConfig, mix
from fireact.errors import ConfigError, DataError
from fireact.types import Example

pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.base.run_directory import read_config, read_manifest, read_trajectories
from fireact.base.verbs import resume
from fireact.pipeline.improvement import ImproveConfig, estimate_improvement, improve
from fireact.training.train import TrainConfig, train
from test_train import RECIPE
from tiny import tiny_model


@dataclass(frozen=True)
class Lenient(Small):
    """Whatever is tried is right, so that a random student has something to learn from; what is measured is wrong."""

    def examples(self, split: str) -> Sequence[Example]:
        return [replace(one, question=f"{split} {one.question}") for one in super().examples(split)]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return {"em": float(example.id.startswith("train")), "f1": 0.0}


@dataclass(frozen=True)
class Hard(Lenient):
    """Nothing is right."""

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return {"em": 0.0, "f1": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("improve")
    rows = [
        replace(trajectory(at), task="small", example=Example(f"train-{at}", f"train Question {at}?", "a"))
        for at in range(4)
    ]
    jsonl.write_objects(folder / "data.jsonl", (row.to_dict() for row in rows))
    student = str(tiny_model(folder / "student"))
    train(
        TrainConfig(data=str(folder / "data.jsonl"), student=student, recipe=RECIPE, tools=("search",)),
        folder / "train",
    )
    return folder / "train"


def settings(run: Path, **more: Any) -> ImproveConfig:
    few = {
        "n": 2,
        "tries": 2,
        "rounds": 2,
        "validate": 2,
        "tasks": ("test_improve:Lenient",),
        "tools": ("search",),
        **more,
    }
    return ImproveConfig(run=str(run), workers=2, **few)


def test_it_stops_when_a_round_gains_nothing_and_names_the_best(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "improve"
    manifest = improve(settings(run), out)
    scores = [one["em"] for one in manifest["rounds"]]
    assert len(scores) == 2 and scores[1] <= scores[0] and manifest["best"] == 0 and manifest["agent"] == str(run)
    assert manifest["stopped"] == "round 1 gained nothing"
    tried = [one for again in range(2) for one in read_trajectories(out / "round-1" / f"collect-{again}")]
    assert {one.example.id for one in tried} == {"train-4", "train-5"} and {one.seed for one in tried} == {0, 1}
    measured = {one.example.id for one in read_trajectories(out / "round-1" / "eval")}
    assert measured == {"dev-0", "dev-1"}
    counts = manifest["rounds"][1]["counts"]
    assert sum(count["n"] for count in counts.values()) >= 4 and all(c["n"] == c["correct"] for c in counts.values())


def test_tools_of_the_run_that_are_only_the_default_are_not_for_a_task_of_ones_own(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"test_improve:Lenient is not a task of .* default tool: give --tool"):
        improve(settings(run, tools=None), tmp_path / "improve")
    assert not (tmp_path / "improve").exists()


def test_it_goes_on_after_a_kill_without_doing_anything_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "improve"
    first = improve(settings(run), out)
    (out / "manifest.json").unlink()
    trained = (out / "round-1" / "train" / "manifest.json").stat().st_mtime_ns
    again = resume(out)
    assert (
        again["rounds"] == first["rounds"]
        and (out / "round-1" / "train" / "manifest.json").stat().st_mtime_ns == trained
    )


def test_what_cannot_be_improved_is_said_before_anything_is_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 200 train questions"):
        improve(settings(run, n=150), tmp_path / "a")
    with pytest.raises(ConfigError, match="start is -5"):
        settings(run, start=-5)
    with pytest.raises(ConfigError, match=r"trained on 2 of the questions .* number 3. .* 4 or more"):
        improve(settings(run, start=2), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="no directory of 'fireact train'"):
        improve(settings(tmp_path), tmp_path / "b")
    preferred = tmp_path / "preferred"
    preferred.mkdir()
    (preferred / "config.toml").write_text('verb = "prefer"\n')
    (preferred / "manifest.json").write_text(json.dumps({"adapter_sha256": "0"}))
    (preferred / "adapter").mkdir()
    with pytest.raises(ConfigError, match="made by prefer"):
        improve(settings(preferred), tmp_path / "c")


def test_a_merged_export_is_said_to_have_no_data(run: Path, tmp_path: Path) -> None:
    """By validate and by improve, in words."""
    from fireact.serving.conformance import check_conformance
    from fireact.serving.export import ExportConfig, export

    export(ExportConfig(run=str(run)), tmp_path / "merged")
    with pytest.raises(ConfigError, match=f"no training data .* fireact validate {run}"):
        check_conformance(str(tmp_path / "merged"))
    with pytest.raises(ConfigError, match="was made by export"):
        improve(settings(tmp_path / "merged"), tmp_path / "d")


def test_students_are_trained_as_the_first_was(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "improve"
    improve(settings(run, tries=1), out)
    before, after = (read_config(where) for where in (run, out / "round-1" / "train"))
    assert {**after, "data": before["data"]} == before and before["recipe"]["learning_rate"] == RECIPE.learning_rate
    written = read_config(out)
    assert written["recipe"] == before["recipe"] and written["tools"] == before["tools"] and written["start"] == 4


def test_what_a_mixture_held_out_measures_every_round(run: Path, tmp_path: Path) -> None:
    data, student = run.parent / "data.jsonl", str(run.parent / "student")
    mix(MixConfig(sources=[str(data)], holdout=0.25), tmp_path / "mix")
    recipe = replace(RECIPE, patience=1)
    train(TrainConfig(data=str(tmp_path / "mix"), student=student, recipe=recipe), tmp_path / "train")
    improve(settings(tmp_path / "train", tries=1, rounds=1), tmp_path / "improve")
    held_out = [(place / "mix" / HELD_OUT).read_bytes() for place in (tmp_path, tmp_path / "improve" / "round-1")]
    assert held_out[0] == held_out[1] != b""
    assert read_manifest(tmp_path / "improve" / "round-1" / "train")["validation_loss"] > 0


def test_data_that_a_round_would_lose_are_refused(run: Path, tmp_path: Path) -> None:
    jsonl.write_objects(tmp_path / "data.jsonl", (replace(trajectory(at), scores={}).to_dict() for at in range(3)))
    student = str(run.parent / "student")
    train(TrainConfig(data=str(tmp_path / "data.jsonl"), student=student, recipe=RECIPE), tmp_path / "train")
    with pytest.raises(ConfigError, match="3 of the 3 trajectories that the run was trained on"):
        improve(settings(tmp_path / "train"), tmp_path / "improve")


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"tasks": ("a", "a")}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"it must be (a number of )?0 or more|name each once"):
        settings(Path("run"), **wrong)


def test_a_round_without_a_success_trains_nothing(run: Path, tmp_path: Path) -> None:
    manifest = improve(settings(run, tasks=("test_improve:Hard",), tries=1), tmp_path / "improve")
    assert len(manifest["rounds"]) == 1 and manifest["best"] == 0
    assert manifest["stopped"].startswith("no try of round 1 succeeded")
    assert not (tmp_path / "improve" / "round-1" / "train").exists()


def test_a_dry_run_counts_the_questions(run: Path) -> None:
    found = estimate_improvement(settings(run)).details
    assert {"start": 4, "questions_a_round": 2, "tries_a_round": 4, "measured_on": 2}.items() <= found.items()


def test_data_that_are_gone_or_hold_what_is_measured_are_said_at_once(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    text = (moved / "config.toml").read_text()
    data = read_config(moved)["data"]
    (moved / "config.toml").write_text(text.replace(data, str(tmp_path / "data.jsonl")))
    with pytest.raises(DataError, match=r"there is no .*data\.jsonl"):
        improve(settings(moved), tmp_path / "a")
    leaked = replace(trajectory(1), example=Example("other", "DEV question 1?", "a"))
    jsonl.write_objects(tmp_path / "data.jsonl", [leaked.to_dict()])
    with pytest.raises(ConfigError, match="trained on 1 of the 2 dev questions"):
        improve(settings(moved), tmp_path / "a")
    assert not (tmp_path / "a").exists()
