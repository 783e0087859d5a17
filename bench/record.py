"""What the recording proxy adds to a call: the same requests straight to an endpoint and through ``fireact record``.

    python bench/record.py [CALLS] [CONCURRENCY]

The endpoint and the client are bare asyncio protocols in processes of their own, so the figures are the proxy's. Beside
wall time stands the proxy's processor time a call, which other work on the machine disturbs less. Other recorders that
are installed (llm-distillery, llm-intercept) run in the same way.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

TEXT = "Thought: I know. Action: finish[Lima]"
WHOLE = json.dumps({
    "id": "1", "object": "chat.completion", "model": "fake",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2000, "completion_tokens": 8, "total_tokens": 2008},
}).encode()  # fmt: skip


def write_chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One chunk of a streamed chat completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "model": "fake", "choices": [choice]}).encode() + b"\n\n"


STREAM = [
    *(write_chunk({"content": f"{word} "}) for word in TEXT.split()),
    write_chunk({}, "stop"),
    b"data: [DONE]\n\n",
]


class Endpoint(asyncio.Protocol):
    """Answers every request of a connection at once, whole or streamed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self.received) < end + 4 + length:
                return
            body, self.received = self.received[end + 4 : end + 4 + length], self.received[end + 4 + length :]
            self.answer(b'"stream": true' in body)

    def answer(self, stream: bool) -> None:
        """Write one reply."""
        write = self.transport.write  # type: ignore[attr-defined]
        if not stream:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(WHOLE)
            write(head + WHOLE)
            return
        write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in STREAM:
            write(b"%x\r\n%b\r\n" % (len(event), event))
        write(b"0\r\n\r\n")


async def serve_endpoint() -> None:
    """Serve until killed; prints the port."""
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def measure_calls(
    port: int, path: str, calls: int, concurrency: int, *, stream: bool
) -> tuple[list[float], float]:
    """The seconds of each call, and the calls a second."""
    left = iter(range(calls))

    async def work() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seconds = []
        for number in left:
            messages = [{"role": "user", "content": "word " * 2000}, {"role": "user", "content": f"question {number}?"}]
            body = json.dumps({"model": "fake", "messages": messages, "stream": stream}).encode()
            head = (
                f"POST {path.replace('EPISODE', str(number))} HTTP/1.1\r\nhost: localhost\r\n"
                "authorization: Bearer none\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            started = time.perf_counter()
            writer.write(head.encode() + body)
            await read_reply(reader)
            seconds.append(time.perf_counter() - started)
        writer.close()
        return seconds

    started = time.perf_counter()
    results = await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = sorted(duration for durations in results for duration in durations)
    return seconds, calls / (time.perf_counter() - started)


async def read_reply(reader: asyncio.StreamReader) -> None:
    """Read one reply to its end; its status must be 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise SystemExit(f"the reply is not a 200: {head!r}")
    if b"chunked" not in head:
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


@contextmanager
def run_process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A child process while in the ``with`` statement."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def print_row(name: str, kind: str, port: int, path: str, calls: int, concurrency: int, process: int | None) -> None:
    """Measure one recorder, and print its row."""
    for stream in (False, True):
        for at_a_time in (1, concurrency):
            asyncio.run(measure_calls(port, path, 50, at_a_time, stream=stream))
            before = sum(psutil.Process(process).cpu_times()[:2]) if process else 0.0
            seconds, rate = asyncio.run(measure_calls(port, path, calls, at_a_time, stream=stream))
            after = sum(psutil.Process(process).cpu_times()[:2]) if process else 0.0
            p50, p99 = statistics.median(seconds) * 1e3, seconds[int(len(seconds) * 0.99)] * 1e3
            cpu = f"{(after - before) / calls * 1e3:6.2f} ms CPU a call" if process else ""
            print(
                f"{name:<16} {'streamed' if stream else 'whole':<9} {at_a_time:>3} at a time   p50 {p50:7.2f} ms   "
                f"p99 {p99:7.2f} ms   {rate:6.0f} calls/s {cpu}",
                flush=True,
            )


def main(calls: int, concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as folder, run_process(sys.executable, __file__, "endpoint") as endpoint:
        assert endpoint.stdout is not None
        port = int(endpoint.stdout.readline())
        print_row("direct", "", port, "/v1/chat/completions", calls, concurrency, None)
        command = [sys.executable, "-m", "fireact", "record", "-u", f"http://127.0.0.1:{port}/v1", "--port", "0"]
        with run_process(*command, "-o", str(Path(folder) / "run")) as proxy:
            assert proxy.stderr is not None
            url = proxy.stderr.readline().split(" at ")[1].split("/v1")[0]
            path = "/e/EPISODE/v1/chat/completions"
            print_row("fireact record", "", int(url.rpartition(":")[2]), path, calls, concurrency, proxy.pid)


if __name__ == "__main__":
    if sys.argv[1:] == ["endpoint"]:
        asyncio.run(serve_endpoint())
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        main(*(numbers + [1000, 16][len(numbers) :]))
