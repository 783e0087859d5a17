"""The one HTTP client: how long it waits, how much it reads, and what its messages never hold."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.base.http import HttpClient, Reply, Retry, TransientError, parse_retry_after, show_address
from fireact.errors import ProviderError
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.models.openai import OpenAIModel
from fireact.types import Call, Message

KEY = "secret-key-123"


@contextmanager
def serve(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A loopback server that answers every request alike; yields its URL, and the paths of the requests."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/path?key={KEY}", paths
    finally:
        server.shutdown()
        server.server_close()


def waits_of(fault: TransientError, **options: Any) -> list[float]:
    """The pauses after a fault that never ends."""
    waits: list[float] = []

    def send() -> None:
        raise fault

    with pytest.raises(ProviderError, match="the service failed"):
        Retry(sleep=waits.append, **options).run("the service", send)
    return waits


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("0", 0, 0),
        ("1.5", 1.5, 1.5),
        ("-3", 0, 0),
        (lambda: formatdate(time.time() + 60, usegmt=True), 57, 60),
        (lambda: formatdate(time.time() - 60, usegmt=True), 0, 0),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | Callable[[], str], low: float, high: float) -> None:
    seconds = parse_retry_after({"retry-after": value if isinstance(value, str) else value()})
    assert seconds is not None and low <= seconds <= high


@given(st.text(max_size=30) | st.floats().map(str))
def test_any_other_retry_after_is_ignored(value: str) -> None:
    seconds = parse_retry_after({"retry-after": value})
    assert seconds is None or seconds >= 0
    assert parse_retry_after({}) is None


def test_waits_are_bounded_whatever_the_server_asks() -> None:
    assert waits_of(TransientError("busy", retry_after=float("inf")), tries=3) == [120.0, 120.0]
    assert all(7 <= wait <= 7.1 for wait in waits_of(TransientError("busy", retry_after=7.0), pause=0.01))
    backoffs = waits_of(TransientError("busy"), tries=20)
    assert len(backoffs) == 19 and max(backoffs) <= 30.0


def test_a_reply_that_is_too_long_is_refused_in_each_client() -> None:
    with serve(200, {}, b" " * 2000) as (url, paths):
        with pytest.raises(ProviderError, match="more than 1,000 bytes"):
            HttpClient("the service", max_bytes=1000).send("GET", url)
        assert len(paths) == 1


def test_a_reply_of_an_endpoint_has_a_limit_and_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEndpoint(lambda request: "x" * 5000) as served:
        model = OpenAIModel("fake", served.url, pause=0.001, max_bytes=4000)
        with pytest.raises(ProviderError, match="more than 4,000 bytes"):
            model.complete(Call([Message("user", "hello")]))
        assert len(served.requests) == 1
        assert OpenAIModel("fake", served.url).complete(Call([Message("user", "hello")])).text == "x" * 5000


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/elsewhere", f"http://host:{KEY}/", "ftp://x"])
def test_no_redirect_is_followed(location: str) -> None:
    with serve(302, {"Location": location}, b"") as (url, paths):
        try:
            assert HttpClient("the service").send("GET", url).status == 302
        except TransientError as fault:  # an address that cannot be read
            assert KEY not in str(fault)
        assert len(paths) == 1


@pytest.mark.parametrize("url", [f"http://127.0.0.1:9/?key={KEY}", f"http://[{KEY}/", f"nowhere://{KEY}"])
def test_no_message_holds_an_address(url: str) -> None:
    with pytest.raises(TransientError) as caught:
        HttpClient("the service", headers={"Authorization": KEY}).send("GET", url)
    assert KEY not in str(caught.value) and caught.value.__cause__ is None
    assert show_address(f"https://user:{KEY}@host:1/v1?key={KEY}") == "https://host:1/v1"


@given(st.binary(max_size=40))
def test_any_body_is_read_or_named(body: bytes) -> None:
    reply = Reply(500, body)
    assert isinstance(reply.error_text, str)
    try:
        reply.json()
    except TransientError as fault:
        assert "not JSON" in str(fault)
