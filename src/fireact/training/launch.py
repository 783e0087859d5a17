"""Training in several processes: the command of accelerate, run and watched, and what each process does.

The process that launches holds the run directory; the workers read its settings, train, and the first of them leaves
its figures for the launcher. Run as a module with the run directory, this file is a worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from fireact.errors import FireactError, unknown
from fireact.jsonl import replace_text
from fireact.progress import SILENT, Lines
from fireact.store import read_config, settings_from

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


def launched(out: Path, *, processes: int, accelerate: str | None) -> dict[str, Any]:
    """Train with several processes and return what the manifest says of it. Raises FireactError when they fail."""
    (out / FIGURES).unlink(missing_ok=True)
    done = subprocess.run(command(out, processes=processes, accelerate=accelerate), env=_environment())
    if not done.returncode and not (out / FIGURES).exists():
        raise FireactError(
            "the processes of this machine are done. What was trained lies on the machine of rank 0, whose run directory is the "
            "complete one; this one can be deleted."
        )
    if done.returncode:
        raise FireactError(
            f"the launched processes ended with status {done.returncode}; what they said is above. "
            f"What was trained is kept; go on with: fireact resume {out}"
        )
    facts: dict[str, Any] = json.loads((out / FIGURES).read_text())
    (out / FIGURES).unlink()
    return facts


def command(out: Path, *, processes: int, accelerate: str | None) -> list[str]:
    """The command that is run: accelerate's; on the CPU torchrun, which accelerate starts for GPUs only.

    A configuration names its own number of processes, which one above 1 replaces.
    """
    import torch

    worker = ["-m", "fireact.training.launch", str(out)]
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


def end_with(process: int, *, every: float = 1.0) -> None:
    """End this process, whatever it is doing, when another one is gone: nobody would hold its run directory."""

    def watch() -> None:
        while True:
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(every)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def main() -> None:
    """A worker: train by the settings of the run directory."""
    import torch

    from fireact.training.run import TrainConfig, work

    out, first = Path(sys.argv[1]), os.environ.get("RANK", "0") == "0"
    end_with(int(os.environ[LAUNCHER]))
    settings = read_config(out)
    settings.pop("verb")
    try:
        facts = work(settings_from(TrainConfig, settings, out), out, progress=Lines() if first else SILENT)
    except FireactError as error:  # its launcher ends with a traceback of its own, so this says why
        if first:
            print(f"fireact: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    if first:
        replace_text(out / FIGURES, json.dumps(facts))
    if torch.distributed.is_initialized():  # left to the end of the process, its threads would abort it
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
