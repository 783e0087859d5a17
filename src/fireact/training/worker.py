"""A worker is one of several launched training processes; it runs as a module with two arguments.

These are the run directory and the directory of the settings. The first worker writes its figures for the launcher,
which holds the run directory; a worker that fails writes its error. All workers end with their launcher.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from fireact.base.jsonl import replace_text
from fireact.base.progress import SILENT, LineProgress
from fireact.base.run_directory import build_settings, read_config
from fireact.errors import FireactError
from fireact.training.launch import FIGURES, LAUNCHER, write_worker_error
from fireact.training.train import TrainConfig, train_in_process

AFTER_THE_FIRST = 5.0
"""Seconds that other workers wait with an error: where all fail alike, the first worker's error names the batch."""


def exit_with_launcher(process: int, *, every: float = 1.0) -> None:
    """End this process, whatever it is doing, when its launcher ends, since nobody holds the run directory any more."""

    def watch() -> None:
        while True:
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(every)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def run_worker() -> None:
    """Train with the settings of the run directory."""
    import torch

    out, settings_directory, is_first = Path(sys.argv[1]), Path(sys.argv[2]), os.environ.get("RANK", "0") == "0"
    exit_with_launcher(int(os.environ[LAUNCHER]))
    settings = read_config(settings_directory)
    settings.pop("verb")
    try:
        facts = train_in_process(
            build_settings(TrainConfig, settings, out), out, progress=LineProgress() if is_first else SILENT
        )
    except FireactError as error:
        if not is_first:
            time.sleep(AFTER_THE_FIRST)
        write_worker_error(error, settings_directory)
        time.sleep(60)  # the launcher ends all workers when it reads the error; an exit here would print a long report
        sys.exit(1)
    if is_first:
        replace_text(out / FIGURES, json.dumps(facts))
    if torch.distributed.is_initialized():  # else its threads would abort the process at exit
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_worker()
