"""One of several launched processes: run as a module with the run directory and the directory of the settings, it trains.

The first of them leaves its figures for the launcher, which holds the run directory, and whichever fails its error; all end
with their launcher.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from fireact.errors import FireactError
from fireact.jsonl import replace_text
from fireact.progress import SILENT, Lines
from fireact.store import read_config, settings_from
from fireact.training.launch import FIGURES, LAUNCHER, leave_error
from fireact.training.run import TrainConfig, work

AFTER_THE_FIRST = 5.0
"""Seconds that other workers keep an error to themselves: where all fail alike, the first also names the batch."""


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

    out, place, first = Path(sys.argv[1]), Path(sys.argv[2]), os.environ.get("RANK", "0") == "0"
    end_with(int(os.environ[LAUNCHER]))
    settings = read_config(place)
    settings.pop("verb")
    try:
        facts = work(settings_from(TrainConfig, settings, out), out, progress=Lines() if first else SILENT)
    except FireactError as error:
        if not first:
            time.sleep(AFTER_THE_FIRST)
        leave_error(error, place)
        time.sleep(60)  # the launcher ends all processes when it reads this; what ends by itself is reported at length
        sys.exit(1)
    if first:
        replace_text(out / FIGURES, json.dumps(facts))
    if torch.distributed.is_initialized():  # left to the end of the process, its threads would abort it
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
