"""Forks processes that tests can kill or measure, from a server process that has done the slow imports.

As a script this file is the server. It imports the modules in its arguments, and calls ``prepare_fork`` of the first
one if it is defined. Each line of standard input is a directory with arguments. For each line the server forks a
process, which calls ``run_forked`` of the first module in that directory.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType


class ForkServer:
    """Runs ``run_forked(*arguments)`` of a test module in forked processes, one at a time."""

    def __init__(self, *modules: str) -> None:
        words = [sys.executable, __file__, *modules]
        self._server = subprocess.Popen(
            words, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def start(self, directory: Path, *arguments: str) -> int:
        """Start a process in a directory; returns its id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([str(directory), *arguments]).encode() + b"\n")
        return self._read_number()

    def has_ended(self, *, within: float) -> bool:
        """Whether the process ends within so many seconds. No other process gets its id before the next start."""
        return bool(select.select([self._server.stdout], [], [], within)[0])

    def wait(self) -> int:
        """Wait for the process; returns its exit status, or the negative number of the signal that ended it."""
        return self._read_number()

    def _read_number(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def main() -> None:
    test_module, *_ = (importlib.import_module(name) for name in sys.argv[1:])
    getattr(test_module, "prepare_fork", lambda: None)()
    child = None
    for line in sys.stdin:
        if child is not None:
            os.waitpid(child, 0)
        directory, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(directory)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            status = 1
            try:
                test_module.run_forked(*arguments)
                status = 0
            except SystemExit as exit_request:
                status = exit_request.code if isinstance(exit_request.code, int) else int(exit_request.code is not None)
            finally:
                os._exit(status)
        print(child, flush=True)
        # WNOWAIT leaves the ended process in place, so that its id is not given to another before the next start.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)


if __name__ == "__main__":
    main()
