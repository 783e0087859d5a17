"""Training in several processes: the command of accelerate, run and watched.

The process that launches holds the run directory; the workers read its settings, train, and the first of them leaves
its figures for the launcher. An error that one of them leaves instead is the launcher's own, which then ends them all. Of several machines the one of rank 0 does so; the others only lend their processes: they
hold no directory and write no settings or manifest, so that all may be given one directory on a shared disk.
What a launched process does is ``worker``'s business.
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
from fireact.errors import ConfigError, FireactError, unknown
from fireact.jsonl import replace_text
from fireact.progress import SILENT, Progress
from fireact.store import CONFIG, plain, typed
from fireact.training.loss import device
from fireact.training.recipe import QUANTISED

FIGURES, ERROR, LAUNCHED = ".figures.json", ".error.json", "launch.txt"
LAUNCHER = "FIREACT_LAUNCHER"
"""The process that launched a worker, in the worker's environment."""


def shipped() -> list[str]:
    """The names of the configurations of accelerate that come with the package."""
    return sorted(
        file.name.removesuffix(".yaml") for file in files("fireact.training").joinpath("accelerate").iterdir()
    )


def parse(launch: str) -> dict[str, Any]:
    """``4``, a file, ``fsdp`` or ``fsdp:2`` as the settings of ``train``. Raises ConfigError for what is none of them."""
    name, _, count = launch.rpartition(":") if launch.rpartition(":")[2].isdecimal() else (launch, "", "")
    if not name:
        return {"processes": int(count)}
    if name not in shipped() and not Path(name).is_file():
        raise unknown("configuration to launch with", name, [*shipped(), "a number of processes", "a YAML file"])
    return {"accelerate": name, **({"processes": int(count)} if count else {})}


def configuration(name: str) -> str:
    """The path of a configuration of accelerate, by its name or its own path."""
    return str(files("fireact.training").joinpath("accelerate", f"{name}.yaml")) if name in shipped() else name


def machine_rank(accelerate: str | None) -> int:
    """Which of several machines this one is, as its configuration says; 0 where there is but one. Raises ConfigError."""
    return 0 if accelerate is None else int(read_configuration(accelerate).machine_rank)


def read_configuration(accelerate: str) -> Any:
    """A configuration as accelerate reads it. Raises ConfigError."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        found = load_config_from_file(configuration(accelerate))
        int(found.machine_rank)
    except Exception as error:  # of YAML, of a missing key, of a value that is not known
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{accelerate} is no configuration of accelerate ({said}). Copy a shipped one, or write one with: accelerate config"
        ) from error
    return found


def process_count(processes: int | None, accelerate: str | None) -> int:
    """How many processes train, on all machines: those that are given, or those of the configuration."""
    return processes or (1 if accelerate is None else int(read_configuration(accelerate).num_processes))


def local_count(processes: int | None, accelerate: str | None) -> int:
    """How many of them train on this machine."""
    machines = 1 if accelerate is None else max(1, int(read_configuration(accelerate).num_machines))
    return process_count(processes, accelerate) // machines


def refuse_launch(*, processes: int | None, accelerate: str | None, kind: str) -> None:
    """Raise ConfigError for more processes than there are GPUs, and for a recipe whose weights cannot be spread."""
    import torch

    config = None if accelerate is None else read_configuration(accelerate)
    if config is not None and kind in QUANTISED and str(config.distributed_type).rpartition(".")[2] == "FSDP":
        raise ConfigError(
            f"the recipe's kind {kind} keeps whole quantised weights on each GPU, and {accelerate} spreads weights over them. "
            "Use --launch ddp, or --kind lora."
        )
    count = local_count(processes, accelerate)
    gpus = torch.cuda.device_count() if device() != "cpu" else count
    if count > gpus:
        named = f"--launch {accelerate}" if accelerate else "--launch"
        raise ConfigError(
            f"{named} means {count} processes on this machine, which has {gpus} GPUs. Give --launch "
            f"{f'{accelerate}:{gpus}' if accelerate in shipped() else gpus}, or set num_processes in a configuration of your own."
        )


def launched(
    out: Path, *, processes: int | None, accelerate: str | None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Train with several processes and return what the manifest says of it. Raises the error of the first that fails."""
    (out / FIGURES).unlink(missing_ok=True)
    words = command(out, out, processes=processes, accelerate=accelerate)
    replace_text(out / LAUNCHED, f"{shlex.join(words)}\n")
    progress.say(f"train: launched as {shlex.join(words)}")
    _run(words, out, out)
    if not (out / FIGURES).exists():
        raise FireactError(
            f"the launched processes are done, but the first of them left no figures in {out}. On several machines give the one "
            "of the main process machine_rank: 0 in its configuration, and the others theirs."
        )
    facts: dict[str, Any] = json.loads((out / FIGURES).read_text())
    (out / FIGURES).unlink()
    return facts


def lend(out: Path, settings: Mapping[str, Any], *, processes: int | None, accelerate: str | None) -> None:
    """Train with the processes of a machine that is not the first; what they learn, the first machine writes."""
    with tempfile.TemporaryDirectory(prefix="fireact-") as scratch:
        replace_text(Path(scratch) / CONFIG, tomli_w.dumps({"verb": "train", **plain(settings)}))
        _run(command(out, Path(scratch), processes=processes, accelerate=accelerate), out, Path(scratch))


def _run(command: list[str], out: Path, settings: Path) -> None:
    """Run it to its end, or to the first error that a worker leaves in the directory of the settings."""
    (settings / ERROR).unlink(missing_ok=True)
    with subprocess.Popen(command, env=_environment()) as process:
        try:
            while process.poll() is None and not (settings / ERROR).exists():
                time.sleep(0.1)
        finally:
            _end(process)
    if (settings / ERROR).exists():
        raise left_error(settings)
    if process.returncode:
        raise FireactError(
            f"the launched processes ended with status {process.returncode}; what they said is above. "
            f"What was trained is kept; go on with: fireact resume {typed(out)}"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launch that goes on, its workers with it, at once: told to end, torchrun would report at length."""
    import psutil

    if process.poll() is not None:
        return
    try:
        everyone = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.kill()
    for one in everyone:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def leave_error(error: FireactError, settings: Path) -> None:
    """Leave an error of a worker for its launcher, whole, whichever of several workers leave one."""
    part = settings / f"{ERROR}.{os.getpid()}"
    part.write_text(json.dumps({"kind": type(error).__name__, "said": str(error)}), encoding="utf-8")
    part.replace(settings / ERROR)


def left_error(settings: Path) -> FireactError:
    """The error that a worker left, which is then gone."""
    found = json.loads((settings / ERROR).read_text(encoding="utf-8"))
    (settings / ERROR).unlink()
    kind: type[FireactError] = getattr(errors, found["kind"], FireactError)
    return kind(found["said"])


def command(out: Path, settings: Path, *, processes: int | None, accelerate: str | None) -> list[str]:
    """The command that is run: accelerate's; on the CPU torchrun, which accelerate starts for GPUs only.

    A configuration names its own number of processes, which one that is given replaces.
    """
    import torch

    worker = ["-m", "fireact.training.worker", str(out), str(settings)]
    if accelerate:
        wanted = ["--num_processes", str(processes)] if processes else []
        config = ["--config_file", configuration(accelerate), *wanted]
        return [sys.executable, "-m", "accelerate.commands.launch", *config, *worker]
    if torch.cuda.is_available():
        options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, "--dynamo_backend", "no", *worker]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *worker]


def _environment() -> dict[str, str]:
    import torch

    mine = {**os.environ, LAUNCHER: str(os.getpid())}
    return mine if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **mine}
