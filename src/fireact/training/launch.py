"""Training in several processes: the command of accelerate, run and watched.

The process that launches holds the run directory; the workers read its settings, train, and the first of them leaves
its figures for the launcher. Of several machines the one of rank 0 does so; the others only lend their processes: they
hold no directory and write no settings or manifest, so that all may be given one directory on a shared disk.
What a launched process does is ``worker``'s business.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from fireact.errors import ConfigError, FireactError, unknown
from fireact.jsonl import replace_text
from fireact.store import CONFIG, plain

FIGURES = ".figures.json"
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
    if accelerate is None:
        return 0
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return int(load_config_from_file(configuration(accelerate)).machine_rank)
    except Exception as error:  # of YAML, of a missing key, of a value that is not known
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{accelerate} is no configuration of accelerate ({said}). Copy a shipped one, or write one with: accelerate config"
        ) from error


def launched(out: Path, *, processes: int, accelerate: str | None) -> dict[str, Any]:
    """Train with several processes and return what the manifest says of it. Raises FireactError when they fail."""
    (out / FIGURES).unlink(missing_ok=True)
    _run(command(out, out, processes=processes, accelerate=accelerate), out)
    if not (out / FIGURES).exists():
        raise FireactError(
            f"the launched processes are done, but the first of them left no figures in {out}. On several machines give the one "
            "of the main process machine_rank: 0 in its configuration, and the others theirs."
        )
    facts: dict[str, Any] = json.loads((out / FIGURES).read_text())
    (out / FIGURES).unlink()
    return facts


def lend(out: Path, settings: Mapping[str, Any], *, processes: int, accelerate: str | None) -> None:
    """Train with the processes of a machine that is not the first; what they learn, the first machine writes."""
    with tempfile.TemporaryDirectory(prefix="fireact-") as scratch:
        replace_text(Path(scratch) / CONFIG, tomli_w.dumps({"verb": "train", **plain(settings)}))
        _run(command(out, Path(scratch), processes=processes, accelerate=accelerate), out)


def _run(command: list[str], out: Path) -> None:
    done = subprocess.run(command, env=_environment())
    if done.returncode:
        raise FireactError(
            f"the launched processes ended with status {done.returncode}; what they said is above. "
            f"What was trained is kept; go on with: fireact resume {out}"
        )


def command(out: Path, settings: Path, *, processes: int, accelerate: str | None) -> list[str]:
    """The command that is run: accelerate's; on the CPU torchrun, which accelerate starts for GPUs only.

    A configuration names its own number of processes, which one above 1 replaces.
    """
    import torch

    worker = ["-m", "fireact.training.worker", str(out), str(settings)]
    if accelerate:
        wanted = ["--num_processes", str(processes)] if processes > 1 else []
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
