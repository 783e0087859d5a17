"""The proxy: forwards every request to the upstream and every reply to the client, and records chat completions.

    /v1/...          to the upstream; chat completions are grouped into episodes by their conversation
    /e/ID/v1/...     the same, in the episode ID

Invariant: bodies pass through unchanged, and streams byte by byte. The recorder gets a call before the client has seen
the end of its reply. Headers, and so keys, are forwarded and never stored. This module keeps no episodes and writes no
files.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from fireact.errors import ConfigError, missing_extra_error
from fireact.recording.conversations import RecordedCall, decode_body
from fireact.wire.fields import parse_json

_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding", "expect",
}  # fmt: skip
"""Headers that belong to one connection. The proxy asks for replies without compression, so that it can read them."""
_SECRET = re.compile(r"authorization|cookie|key|token|secret", re.IGNORECASE)
_EPISODE = re.compile(r"/e/([^/]{1,200})(/.*)")
_UNRECORDED = ("/v1/responses", "/v1/completions", "/v1/messages")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


class Recorder(Protocol):
    """Receives the calls that pass through the proxy."""

    def assign_episode(self, request: Mapping[str, Any]) -> str:
        """The episode of a call whose URL names none."""

    def add_call(self, call: RecordedCall) -> None:
        """Store a call that has ended."""

    def note(self, line: str) -> None:
        """Show a line to the user."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go. ``timeout`` is in seconds without a byte; ``max_body`` is in bytes of a request."""

    url: str
    timeout: float
    concurrency: int
    max_body: int

    def url_for(self, path: str) -> str:
        """The upstream's address for a local path.

        /v1/... lies under the base URL, and so does /chat/... of a client that leaves /v1 out. Other paths replace /v1.
        """
        api_path = path.removeprefix("/v1") if path.startswith(("/v1/", "/chat/")) else None
        return self.url.removesuffix("/v1") + path if api_path is None else self.url + api_path


def parse_base_url(text: str) -> str:
    """A base URL in the form that clients take; without a path it gets /v1. Raises ConfigError for any other text."""
    try:
        url_parts = urlsplit(text.strip())
        valid = url_parts.scheme in ("http", "https") and bool(url_parts.hostname) and (url_parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--upstream {text!r} is no address. Give one such as https://api.openai.com/v1.")
    if url_parts.username or url_parts.password or url_parts.query or url_parts.fragment:
        raise ConfigError(
            "--upstream is stored with the run: give it without a user, key or query; clients send their key."
        )
    path = url_parts.path.rstrip("/")
    return f"{url_parts.scheme}://{url_parts.netloc}{path or '/v1'}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def build_proxy(upstream: Upstream, recorder: Recorder) -> Any:
    """The ASGI application. Raises ConfigError when the extra is missing."""
    try:
        import anyio
        import httpx2
        from starlette.applications import Starlette
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra_error("starlette", "serve") from error

    client: httpx2.AsyncClient
    slots: anyio.Semaphore
    noted_paths: set[str] = set()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal client, slots
        slots = anyio.Semaphore(upstream.concurrency)
        client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(upstream.timeout, connect=min(10.0, upstream.timeout), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=not is_loopback(urlsplit(upstream.url).hostname or ""),  # proxies of the environment
        )
        async with client:
            yield

    def error_response(status: int, message: str, code: str) -> Response:
        body = {"error": {"message": f"fireact record: {message}", "type": "proxy_error", "param": None, "code": code}}
        return JSONResponse(body, status_code=status)

    async def read_body(request: Request) -> bytes | None:
        """The request's body, or None when it is longer than ``max_body``."""
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > upstream.max_body:
                return None
        return bytes(received)

    async def handle(request: Request) -> Response:
        match = _EPISODE.fullmatch(request.scope["path"])
        path = match[2] if match else request.scope["path"]
        try:
            raw = await read_body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if raw is None:
            return error_response(413, f"the request is longer than {upstream.max_body} bytes (--max-body)", "too_long")
        redact = _make_redactor(request.headers.items(), request.query_params.multi_items())
        pending = _start_call(recorder, unquote(match[1]) if match else None, path, request.method, raw, redact)
        if pending is None and path in _UNRECORDED and path not in noted_paths:
            noted_paths.add(path)
            recorder.note(f"{path} is passed through but not recorded: only chat completions are.")
        query = f"?{request.url.query}" if request.url.query else ""
        await slots.acquire()
        try:
            return await forward(request, upstream.url_for(path) + query, raw, pending)
        except BaseException:
            slots.release()
            raise

    async def forward(request: Request, url: str, raw: bytes, pending: _PendingCall | None) -> Response:
        """Forward a request; its slot is released here, or at the end of a stream."""
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        try:
            upstream_request = client.build_request(
                request.method, url, headers=[*headers, ("accept-encoding", "identity")], content=raw
            )
            reply = await client.send(upstream_request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return report_fault(error, pending)
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            response: Response = ForwardedStream(reply, pending)
        else:
            try:
                content = b"".join([chunk async for chunk in reply.aiter_raw()])
            except httpx2.HTTPError as error:
                return report_fault(error, pending)
            finally:
                with anyio.CancelScope(shield=True):
                    await reply.aclose()
            if pending is not None:
                pending.end(reply.status_code, _decompress(content, reply.headers.get("content-encoding")))
            slots.release()
            response = Response(content, status_code=reply.status_code)
        reply_headers = [(name, value) for name, value in reply.headers.raw if name.decode().lower() not in _HOP]
        length_headers = [(name, value) for name, value in response.raw_headers if name == b"content-length"]
        response.raw_headers = reply_headers + length_headers
        return response

    def report_fault(error: Exception, pending: _PendingCall | None) -> Response:
        slow = isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout)
        unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.InvalidURL)
        cause = f"{type(error).__name__}{': ' + str(error) if str(error) else ''}"
        if slow:
            response = error_response(
                504, f"{upstream.url} sent nothing for {upstream.timeout:g} s ({cause})", "timeout"
            )
        elif unreachable:
            response = error_response(502, f"{upstream.url} cannot be reached ({cause})", "unreachable")
        else:
            response = error_response(502, f"{upstream.url} broke off its reply ({cause})", "broken_off")
        if pending is not None:
            pending.end(response.status_code, bytes(response.body))
        slots.release()
        return response

    class ForwardedStream(StreamingResponse):
        """A forwarded stream; whichever side ends it, the received bytes are recorded and the slot is released."""

        def __init__(self, reply: httpx2.Response, pending: _PendingCall | None) -> None:
            super().__init__(self.iter_chunks(), status_code=reply.status_code)
            self.reply, self.pending, self.received, self.cut = reply, pending, bytearray(), "client"

        async def iter_chunks(self) -> AsyncIterator[bytes]:
            try:
                async for chunk in self.reply.aiter_raw():
                    self.received += chunk
                    if b"[DONE]" in self.received[-len(chunk) - 8 :]:
                        self.end_call("")
                    yield chunk
            except httpx2.HTTPError:
                self.cut = "upstream"
                raise
            self.end_call("")

        def end_call(self, cut: str) -> None:
            if self.pending is not None:
                encoding = self.reply.headers.get("content-encoding")
                self.pending.end(self.reply.status_code, _decompress(bytes(self.received), encoding), cut=cut)

        async def __call__(self, *arguments: Any) -> None:
            try:
                await super().__call__(*arguments)
            finally:
                slots.release()
                with anyio.CancelScope(shield=True):
                    await self.reply.aclose()
                self.end_call(self.cut)  # the first end counts

    return Starlette(routes=[Route("/{path:path}", handle, methods=_METHODS)], lifespan=lifespan)


