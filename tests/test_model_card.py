"""The card of a trained student: what it was made of, how good it is, how it is run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("trl")

import fireact
from fireact.base import jsonl
from fireact.base.progress import LineProgress
from fireact.base.run_directory import RunDir
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.training.model_card import find_hub_id, show_on_card
from fireact.training.train import TrainConfig, train
from test_train import RECIPE
from test_train_more import trajectories
from tiny import tiny_model


def test_the_card_names_base_data_tools_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = tiny_model(tmp_path / "student", positions=4096)
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "_name_or_path": "someone/tiny-model"}))
    jsonl.write_objects(tmp_path / "data.jsonl", [one.to_dict() for one in trajectories(6)])
    recipe = replace(RECIPE, epochs=1)
    train(TrainConfig(data=str(tmp_path / "data.jsonl"), student=str(student), recipe=recipe), tmp_path / "mine")
    card = (tmp_path / "mine" / "adapter" / "README.md").read_text()
    assert 'base_model: "someone/tiny-model"' in card and "`data.jsonl`, 6 trajectories" in card
    assert "Not measured yet" in card and "fireact serve mine" in card
    adapter = json.loads((tmp_path / "mine" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "someone/tiny-model" and adapter["r"] == RECIPE.rank
    settings = EvalConfig(agent=str(tmp_path / "mine"), tasks=("brief:HOP",), n=3, other_tools=True)
    manifest = evaluate(settings, tmp_path / "ev")
    (result,) = manifest["results"].values()
    low, high = result["em_interval"]
    row = f"| 3 | {100 * result['em']:.1f} ({100 * low:.1f} to {100 * high:.1f}) |"
    card_file = tmp_path / "mine" / "adapter" / "README.md"
    assert row in card_file.read_text()
    for index in (1, 2):  # shards alone are not shown, the joined run is
        evaluate(replace(settings, n=4, shard=f"{index}/2"), tmp_path / str(index))
    assert "| 4 | " not in card_file.read_text()
    shards = [str(tmp_path / str(index)) for index in (1, 2)]
    manifest = fireact.join(*shards, out=tmp_path / "joined").manifest
    (result,) = manifest["results"].values()
    assert f"| 4 | {100 * result['em']:.1f} (" in card_file.read_text() and row in card_file.read_text()
    manifest_file = tmp_path / "mine" / "manifest.json"
    weights = json.loads(manifest_file.read_text())["adapter_sha256"]
    manifest_file.write_text(manifest_file.read_text().replace(weights, "0" * 64))
    fireact.join(*shards, out=tmp_path / "later", progress=LineProgress())
    assert "the shards ran other weights" in capsys.readouterr().err
    assert "later" not in (tmp_path / "mine" / "evaluations.jsonl").read_text()


def test_a_base_is_named_by_its_hub_id_where_it_has_one(tmp_path: Path) -> None:
    assert find_hub_id("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert find_hub_id("org/model") == "org/model"
    assert find_hub_id(str(tmp_path)) == str(tmp_path)


def test_a_hosted_student_has_no_card(tmp_path: Path) -> None:
    with RunDir(tmp_path / "tune", verb="tune", settings={"data": "d", "model": "openai:gpt-4o-mini"}) as run:
        run.finish(agent="openai:ft-of-mine", tuned=True)
    show_on_card(str(tmp_path / "tune"), tmp_path / "ev", {}, LineProgress())
    assert not (tmp_path / "tune" / "evaluations.jsonl").exists()
