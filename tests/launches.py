"""Runs launches of accelerate and torchrun in processes that are forked after the slow imports.

``serve_launches`` starts a server process, and ``fork_launches`` sends it the launches of ``fireact.training.launch``.
As a script with an address, this file is the server. With an address and a command it is a client, which stands for
one launch: it sends its command, environment and outputs to the server, and waits for the exit status.
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
    "accelerate.commands.launch",
    "fireact.training.trainer",
    "fireact.training.worker",
    "peft",
    "torch.distributed.run",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "trl.trainer.sft_trainer",
)


@contextmanager
def serve_launches(address: Path) -> Iterator[Path]:
    """Start a server of launches at an address, a Unix socket, and stop it at the end."""
    server = subprocess.Popen([sys.executable, __file__, str(address)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    try:
        yield address
    finally:
        server.communicate()


@contextmanager
def fork_launches(address: Path) -> Iterator[None]:
    """Send each launch to the server at an address, which forks it."""
    import pytest

    from fireact.training import launch

    build_launch_command = launch.build_launch_command

    def build_client_command(out: Path, settings: Path, **options: Any) -> list[str]:
        return [sys.executable, "-S", __file__, str(address), *build_launch_command(out, settings, **options)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "build_launch_command", build_client_command)
        yield


def run_client(address: str, words: list[str]) -> int:
    """Have the server run a launch; returns its exit status. If this process is killed, so are those of the launch."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        message = json.dumps([words, dict(os.environ), str(Path.cwd())]).encode() + b"\n"
        socket.send_fds(server, [message[:1]], [1, 2])
        server.sendall(message[1:])
        return int(server.makefile().readline())


def run_server(address: str) -> None:
    """Fork a process for each client, until standard input is closed."""
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
        while True:
            client, _ = listener.accept()
            if not os.fork():
                listener.close()
                run_launch(client)
            client.close()


def run_launch(client: socket.socket) -> None:
    """Run the launch of a client in this forked process, send the exit status, and exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    first_byte, outputs, _, _ = socket.recv_fds(client, 1, 2)
    words, environment, directory = json.loads(first_byte + client.makefile("rb").readline())
    os.dup2(outputs[0], 1), os.dup2(outputs[1], 2)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    # The client sends nothing more: the read returns when the client is gone, and then the launch must not go on.
    threading.Thread(target=lambda: (client.recv(1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    status = 1
    try:
        run_launcher(words)
        status = 0
    except SystemExit as exit_request:
        status = exit_request.code if isinstance(exit_request.code, int) else int(exit_request.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    client.sendall(f"{status}\n".encode())
    os._exit(status)


def run_launcher(words: list[str]) -> None:
    """Run a command ``python -m MODULE ...`` of a launcher, so that it forks its workers from this process."""
    import importlib

    from torch.distributed import run as torchrun

    config_from_args = torchrun.config_from_args

    def build_fork_config(arguments: Any) -> Any:
        config, _, worker_arguments = config_from_args(arguments)
        config.start_method = "fork"
        return config, run_training_worker, worker_arguments

    torchrun.config_from_args = build_fork_config
    sys.argv = words[2:]
    importlib.import_module(sys.argv[0]).main()


def run_training_worker(*words: str) -> None:
    """Run ``fireact.training.worker`` with the arguments that follow it in the words of a launch."""
    from fireact.training import worker

    sys.argv = list(words[words.index("fireact.training.worker") :])
    worker.run_worker()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(run_client(sys.argv[1], sys.argv[2:]))
    run_server(sys.argv[1])
