"""The command ``fireact`` as a process of its own would run it, but in this one: nothing is imported a second time.

Where signals, the environment at the start or what stays behind matter, tests start a real process.
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
    """Run it there; gives what ``subprocess.run`` would: the exit status and both outputs."""
    words = [str(one) for one in arguments]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in "12")
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    with (
        chdir(cwd or Path.cwd()),
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "argv", ["fireact", *words]),
        mock.patch.object(sys, "path", ["", *sys.path]),  # as with python -m
    ):
        status = _status()
    for one, handler in before.items():
        signal.signal(one, handler)
    said, told = (file.buffer.getvalue().decode() for file in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, status, said, told)


def _status() -> int:
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0
