"""Real processes that can be killed, without the seconds that each takes to import what it runs: one imports, and forks.

As a script it imports the modules that it is given, calls ``ready`` of the first where there is one, and forks once for
each line of its standard input, which is a directory and the arguments of the first module's ``forked``.
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


class Forks:
    """Runs ``forked(*arguments)`` of a module of the tests in processes, one at a time."""

    def __init__(self, *modules: str) -> None:
        words = [sys.executable, __file__, *modules]
        self._parent = subprocess.Popen(
            words, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._parent.communicate()

    def start(self, directory: Path, *arguments: str) -> int:
        """The id of a process that runs there from now on."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps([str(directory), *arguments]).encode() + b"\n")
        return self._read()

    def ended(self, *, within: float) -> bool:
        """Whether it ends in these seconds. Until the next start no other process has its id."""
        return bool(select.select([self._parent.stdout], [], [], within)[0])

    def wait(self) -> int:
        """How it ended: its exit status, or the number of the signal that ended it below zero."""
        return self._read()

    def _read(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())


def main() -> None:
    first, *_ = (importlib.import_module(name) for name in sys.argv[1:])
    getattr(first, "ready", lambda: None)()
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
                first.forked(*arguments)
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                os._exit(status)
        print(child, flush=True)
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert found is not None
        print(found.si_status if found.si_code == os.CLD_EXITED else -found.si_status, flush=True)


if __name__ == "__main__":
    main()