class _PendingCall:
    """A chat completion in progress; only the first ``end`` counts."""

    def __init__(
        self,
        recorder: Recorder,
        episode: str | None,
        request: Mapping[str, Any],
        redact: Callable[[bytes], bytes],
    ) -> None:
        self._recorder, self._request, self._redact = recorder, request, redact
        self._named = episode is not None
        self._episode = episode if episode is not None else recorder.assign_episode(request)
        self._at, self._started = time.time(), time.perf_counter()
        self._ended = False

    def end(self, status: int, body: bytes, *, cut: str = "") -> None:
        if self._ended:
            return
        self._ended = True
        seconds = round(time.perf_counter() - self._started, 6)
        reply = decode_body(self._redact(body))
        self._recorder.add_call(
            RecordedCall(self._episode, self._named, round(self._at, 6), seconds, status, self._request, reply, cut)
        )


def _start_call(
    recorder: Recorder, episode: str | None, path: str, method: str, raw: bytes, redact: Callable[[bytes], bytes]
) -> _PendingCall | None:
    """The pending call of a request that can be recorded, else None."""
    if method != "POST" or not path.endswith("/chat/completions"):
        return None
    request = parse_json(redact(raw))
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        return None
    return _PendingCall(recorder, episode, request, redact)


def _make_redactor(*pairs: Any) -> Callable[[bytes], bytes]:
    """A function that redacts a request's keys in bodies, because servers echo them in errors."""
    values = [
        value.removeprefix("Bearer ").strip() for fields in pairs for name, value in fields if _SECRET.search(name)
    ]
    # A shorter value is a placeholder ("not-needed"), which may also be a word of the conversation.
    secrets = [json.dumps(value)[1:-1].encode() for value in values if len(value) >= 16]

    def redact(body: bytes) -> bytes:
        for value in secrets:
            body = body.replace(value, b"[key]")
        return body

    return redact


def _decompress(body: bytes, encoding: str | None) -> bytes:
    """The body without compression, for a server that compresses although the proxy asked it not to."""
    if encoding not in ("gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(47).decompress(body)
    except zlib.error:
        return body
