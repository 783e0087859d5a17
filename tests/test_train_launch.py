"""Several processes, with all weights in each or a part of them: the curve, the weights and the resuming of one."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireact.base import jsonl
from fireact.errors import ConfigError, DataError, FireactError
from fireact.training.batches import MOST_PADDING
from fireact.training.launch import (
    build_launch_command,
    launch_config_path,
    list_launch_configs,
    machine_rank,
    parse_launch,
    validate_launch,
)
from fireact.training.log import truncate_log
from fireact.training.train import TrainConfig, train

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.training.checkpoints import find_last_checkpoint  # noqa: E402
from launches import fork_launches, serve_launches  # noqa: E402
from test_train import RECIPE, losses  # noqa: E402
from test_train_more import trajectories  # noqa: E402
from tiny import tiny_model  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> Iterator[None]:
    """Products in float32: processes add in another order, and Adam's first steps magnify what is rounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIREACT_BFLOAT16", "off")
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("launch")
    student = str(tiny_model(folder / "student"))
    jsonl.write_objects(folder / "data.jsonl", (one.to_dict() for one in trajectories()))
    recipe = replace(RECIPE, batch_size=5, validation=0.25, patience=5)
    return TrainConfig(data=str(folder / "data.jsonl"), student=student, recipe=recipe)


def test_what_is_launched_with() -> None:
    assert parse_launch("4") == {"processes": 4}
    assert parse_launch("fsdp") == {"accelerate": "fsdp"}
    assert parse_launch("fsdp:2") == {"accelerate": "fsdp", "processes": 2}
    assert parse_launch("fsdp:1") == {"accelerate": "fsdp", "processes": 1}
    with pytest.raises(ConfigError, match="ddp, fsdp, two-machines"):
        parse_launch("fdsp")


