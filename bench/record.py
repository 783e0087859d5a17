"""What the recording proxy adds to a call: the same requests straight to an endpoint and through ``fireact record``.

    python bench/record.py [CALLS] [CONCURRENCY]

The endpoint is the fake one, in a process of its own, so the figures are the proxy's; the client is httpx2.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

ENDPOINT = """
import time
from fireact.models.fake_endpoint import FakeEndpoint
with FakeEndpoint(lambda request: "Thought: I know.\\\\nAction: finish[Lima]") as endpoint:
    print(endpoint.url, flush=True)
    time.sleep(3600)
"""


def timed(url: str, calls: int, concurrency: int) -> tuple[list[float], float]:
    """Seconds of each call, and calls a second."""
    history = [{"role": "user", "content": "word " * 2000}]
    with httpx2.Client(timeout=60, limits=httpx2.Limits(max_connections=concurrency)) as client:

        def one(at: int) -> float:
            started = time.perf_counter()
            asked = {"model": "fake", "messages": [*history, {"role": "user", "content": f"question {at}?"}]}
            client.post(f"{url}/chat/completions", json=asked).raise_for_status()
            return time.perf_counter() - started

        with ThreadPoolExecutor(concurrency) as pool:
            started = time.perf_counter()
            seconds = sorted(pool.map(one, range(calls)))
            return seconds, calls / (time.perf_counter() - started)


def told(name: str, seconds: list[float], rate: float) -> None:
    p50, p99 = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
    print(f"{name:<8} p50 {p50 * 1e3:6.1f} ms   p99 {p99 * 1e3:6.1f} ms   {rate:6.0f} calls/s")


def main(calls: int, concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = subprocess.Popen([sys.executable, "-c", ENDPOINT], stdout=subprocess.PIPE, text=True)
        assert endpoint.stdout is not None
        upstream = endpoint.stdout.readline().strip()
        command = [sys.executable, "-m", "fireact", "record", "-u", upstream, "-o", str(Path(folder) / "run")]
        proxy = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
        assert proxy.stderr is not None
        url = proxy.stderr.readline().split(" at ")[1].split(",")[0]
        try:
            timed(upstream, 50, concurrency), timed(url, 50, concurrency)
            told("direct", *timed(upstream, calls, concurrency))
            told("recorded", *timed(url, calls, concurrency))
        finally:
            proxy.terminate()
            proxy.wait()
            endpoint.terminate()


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [500, 1][len(given) :]))
