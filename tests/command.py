"""Runs the command ``fireact`` in the process of the tests, which has already imported it.

A test starts a real process where signals, the environment at the start, or leftovers of the process matter.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import traceback
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from fireact.cli import main


def fireact(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory; returns its exit status and both outputs, as ``subprocess.run`` does."""
    words = [str(argument) for argument in arguments]
    stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in range(2)
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        chdir(cwd or Path.cwd()),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        mock.patch.object(sys, "argv", ["fireact", *words]),
        mock.patch.object(sys, "path", ["", *sys.path]),  # as with python -m
    ):
        status = _run_main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    stdout_text, stderr_text = (file.buffer.getvalue().decode() for file in (stdout, stderr))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, status, stdout_text, stderr_text)


def _run_main() -> int:
    try:
        main()
    except SystemExit as exit_request:
        if isinstance(exit_request.code, str):
            print(exit_request.code, file=sys.stderr)
        return exit_request.code if isinstance(exit_request.code, int) else int(exit_request.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0
