"""Several processes, with all weights in each or a part of them: the curve, the weights and the resuming of one."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireact import jsonl
from fireact.errors import ConfigError
from fireact.training.batches import MOST_PADDING
from fireact.training.curve import cut
from fireact.training.launch import command, configuration, parse, shipped
from fireact.training.run import TrainConfig, train

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.training.checkpoints import last_whole  # noqa: E402
from test_train import RECIPE, losses  # noqa: E402
from test_train_more import trajectories  # noqa: E402
from tiny import tiny_model  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("launch")
    student = str(tiny_model(folder / "student"))
    jsonl.write(folder / "data.jsonl", (one.to_dict() for one in trajectories()))
    recipe = replace(RECIPE, batch_size=5, validation=0.25, patience=5)
    return TrainConfig(data=str(folder / "data.jsonl"), student=student, recipe=recipe)


def test_what_is_launched_with() -> None:
    assert parse("4") == {"processes": 4}
    assert parse("fsdp") == {"accelerate": "fsdp"}
    assert parse("fsdp:2") == {"accelerate": "fsdp", "processes": 2}
    with pytest.raises(ConfigError, match="ddp, fsdp, two-machines"):
        parse("fdsp")


@pytest.mark.parametrize("name", shipped())
def test_shipped_configurations_are_accelerate_s(name: str, tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded: Any = load_config_from_file(configuration(name))
    assert loaded.num_processes >= 4
    words = command(tmp_path, processes=2, accelerate=name)
    assert words[words.index("--config_file") + 1].endswith(f"{name}.yaml")
    assert words[words.index("--num_processes") + 1] == "2"


@pytest.fixture(scope="module")
def alone(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process makes, for each kind."""
    found = {}
    for kind in ("lora", "full"):
        found[kind] = tmp_path_factory.mktemp(kind)
        train(of_kind(config, kind), found[kind])
    return found


def of_kind(config: TrainConfig, kind: str) -> TrainConfig:
    rate = {"lora": 0.02, "full": 0.003}[kind]
    return replace(config, recipe=replace(config.recipe, kind=kind, learning_rate=rate))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_spread_weights_give_the_curve_and_the_weights_of_one_process(
    config: TrainConfig, alone: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """FSDP2 over gloo, 2 processes; the run is then cut back to a checkpoint and gone on with."""
    settings = replace(of_kind(config, kind), accelerate="fsdp", processes=2)
    manifest = train(settings, tmp_path)
    assert manifest["processes"] == 2 and manifest["padding"] <= MOST_PADDING
    same(tmp_path, alone[kind], kind)
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")
    assert last_whole(tmp_path / "checkpoints")[1] == 2
    assert train(settings, tmp_path)["resumed_from_step"] == 2
    same(tmp_path, alone[kind], kind)


@pytest.mark.slow
def test_copied_weights_give_the_curve_and_the_weights_of_one_process(
    config: TrainConfig, alone: dict[str, Path], tmp_path: Path
) -> None:
    settings = replace(config, processes=2)
    assert train(settings, tmp_path)["processes"] == 2
    same(tmp_path, alone["lora"], "lora")
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")
    assert train(settings, tmp_path)["resumed_from_step"] == 2
    same(tmp_path, alone["lora"], "lora")


def same(out: Path, other: Path, kind: str) -> None:
    from safetensors.torch import load_file

    assert losses(out) == pytest.approx(losses(other), rel=0.01)
    mine, theirs = (list(jsonl.read(where / "validation.jsonl")) for where in (out, other))
    for row, wanted in zip(mine, theirs, strict=True):
        assert row["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=0.01)
    name = "adapter/adapter_model.safetensors" if kind == "lora" else "model/model.safetensors"
    weights, wanted = load_file(out / name), load_file(other / name)
    assert set(weights) == set(wanted)
    for key, weight in wanted.items():
        near = (weights[key] - weight).norm() / weight.norm()
        assert near < 0.05, key  # bfloat16 products, summed in another order; Adam's first steps magnify it


def test_a_worker_knows_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from fireact.training.loss import device

    monkeypatch.setitem(os.environ, "LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device() == "cuda:3"
    monkeypatch.setitem(os.environ, "ACCELERATE_USE_CPU", "true")
    assert device() == "cpu"


def test_a_worker_ends_with_its_launcher() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    program = f"from fireact.training.launch import end_with; import time; end_with({launcher.pid}, every=0.05); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", program])
    time.sleep(1.0)
    assert worker.poll() is None
    launcher.kill()
    launcher.wait()
    assert worker.wait(20) == 1


def test_only_one_process_cuts_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text('{"step":1}\n{"step":2}\n{"step":3}\n{"st')
    logged = path.read_bytes()
    assert cut(path, done=2, write=False) == [{"step": 1}, {"step": 2}] and path.read_bytes() == logged
    assert cut(path, done=2) == cut(path, done=2, write=False) and path.read_text() == '{"step":1}\n{"step":2}\n'