@pytest.mark.parametrize("name", list_launch_configs())
def test_shipped_configurations_are_accelerate_s(name: str, tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded: Any = load_config_from_file(launch_config_path(name))
    assert loaded.num_processes >= 4
    assert machine_rank(name) == 0
    words = build_launch_command(tmp_path, tmp_path, processes=2, accelerate=name)
    assert words[words.index("--config_file") + 1].endswith(f"{name}.yaml")
    assert words[words.index("--num_processes") + 1] == "2"
    one, as_written = (
        build_launch_command(tmp_path, tmp_path, processes=count, accelerate=name) for count in (1, None)
    )
    assert one[one.index("--num_processes") + 1] == "1" and "--num_processes" not in as_written


@pytest.fixture(scope="module")
def alone(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process makes, for each kind."""
    found = {}
    for kind in ("lora", "full"):
        found[kind] = tmp_path_factory.mktemp(kind)
        train(of_kind(config, kind), found[kind])
    return found


@pytest.fixture(scope="module")
def launch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The address of a server that forks launches. Of each kind of launch, one test starts it without the server."""
    with serve_launches(tmp_path_factory.mktemp("launches") / "socket") as address:
        yield address


def of_kind(config: TrainConfig, kind: str) -> TrainConfig:
    rate = {"lora": 0.02, "full": 0.003}[kind]
    return replace(config, recipe=replace(config.recipe, kind=kind, learning_rate=rate))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_spread_weights_give_the_curve_and_the_weights_of_one_process(
    config: TrainConfig, alone: dict[str, Path], kind: str, tmp_path: Path, launch_server: Path
) -> None:
    """FSDP2 over gloo, 2 processes; the run is then cut back to a checkpoint and gone on with."""
    settings = replace(of_kind(config, kind), accelerate="fsdp", processes=2)
    with nullcontext() if kind == "lora" else fork_launches(launch_server):
        manifest = train(settings, tmp_path)
    assert manifest["processes"] == 2 and manifest["padding"] <= MOST_PADDING
    same(tmp_path, alone[kind], kind)
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")
    assert find_last_checkpoint(tmp_path / "checkpoints")[1] == 2
    with fork_launches(launch_server):
        assert train(settings, tmp_path)["resumed_from_step"] == 2
    same(tmp_path, alone[kind], kind)


@pytest.mark.slow
def test_copied_weights_give_the_curve_and_the_weights_of_one_process(
    config: TrainConfig, alone: dict[str, Path], tmp_path: Path, launch_server: Path
) -> None:
    settings = replace(config, processes=2)
    assert train(settings, tmp_path)["processes"] == 2
    same(tmp_path, alone["lora"], "lora")
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")
    with fork_launches(launch_server):
        assert train(settings, tmp_path)["resumed_from_step"] == 2
    same(tmp_path, alone["lora"], "lora")


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(config: TrainConfig, tmp_path: Path, launch_server: Path) -> None:
    """Without questions held out for validation."""
    settings = replace(config, recipe=replace(RECIPE, batch_size=5))
    train(settings, tmp_path / "one")
    with fork_launches(launch_server):
        assert train(replace(settings, processes=2), tmp_path / "two")["processes"] == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.01)
    assert [row["step"] for row in jsonl.read_objects(tmp_path / "two" / "log.jsonl")] == list(range(1, 7))


def same(out: Path, other: Path, kind: str) -> None:
    from safetensors.torch import load_file

    assert losses(out) == pytest.approx(losses(other), rel=0.01)
    mine, theirs = (list(jsonl.read_objects(where / "validation.jsonl")) for where in (out, other))
    for row, wanted in zip(mine, theirs, strict=True):
        assert row["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=0.01)
    name = "adapter/adapter_model.safetensors" if kind == "lora" else "model/model.safetensors"
    weights, wanted = load_file(out / name), load_file(other / name)
    assert set(weights) == set(wanted)
    for key, weight in wanted.items():
        near = (weights[key] - weight).norm() / weight.norm()
        assert near < 0.05, key


def test_a_worker_knows_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from fireact.base.machine import training_device

    monkeypatch.setitem(os.environ, "LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device() == "cuda:3"
    monkeypatch.setitem(os.environ, "ACCELERATE_USE_CPU", "true")
    assert training_device() == "cpu"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    validate_launch(processes=2, accelerate=None, kind="lora")
    validate_launch(processes=2, accelerate="ddp", kind="qlora")
    with pytest.raises(ConfigError, match=r"means 3 processes .* 2 GPUs. Give --launch 2"):
        validate_launch(processes=3, accelerate=None, kind="lora")
    with pytest.raises(ConfigError, match=r"--launch ddp means 4 processes .* 2 GPUs. Give --launch ddp:2"):
        validate_launch(processes=None, accelerate="ddp", kind="lora")
    validate_launch(processes=None, accelerate=machine(tmp_path, 0, 1), kind="lora")  # one on each of two machines
    with pytest.raises(ConfigError, match="qlora keeps all quantised weights"):
        validate_launch(processes=2, accelerate="fsdp", kind="qlora")


@pytest.mark.parametrize("lacks", ["patience", "length"])
@pytest.mark.slow
def test_an_error_of_a_worker_is_the_launcher_s(
    config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str], lacks: str
) -> None:
    """Its class, which decides the exit code, its words, and no report of torchrun's."""
    changes: dict[str, Any] = {
        "patience": {"patience": 1, "validation": 0.0},
        "length": {"max_length": 5, "validation": 0.0, "patience": 0},
    }[lacks]
    kind, said = {"patience": (ConfigError, "patience needs"), "length": (DataError, "none of 12 samples fits")}[lacks]
    settings = replace(config, recipe=replace(config.recipe, **changes), processes=2)
    with pytest.raises(kind, match=said):
        train(settings, tmp_path / "run")
    heard = capfd.readouterr().err
    assert "Traceback" not in heard and "exitcode" not in heard
    assert "torch.distributed.run" in (tmp_path / "run" / "launch.txt").read_text()


def test_a_worker_ends_with_its_launcher() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    program = (
        "from fireact.training.worker import exit_with_launcher; import time; "
        f"exit_with_launcher({launcher.pid}, every=0.05); print('watching', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert worker.stdout is not None and worker.stdout.readline() == b"watching\n" and worker.poll() is None
    launcher.kill()
    launcher.wait()
    assert worker.wait(600) == 1
    worker.stdout.close()


def test_only_one_process_cuts_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text('{"step":1}\n{"step":2}\n{"step":3}\n{"st')
    logged = path.read_bytes()
    assert truncate_log(path, done_steps=2, write=False) == [{"step": 1}, {"step": 2}] and path.read_bytes() == logged
    assert (
        truncate_log(path, done_steps=2) == truncate_log(path, done_steps=2, write=False)
        and path.read_text() == '{"step":1}\n{"step":2}\n'
    )


# --- several machines ---


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def machine(folder: Path, rank: int, port: int) -> str:
    """A configuration such as each of two machines has, here with one process each."""
    path = folder / f"machine-{rank}.yaml"
    path.write_text(
        f"compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: 'no'\nnum_machines: 2\n"
        f"num_processes: 2\nmachine_rank: {rank}\nmain_process_ip: 127.0.0.1\nmain_process_port: {port}\n"
    )
    return str(path)


def train_on_both(config: TrainConfig, outs: tuple[Path, Path], folder: Path) -> list[dict[str, Any] | FireactError]:
    """Train on machine 0 and machine 1 at the same time, and give what each launch returns or raises."""
    port = free_port()

    def launch(at: int) -> dict[str, Any] | FireactError:
        try:
            return train(replace(config, accelerate=machine(folder, at, port)), outs[at])
        except FireactError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(launch, (0, 1), timeout=600))


@pytest.mark.slow
def test_two_machines_share_a_directory_and_give_the_curve_of_one(
    config: TrainConfig, alone: dict[str, Path], tmp_path: Path, launch_server: Path
) -> None:
    """Two launches over loopback; the run is then cut back to a checkpoint and gone on with, and at last complete."""
    out = tmp_path / "run"
    with fork_launches(launch_server):
        first, second = train_on_both(config, (out, out), tmp_path)
    assert isinstance(first, dict), first
    assert first["processes"] == 2 and second == {"verb": "train", "machine_rank": 1}
    same(out, alone["lora"], "lora")
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "checkpoints" / "checkpoint-4")
    with fork_launches(launch_server):
        first, second = train_on_both(config, (out, out), tmp_path)
    assert isinstance(first, dict) and isinstance(second, dict) and first["resumed_from_step"] == 2
    same(out, alone["lora"], "lora")
    complete = train(replace(config, accelerate=machine(tmp_path, 1, 1)), out)  # neither lock nor launch
    assert complete == json.loads((out / "manifest.json").read_text())


@pytest.mark.slow
def test_machines_with_directories_of_their_own_do_not_go_on_from_different_steps(
    config: TrainConfig, tmp_path: Path, launch_server: Path
) -> None:
    outs = (tmp_path / "first", tmp_path / "second")
    with fork_launches(launch_server):
        first, second = train_on_both(config, outs, tmp_path)
    assert isinstance(first, dict) and isinstance(second, dict)
    assert not (outs[1] / "config.toml").exists() and not (outs[1] / "manifest.json").exists()
    (outs[0] / "manifest.json").unlink()
    with fork_launches(launch_server):
        first, second = train_on_both(config, outs, tmp_path)
    assert isinstance(first, FireactError) and isinstance(second, FireactError)
    assert "different checkpoints" in str(first) and "shared disk" in str(first)


def test_which_machine_this_is(tmp_path: Path) -> None:
    assert machine_rank(None) == 0 and machine_rank(machine(tmp_path, 1, 29500)) == 1
    for text in ("", "a: [", "num_machines: 2\n", "machine_rank: first\ndistributed_type: MULTI_GPU\n"):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"odd\.yaml is no configuration of accelerate"):
            machine_rank(str(tmp_path / "odd.yaml"))
