"""llama.cpp's server (from the wheel ``xllamacpp``) in a child process on loopback: a real endpoint for slow tests.

As a script it serves the GGUF file that it is given, on a free port, until its standard input is closed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def llama_server(gguf: Path) -> Iterator[str]:
    """Serve a GGUF file; gives the URL of the server (its OpenAI endpoint is below ``/v1``)."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(gguf)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    try:
        url = child.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1"), url
        yield url
    finally:
        child.stdin.close()
        child.wait(600)
        child.stdout.close()


def main() -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = sys.argv[1]
    settings.n_ctx, settings.n_parallel, settings.warmup = 4096, 2, False
    settings.cpuparams.n_threads = 2
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
