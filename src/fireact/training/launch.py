"""Training in several processes: the command of accelerate, run and watched.

The launcher holds the run directory. The workers read its settings and train, and the first worker writes its figures
for the launcher. If a worker writes an error instead, the launcher ends all workers and raises it. Of several machines
only the one of rank 0 holds the directory. The others only run their processes and write no settings or manifest, so
that all machines may share one directory. What a worker does is the business of ``worker``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from fireact import errors
from fireact.base.jsonl import replace_text
from fireact.base.machine import training_device
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import CONFIG, shell_path, to_toml_table
from fireact.errors import ConfigError, FireactError, unknown_name_error
from fireact.training.recipe import QUANTISED

FIGURES, ERROR, LAUNCHED = ".figures.json", ".error.json", "launch.txt"
LAUNCHER = "FIREACT_LAUNCHER"
"""The environment variable with the process id of a worker's launcher."""


def list_launch_configs() -> list[str]:
    """The names of the accelerate configurations that ship with the package."""
    return sorted(
        file.name.removesuffix(".yaml") for file in files("fireact.training").joinpath("accelerate").iterdir()
    )


def parse_launch(launch: str) -> dict[str, Any]:
    """Parse ``4``, a file, ``fsdp`` or ``fsdp:2`` into settings of ``train``. Raises ConfigError for anything else."""
    name, _, count = launch.rpartition(":") if launch.rpartition(":")[2].isdecimal() else (launch, "", "")
    if not name:
        return {"processes": int(count)}
    if name not in list_launch_configs() and not Path(name).is_file():
        raise unknown_name_error(
            "configuration to launch with", name, [*list_launch_configs(), "a number of processes", "a YAML file"]
        )
    return {"accelerate": name, **({"processes": int(count)} if count else {})}


def launch_config_path(name: str) -> str:
    """The path of an accelerate configuration, from its name or path."""
    return (
        str(files("fireact.training").joinpath("accelerate", f"{name}.yaml")) if name in list_launch_configs() else name
    )


def machine_rank(accelerate: str | None) -> int:
    """The rank of this machine in its accelerate configuration; 0 where there is one machine. Raises ConfigError."""
    return 0 if accelerate is None else int(read_launch_config(accelerate).machine_rank)


def read_launch_config(accelerate: str) -> Any:
    """Read a configuration as accelerate does. Raises ConfigError."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(launch_config_path(accelerate))
        int(config.machine_rank)
    except Exception as error:  # invalid YAML, a missing key, or an unknown value
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{accelerate} is no configuration of accelerate ({reason}). "
            "Copy a shipped one, or write one with: accelerate config"
        ) from error
    return config


def count_processes(processes: int | None, accelerate: str | None) -> int:
    """The number of training processes on all machines: ``processes``, or that of the configuration."""
    return processes or (1 if accelerate is None else int(read_launch_config(accelerate).num_processes))


def count_local_processes(processes: int | None, accelerate: str | None) -> int:
    """The number of training processes on this machine."""
    machines = 1 if accelerate is None else max(1, int(read_launch_config(accelerate).num_machines))
    return count_processes(processes, accelerate) // machines


def validate_launch(*, processes: int | None, accelerate: str | None, kind: str) -> None:
    """Raise ConfigError for more processes than GPUs, and for a recipe whose weights cannot be sharded."""
    import torch

    config = None if accelerate is None else read_launch_config(accelerate)
    if config is not None and kind in QUANTISED and str(config.distributed_type).rpartition(".")[2] == "FSDP":
        raise ConfigError(
            f"the recipe's kind {kind} keeps all quantised weights on each GPU, but {accelerate} shards weights over "
            "the GPUs. Use --launch ddp, or --kind lora."
        )
    count = count_local_processes(processes, accelerate)
    gpus = torch.cuda.device_count() if training_device() != "cpu" else count
    if count > gpus:
        option = f"--launch {accelerate}" if accelerate else "--launch"
        raise ConfigError(
            f"{option} means {count} processes on this machine, which has {gpus} GPUs. Give --launch "
            f"{f'{accelerate}:{gpus}' if accelerate in list_launch_configs() else gpus}, or set num_processes in your "
            "own configuration."
        )


def launch_training(
    out: Path, *, processes: int | None, accelerate: str | None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Train with several processes and return fields for the manifest. Raises the first error of a worker."""
    (out / FIGURES).unlink(missing_ok=True)
    command = build_launch_command(out, out, processes=processes, accelerate=accelerate)
    replace_text(out / LAUNCHED, f"{shlex.join(command)}\n")
    progress.say(f"train: launched as {shlex.join(command)}")
    _run_command(command, out, out)
    if not (out / FIGURES).exists():
        raise FireactError(
            f"the launched processes ended, but the first one left no figures in {out}. On several machines, set "
            "machine_rank: 0 in the configuration of the main machine, and another rank on each other machine."
        )
    facts: dict[str, Any] = json.loads((out / FIGURES).read_text())
    (out / FIGURES).unlink()
    return facts


