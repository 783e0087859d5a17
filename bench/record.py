"""What the recording proxy adds to a call: the same requests straight to an endpoint and through ``fireact record``.

    python bench/record.py [CALLS] [CONCURRENCY] [VENV]

The endpoint and the client are bare asyncio protocols in processes of their own, so the figures are the proxy's. Beside
wall time stands the proxy's processor time a call, which other work on the machine disturbs less. The other recorders
that are installed in the virtual environment VENV (llm-distillery, llm-intercept) run in the same way.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SECONDS = 20.0
"""Within which a reply must end."""
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
    """The seconds of each call in order of length, and the calls a second."""
    left, seconds = iter(range(calls)), list[float]()

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            messages = [{"role": "user", "content": "word " * 2000}, {"role": "user", "content": f"question {number}?"}]
            body = json.dumps({"model": "fake", "messages": messages, "stream": stream}).encode()
            head = (
                f"POST {path.replace('EPISODE', str(number))} HTTP/1.1\r\nhost: localhost\r\n"
                f"authorization: Bearer none\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            started = time.perf_counter()
            writer.write(head.encode() + body)
            await asyncio.wait_for(read_reply(reader), SECONDS)
            seconds.append(time.perf_counter() - started)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return sorted(seconds), calls / (time.perf_counter() - started)


async def read_reply(reader: asyncio.StreamReader) -> None:
    """Read one reply to its end; its status must be 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(f"answers {head.split(bytes([13]))[0].decode()}")
    if b"chunked" not in head:
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


@contextmanager
def run_process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A child process while in the ``with`` statement."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def print_rows(name: str, port: int, path: str, calls: int, concurrency: int, process: int | None = None) -> None:
    """Measure one recorder, whole and streamed, and print a row for each."""
    for stream in (False, True):
        for at_a_time in (1, concurrency):
            asyncio.run(measure_calls(port, path, 50, at_a_time, stream=stream))
            before = read_processor_seconds(process)
            seconds, rate = asyncio.run(measure_calls(port, path, calls, at_a_time, stream=stream))
            p50, p99 = statistics.median(seconds) * 1e3, seconds[int(len(seconds) * 0.99)] * 1e3
            cpu = (read_processor_seconds(process) - before) / calls * 1e3
            print(
                f"{name:<15} {'streamed' if stream else 'whole':<9} {at_a_time:>3} at a time   p50 {p50:7.2f} ms   "
                f"p99 {p99:7.2f} ms   {rate:6.0f} calls/s   {cpu:5.2f} ms of the processor a call",
                flush=True,
            )


def read_processor_seconds(process: int | None) -> float:
    """Processor time of a process and its children so far."""
    if process is None:
        return 0.0
    parent = psutil.Process(process)
    return sum(sum(each.cpu_times()[:2]) for each in (parent, *parent.children(recursive=True)))


def list_rivals(folder: Path, venv: Path, upstream: int, port: int) -> dict[str, list[str]]:
    """The commands of other recorders that are installed, each on its port."""
    url = f"http://127.0.0.1:{upstream}"
    commands = {
        "llm-distillery": [
            "distillery", "serve", "--port", str(port), "--upstream-openai", url, "--db", str(folder / "distillery.db"),
        ],
        "llm-intercept": [
            "llm-intercept", "serve", "--host", "127.0.0.1", "--port", str(port), "--admin-password", "none",
            "--base-url", f"{url}/v1/chat/completions", "--database-url", f"sqlite:///{folder}/intercept.db",
        ],
    }  # fmt: skip
    paths = {name: [str(venv / "bin" / command[0]), *command[1:]] for name, command in commands.items()}
    return {name: command for name, command in paths.items() if Path(command[0]).exists()}


def wait_for_port(port: int) -> None:
    """Wait until something listens on a port."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def main(calls: int, concurrency: int, venv: Path | None = None, port: int = 8193) -> None:
    """Print a row for the endpoint itself, for fireact, and for the other recorders of a virtual environment."""
    with tempfile.TemporaryDirectory() as folder, run_process(sys.executable, __file__, "endpoint") as endpoint:
        assert endpoint.stdout is not None
        upstream, path = int(endpoint.stdout.readline()), "/v1/chat/completions"
        print_rows("direct", upstream, path, calls, concurrency)
        command = [sys.executable, "-m", "fireact", "record", "-u", f"http://127.0.0.1:{upstream}/v1"]
        commands = {"fireact record": [*command, "--port", str(port), "-o", str(Path(folder) / "run")]}
        commands |= {} if venv is None else list_rivals(Path(folder), venv, upstream, port)
        for name, command in commands.items():
            with run_process(*command) as recorder:
                wait_for_port(port)
                episode = "/e/EPISODE" if name == "fireact record" else ""
                try:
                    print_rows(name, port, episode + path, calls, concurrency, recorder.pid)
                except (RuntimeError, TimeoutError, OSError) as error:
                    print(f"{name:<15} failed: {type(error).__name__} {error}")


if __name__ == "__main__":
    if sys.argv[1:] == ["endpoint"]:
        asyncio.run(serve_endpoint())
    else:
        numbers = [int(argument) for argument in sys.argv[1:3]]
        main(*(numbers + [1000, 16][len(numbers) :]), *map(Path, sys.argv[3:4]))
