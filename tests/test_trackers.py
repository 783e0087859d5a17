"""Trackers of experiments: refused before anything is loaded or written, and sent the curve with validation figures."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes import trajectory
from fireact.base import jsonl
from fireact.base.progress import SILENT
from fireact.errors import ConfigError
from fireact.training.trackers import TRACKERS, check_trackers, set_tensorboard_directory

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.training.preference import PreferConfig, prefer  # noqa: E402
from fireact.training.student import load_student  # noqa: E402
from fireact.training.train import TrainConfig, train  # noqa: E402
from fireact.training.trainer import _TrainingRun, build_trainer  # noqa: E402
from test_preference import imitated, tried  # noqa: E402, F401
from test_train import RECIPE, samples  # noqa: E402
from tiny import tiny_model  # noqa: E402

ABSENT = [name for name in TRACKERS if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(not ABSENT, reason="all trackers are installed")
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    jsonl.write_objects(tmp_path / "data.jsonl", [trajectory(1).to_dict()])
    config = TrainConfig(data=str(tmp_path / "data.jsonl"), student=str(tmp_path / "none"), report_to=ABSENT[:1])
    said = f"{ABSENT[0]} is not installed.*Run: pip install {ABSENT[0]}$"
    with pytest.raises(ConfigError, match=said):
        train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=said):
        prefer(PreferConfig(data=config.data, start=str(tmp_path / "none"), report_to=ABSENT[:1]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_trackers_are_sent_the_validation_figures_with_the_loss_of_their_step(tmp_path: Path) -> None:
    """What any tracker's callback is given."""
    import transformers

    sent: list[dict[str, Any]] = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            sent.append({"step": state.global_step, **logs})

    model, words, _ = load_student(str(tiny_model(tmp_path / "student")))
    run = _TrainingRun(model, words, samples(8), samples(4), recipe=RECIPE, out=tmp_path / "run", progress=SILENT)
    trainer = build_trainer(run)
    trainer.add_callback(Tracker())
    trainer.train()
    rows = {row["step"]: row for row in jsonl.read_objects(tmp_path / "run" / "validation.jsonl")}
    losses = [one for one in sent if "loss" in one]
    assert [one["step"] for one in losses] == [1, 2, 3, 4] and set(rows) == {2, 4}
    for one in losses:
        assert ("eval_loss" in one) == (one["step"] in rows)
    assert [one["eval_loss"] for one in sent if "eval_loss" in one] == [row["validation_loss"] for row in rows.values()]
    assert losses[-1]["eval_whole_sample_accuracy"] == rows[4]["whole_sample_accuracy"]


def test_two_runs_of_a_process_write_to_their_own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "TENSORBOARD_LOGGING_DIR"
    monkeypatch.delenv(name, raising=False)
    for run in ("a", "b"):
        with set_tensorboard_directory(tmp_path / run):
            assert os.environ[name] == str(tmp_path / run / "tensorboard")
    monkeypatch.setenv(name, "mine")
    with set_tensorboard_directory(tmp_path):
        assert os.environ[name] == "mine"
    assert os.environ[name] == "mine"


def test_tensorboard_has_the_curves_of_imitation_and_of_preference(imitated: Path, tmp_path: Path) -> None:  # noqa: F811
    data, student = str(imitated / "data.jsonl"), str(imitated / "student")
    recipe = replace(RECIPE, validation=0.25)
    train(TrainConfig(data=data, student=student, recipe=recipe, report_to=("tensorboard",)), tmp_path / "run")
    both = [tried(index, answer, em=float(answer == "a"), seed=ord(answer)) for index in range(4) for answer in "ab"]
    jsonl.write_objects(tmp_path / "tries.jsonl", (one.to_dict() for one in both))
    start = PreferConfig(
        data=str(tmp_path / "tries.jsonl"), start=str(tmp_path / "run"), epochs=1, report_to=("tensorboard",)
    )
    prefer(start, tmp_path / "dpo")
    found = scalars(tmp_path / "run" / "tensorboard")
    rows = list(jsonl.read_objects(tmp_path / "run" / "validation.jsonl"))
    assert found["eval/loss"] == pytest.approx([row["validation_loss"] for row in rows], rel=1e-5)
    assert len(found["train/loss"]) == len(list(jsonl.read_objects(tmp_path / "run" / "log.jsonl")))
    assert "eval/whole_sample_accuracy" in found
    assert "train/rewards/accuracies" in scalars(tmp_path / "dpo" / "tensorboard")


def scalars(directory: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(directory))
    read.Reload()
    return {tag: [event.value for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
