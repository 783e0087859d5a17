"""Runs commands, and launches of accelerate and torchrun, in processes that are forked after the slow imports.

``serve_launches`` starts a server process, and ``fork_launches`` sends it the launches of ``fireact.training.launch``.
``ForkedCommand`` is a command ``fireact`` in a process of its own, with the members of ``subprocess.Popen`` that tests
use; it costs a fraction of a second where a start of Python with torch takes several. As a script with an address and
modules, this file is the server. With an address, ``--`` and a command it is a client, which stands for one launch: it
sends its command, environment and outputs to the server, and waits for the exit status.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

COMMAND_MODULES = (
    "aiohttp.web",
    "fireact.cli",
    "fireact.serving.server",
    "mcp",
    "openai",
    "torch",
    "transformers.models.llama.modeling_llama",
    "uvicorn",
)
LAUNCH_MODULES = (
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
def serve_launches(address: Path, modules: Sequence[str] = LAUNCH_MODULES) -> Iterator[Path]:
    """Start a server of launches at an address, a Unix socket, and stop it at the end."""
    words = [sys.executable, __file__, str(address), *modules]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
        return [sys.executable, "-S", __file__, str(address), "--", *build_launch_command(out, settings, **options)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "build_launch_command", build_client_command)
        yield


class ForkedCommand:
    """A command ``fireact`` in a forked process of its own, with pipes for its outputs."""

    def __init__(
        self, *arguments: object, cwd: Path | None = None, module: str = "fireact", **environment: str
    ) -> None:
        (stdout, stdout_end), (stderr, stderr_end) = os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(stdout, encoding="utf-8"), os.fdopen(stderr, encoding="utf-8")
        words = [sys.executable, "-m", module, *map(str, arguments)]
        environment = {**os.environ, **environment}
        self._answer = send_launch(_command_server(), words, [stdout_end, stderr_end], environment, cwd or Path.cwd())
        for end in (stdout_end, stderr_end):
            os.close(end)
        self.pid, self._number = int(self._answer.readline()), 0
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """Send the process a signal, if it has not ended."""
        if self.poll() is None:
            self._number = number
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit status, or nothing if the process has not ended."""
        ended = self.returncode is not None or select.select([self._answer], [], [], 0)[0]
        return self.wait() if ended else None

    def wait(self, timeout: float = 600) -> int:
        """Wait for the end; returns the exit status, or the negative number of the signal that ended the process."""
        if self.returncode is None:
            assert select.select([self._answer], [], [], timeout)[0], "the process goes on"
            status = self._answer.readline()
            self.returncode = int(status) if status else -self._number
            self._answer.close()
            self.stdout.close()
        return self.returncode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Read both outputs to their ends and wait."""
        with ThreadPoolExecutor(2) as pool:
            stdout, stderr = (pool.submit(file.read) for file in (self.stdout, self.stderr))
        self.wait(timeout)
        self.stderr.close()
        return stdout.result(), stderr.result()


@functools.cache
def _command_server() -> str:
    """The address of this process's server of commands, which is started once and ends with it."""
    folder = tempfile.TemporaryDirectory()
    served = serve_launches(Path(folder.name) / "socket", COMMAND_MODULES)
    atexit.register(folder.cleanup)
    atexit.register(served.__exit__, None, None, None)
    return str(served.__enter__())


def send_launch(
    address: str, words: list[str], outputs: Sequence[int], environment: Mapping[str, str], directory: Path
) -> socket.SocketIO:
    """Have the server run words; returns what it answers: the process's id, and at its end its status, a line each.

    When the last end of that answer is closed, the process and those that it started are killed.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        message = json.dumps([words, dict(environment), str(directory)]).encode() + b"\n"
        socket.send_fds(server, [message[:1]], outputs)
        server.sendall(message[1:])
        return server.makefile("rb", buffering=0)


def run_client(address: str, words: list[str]) -> int:
    """Have the server run a launch; returns its exit status. If this process is killed, so are those of the launch."""
    answer = send_launch(address, words, [1, 2], os.environ, Path.cwd())
    answer.readline()
    return int(answer.readline())


def run_server(address: str, modules: Sequence[str]) -> None:
    """Fork a process for each client, until standard input is closed."""
    import importlib

    for name in modules:
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
    client.sendall(f"{os.getpid()}\n".encode())
    # The client sends nothing more: the read returns when the client is gone, and then the launch must not go on.
    threading.Thread(target=lambda: (client.recv(1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    status = 1
    try:
        (run_launcher if words[2] in LAUNCH_MODULES else run_command)(words)
        status = 0
    except SystemExit as exit_request:
        status = exit_request.code if isinstance(exit_request.code, int) else int(exit_request.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
    client.sendall(f"{status}\n".encode())
    os._exit(status)


def run_command(words: list[str]) -> None:
    """Run ``main`` of a module, as ``python -m fireact ...`` does."""
    import importlib

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words[2:]
    importlib.import_module({"fireact": "fireact.cli"}.get(words[2], words[2])).main()


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
    if sys.argv[2] == "--":
        sys.exit(run_client(sys.argv[1], sys.argv[3:]))
    run_server(sys.argv[1], sys.argv[2:])
