"""Improve: rounds of the student's own tries, each a verb; it stops when nothing is gained, and goes on after a kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import trajectory
from fireact import jsonl
from fireact.errors import ConfigError
from fireact.types import Example

pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.improvement import ImproveConfig, improve
from fireact.store import read_trajectories
from fireact.training.run import TrainConfig, train
from test_train import RECIPE
from tiny import tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("improve")
    rows = [
        replace(trajectory(at), task="small", example=Example(f"train-{at}", f"Question {at}?", "a")) for at in range(4)
    ]
    jsonl.write(folder / "data.jsonl", (row.to_dict() for row in rows))
    student = str(tiny_model(folder / "student"))
    train(TrainConfig(data=str(folder / "data.jsonl"), student=student, recipe=RECIPE), folder / "train")
    return folder / "train"


def settings(run: Path, **more: int) -> ImproveConfig:
    few = {"start": 4, "n": 2, "tries": 2, "rounds": 2, "validate": 2, **more}
    return ImproveConfig(run=str(run), tasks=("fakes:Small",), recipe=RECIPE, workers=2, **few)


def test_it_stops_when_a_round_gains_nothing_and_names_the_best(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "improve"
    manifest = improve(settings(run), out)
    scores = [one["em"] for one in manifest["rounds"]]
    assert len(scores) == 2 and scores[1] <= scores[0] and manifest["best"] == 0 and manifest["agent"] == str(run)
    tried = [one for again in range(2) for one in read_trajectories(out / "round-1" / f"collect-{again}")]
    assert {one.example.id for one in tried} == {"train-4", "train-5"} and {one.seed for one in tried} == {0, 1}
    measured = {one.example.id for one in read_trajectories(out / "round-1" / "eval")}
    assert measured == {"dev-0", "dev-1"}
    counts = manifest["rounds"][1]["counts"]
    assert sum(count["n"] for count in counts.values()) >= 4 and all(c["n"] == c["correct"] for c in counts.values())


def test_it_goes_on_after_a_kill_without_doing_anything_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "improve"
    first = improve(settings(run), out)
    (out / "manifest.json").unlink()
    trained = (out / "round-1" / "train" / "manifest.json").stat().st_mtime_ns
    again = improve(settings(run), out)
    assert (
        again["rounds"] == first["rounds"]
        and (out / "round-1" / "train" / "manifest.json").stat().st_mtime_ns == trained
    )


def test_what_cannot_be_improved_is_said_before_anything_is_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 200 train questions"):
        improve(settings(run, n=150), tmp_path / "a")
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
    """By doctor --serve and by improve, in words."""
    from fireact.serving.conformance import conformance
    from fireact.serving.export import ExportConfig, export

    export(ExportConfig(run=str(run)), tmp_path / "merged")
    with pytest.raises(ConfigError, match=f"no training data .* fireact doctor {run} --serve"):
        conformance(str(tmp_path / "merged"))
    with pytest.raises(ConfigError, match="was made by export"):
        improve(settings(tmp_path / "merged"), tmp_path / "d")