def run_secondary_machine(
    out: Path, settings: Mapping[str, Any], *, processes: int | None, accelerate: str | None
) -> None:
    """Train with the processes of a machine that is not the first; the first machine writes what they learn."""
    with tempfile.TemporaryDirectory(prefix="fireact-") as scratch:
        replace_text(Path(scratch) / CONFIG, tomli_w.dumps({"verb": "train", **to_toml_table(settings)}))
        _run_command(
            build_launch_command(out, Path(scratch), processes=processes, accelerate=accelerate), out, Path(scratch)
        )


def _run_command(command: list[str], out: Path, settings: Path) -> None:
    """Run a command until it ends, or until a worker writes an error to the directory of the settings."""
    (settings / ERROR).unlink(missing_ok=True)
    with subprocess.Popen(command, env=_worker_environment()) as process:
        try:
            while process.poll() is None and not (settings / ERROR).exists():
                time.sleep(0.1)
        finally:
            _kill_process_tree(process)
    if (settings / ERROR).exists():
        raise read_worker_error(settings)
    if process.returncode:
        raise FireactError(
            f"the launched processes ended with status {process.returncode}; their output is above. "
            f"What was trained is kept. Resume it: fireact resume {shell_path(out)}"
        )


def _kill_process_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a running launch and its workers at once; after a polite signal torchrun would print a long report."""
    import psutil

    if process.poll() is not None:
        return
    try:
        workers = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.kill()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def write_worker_error(error: FireactError, settings: Path) -> None:
    """Write the error of a worker for its launcher, atomically, since several workers may write one."""
    temporary = settings / f"{ERROR}.{os.getpid()}"
    temporary.write_text(json.dumps({"kind": type(error).__name__, "said": str(error)}), encoding="utf-8")
    temporary.replace(settings / ERROR)


def read_worker_error(settings: Path) -> FireactError:
    """Read the error of a worker, and delete its file."""
    record = json.loads((settings / ERROR).read_text(encoding="utf-8"))
    (settings / ERROR).unlink()
    kind: type[FireactError] = getattr(errors, record["kind"], FireactError)
    return kind(record["said"])


def build_launch_command(out: Path, settings: Path, *, processes: int | None, accelerate: str | None) -> list[str]:
    """Build the command that trains: accelerate's; on a CPU torchrun, since accelerate starts it for GPUs only.

    ``processes`` replaces the number of processes in the configuration.
    """
    import torch

    worker_arguments = ["-m", "fireact.training.worker", str(out), str(settings)]
    if accelerate:
        count_options = ["--num_processes", str(processes)] if processes else []
        config = ["--config_file", launch_config_path(accelerate), *count_options]
        return [sys.executable, "-m", "accelerate.commands.launch", *config, *worker_arguments]
    if torch.cuda.is_available():
        options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
        return [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *options,
            "--dynamo_backend",
            "no",
            *worker_arguments,
        ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *worker_arguments,
    ]


def _worker_environment() -> dict[str, str]:
    import torch

    environment = {**os.environ, LAUNCHER: str(os.getpid())}
    return (
        environment
        if torch.cuda.is_available()
        else {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    )
