"""Launches of accelerate and torchrun as they are, but forked from a process that has imported what each would import.

``quickly`` has the launches of ``fireact.training.launch`` done so. As a script with an address and a command this is the
process that stands for a launch: it hands the command, its environment and its outputs over, and waits; with an address
alone it is the process that forks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODULES = (
    "accelerate.commands.launch", "fireact.training.trainer", "fireact.training.worker", "peft", "torch.distributed.run",
    "transformers.models.llama.modeling_llama", "transformers.trainer", "trl.trainer.sft_trainer",
)  # fmt: skip


@contextmanager
def forking(address: Path) -> Iterator[Path]:
    """Fork what asks at this address."""
    parent = subprocess.Popen([sys.executable, __file__, str(address)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    try:
        yield address
    finally:
        parent.communicate()


@contextmanager
def quickly(address: Path) -> Iterator[None]:
    """Within this, launches are forked at this address."""
    import pytest

    from fireact.training import launch

    command = launch.command

    def forked(*places: Path, **how: Any) -> list[str]:
        return [sys.executable, "-S", __file__, str(address), *command(*places, **how)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "command", forked)
        yield


def stand_in(address: str, words: list[str]) -> int:
    """The exit status of a launch; when this process is killed, the processes of the launch are."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        message = json.dumps([words, dict(os.environ), str(Path.cwd())]).encode() + b"\n"
        socket.send_fds(server, [message[:1]], [1, 2])
        server.sendall(message[1:])
        return int(server.makefile().readline())


def serve(address: str) -> None:
    """Fork for each that asks, until the standard input is closed."""
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
        while True:
            asking, _ = listening.accept()
            if not os.fork():
                listening.close()
                launch(asking)
            asking.close()


def launch(asking: socket.socket) -> None:
    """The launch itself, and its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    first, files, _, _ = socket.recv_fds(asking, 1, 2)
    words, environment, place = json.loads(first + asking.makefile("rb").readline())
    os.dup2(files[0], 1), os.dup2(files[1], 2)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=lambda: (asking.recv(1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    status = 1
    try:
        run(words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    asking.sendall(f"{status}\n".encode())
    os._exit(status)


def run(words: list[str]) -> None:
    """``python -m MODULE ...`` of a launcher, whose workers are forked from this process."""
    import importlib

    from torch.distributed import run as torchrun

    read = torchrun.config_from_args

    def config_from_args(given: Any) -> Any:
        config, _, arguments = read(given)
        config.start_method = "fork"
        return config, worker, arguments

    torchrun.config_from_args = config_from_args
    sys.argv = words[2:]
    importlib.import_module(sys.argv[0]).main()


def worker(*words: str) -> None:
    from fireact.training import worker

    sys.argv = list(words[words.index("fireact.training.worker") :])
    worker.main()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
