"""Bounds on what strangers send: replies, compressed ones, streams without end, heads, stop strings."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fireact.base import listening
from fireact.base.listening import MAX_HEAD, RunningServer, bind_socket, bounded_http
from fireact.base.run_directory import read_trajectories
from fireact.errors import FormatError
from fireact.models.stops import held_back_length
from fireact.recording import proxy
from fireact.recording.recorder import RecordConfig, record_calls
from fireact.serving.wire import MAX_STOP_CHARS, read_request

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("uvicorn")

ASK = {"model": "m", "messages": [{"role": "user", "content": "Who?"}]}
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": null}]}\n\n'


def reply(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def http_head(kind: str, *fields: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {kind}", "Connection: close", *fields, "", ""]).encode()


@contextmanager
def upstream(pieces: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A server that answers each request with raw pieces, until the client leaves."""

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1 << 20)
            try:
                for piece in pieces():
                    connection.sendall(piece)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def record_one(run: Path, url: str, read: Callable[[Any], Any], **options: Any) -> tuple[Any, Any, int]:
    """What ``read`` makes of a reply that passes the proxy, the trajectory, and the bytes of its line in the log."""
    config = RecordConfig(upstream=url, port=0, concurrency=1, **options)
    with record_calls(config, run) as address, httpx2.Client(timeout=600) as client:
        with client.stream("POST", f"{address}/e/a/v1/chat/completions", json=ASK) as response:
            value = read(response)
        # Another call goes through, so the first has given its slot back.
        with client.stream("POST", f"{address}/e/b/v1/chat/completions", json=ASK) as response:
            assert response.status_code == 200
    (trajectory,) = (trajectory for trajectory in read_trajectories(run) if trajectory.example.id == "a")
    size = min(map(len, (run / "calls.jsonl").read_bytes().splitlines()))
    return value, trajectory, size


@pytest.mark.parametrize("is_sized", [True, False])
def test_a_reply_passes_whole_and_is_kept_up_to_a_bound(tmp_path: Path, is_sized: bool) -> None:
    body = reply("a" * 300_000)
    fields = [f"Content-Length: {len(body)}"] if is_sized else []
    with upstream(lambda: iter([http_head("application/json", *fields) + body])) as url:
        passed, trajectory, size = record_one(tmp_path / "run", url, lambda response: response.read(), max_body=100_000)
    assert passed == body and size < 110_000
    assert trajectory.stop == "error" and "longer than what is kept" in trajectory.error


def test_a_compressed_reply_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    body = gzip.compress(reply("a" * 30_000_000))
    head = http_head("application/json", "Content-Encoding: gzip", f"Content-Length: {len(body)}")
    with upstream(lambda: iter([head + body])) as url:
        passed, trajectory, size = record_one(
            tmp_path / "run", url, lambda response: b"".join(response.iter_raw()), max_body=100_000
        )
    assert passed == body and size < 110_000
    assert trajectory.stop == "error" and "longer than what is kept" in trajectory.error


def test_a_compressed_reply_within_the_bound_is_recorded(tmp_path: Path) -> None:
    body = gzip.compress(reply("Paris"))
    head = http_head("application/json", "Content-Encoding: gzip", f"Content-Length: {len(body)}")
    with upstream(lambda: iter([head + body])) as url:
        _, trajectory, _ = record_one(tmp_path / "run", url, lambda response: response.read(), max_body=100_000)
    assert trajectory.answer == "Paris"


def test_a_stream_without_end_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield http_head("text/event-stream")
        while True:
            yield EVENT * 100

    def read_some(response: Any) -> int:
        count = 0
        for chunk in response.iter_raw():
            count += len(chunk)
            if count > 2_000_000:
                return count
        return count

    with upstream(endless) as url:
        count, trajectory, size = record_one(tmp_path / "run", url, read_some, max_body=100_000)
    assert count > 2_000_000 and size < 250_000
    assert trajectory.stop == "error" and "longer than what is kept" in trajectory.error


# --- heads ---


@contextmanager
def run_server(**options: Any) -> Iterator[tuple[str, int]]:
    """The address of a server with the bounds of every server, or with other options of uvicorn."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    bound = bind_socket("127.0.0.1", 0)
    with RunningServer(app, bound, url="", log_level="critical", **options):
        yield bound.getsockname()


HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "


def test_half_a_head_ends_with_its_connection() -> None:
    with run_server(http=bounded_http(2.0), timeout_keep_alive=600) as address:
        with (
            socket.create_connection(address, timeout=600) as silent,
            socket.create_connection(address, timeout=600) as slow,
        ):
            slow.sendall(HALF)
            assert (silent.recv(100), slow.recv(100)) == (b"", b"")
        with socket.create_connection(address, timeout=600) as kept:  # and so does half a head after a whole request
            kept.sendall(HALF + b"b\r\n\r\n")
            assert kept.recv(1000).endswith(b"ok")
            kept.sendall(HALF)
            assert kept.recv(100) == b""


def test_a_head_has_a_longest_length() -> None:
    with run_server() as address:
        with socket.create_connection(address, timeout=600) as client:
            received = b""
            try:
                client.sendall(HALF + b"b" * (MAX_HEAD + 100_000))
                received = client.recv(1000)
            except OSError:  # the server closed the connection while the head was sent
                pass
        assert received[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
        assert httpx2.get(f"http://127.0.0.1:{address[1]}/", headers={"x-a": "b" * 8000}).text == "ok"


# --- stop strings ---


@pytest.mark.parametrize("stop", [["a"] * 65, ["a" * (MAX_STOP_CHARS + 1)]])
def test_stop_strings_have_bounds(stop: list[str]) -> None:
    with pytest.raises(FormatError, match="stop has"):
        read_request(json.dumps({**ASK, "stop": stop}).encode())
    assert read_request(json.dumps({**ASK, "stop": ["a" * MAX_STOP_CHARS] * 64}).encode()).stop


def test_a_stop_string_longer_than_the_text_is_held_back_by_its_beginning() -> None:
    assert held_back_length("a b", ["b" + "c" * 10**7]) == 1


def test_an_idle_connection_is_never_used_when_its_server_ends_it() -> None:
    """Else a request may meet the end of the connection, and its client would get an error."""
    import uvicorn

    assert proxy.IDLE_SECONDS < uvicorn.Config("app").timeout_keep_alive < listening.IDLE_SECONDS
    with RunningServer(None, bind_socket("127.0.0.1", 0), url="") as server:
        assert server._server.config.timeout_keep_alive == listening.IDLE_SECONDS
