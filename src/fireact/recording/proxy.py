"""The proxy: forwards every request to the upstream and every reply to the client, and records the three dialects.

    /v1/...            to the upstream of its dialect; calls are grouped into episodes by their conversation
    /e/ID/v1/...       the same, in the episode ID
    /e/ID/feedback     what the program says of the episode ID; it goes to the recorder

Invariant: bodies pass through unchanged, and streams byte by byte. The recorder gets a call before the client has seen
the end of its reply. Headers, and so keys, are forwarded and never stored. Nothing of one client, such as a cookie,
reaches another. This module keeps no episodes and writes no files.
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
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from fireact.errors import ConfigError, DataError, FireactError, missing_extra_error
from fireact.recording.calls import RecordedCall, decode_body
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect
from fireact.wire.dialects import find_dialect
from fireact.wire.fields import parse_json
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES

_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding", "expect",
}  # fmt: skip
"""Headers that belong to one connection. The proxy asks for replies without compression, so that it can read them."""
_SECRET = re.compile(r"authorization|cookie|key|token|secret", re.IGNORECASE)
_EPISODE = re.compile(r"/e/([^/]{1,200})(/.*)")
_FEEDBACK = re.compile(r"/(?:v1/)?feedback/?")
_BARE_PATHS = ("/chat/", "/responses", "/messages", "/embeddings", "/models", "/conversations", "/completions")
"""Paths of clients whose base URL lacks /v1."""
_LAST_EVENT = re.compile(
    rb"(?:\A|\n)(?:data: ?\[DONE\]"
    rb"|event: ?(?:message_stop|response\.(?:completed|incomplete|failed))\r?\n"
    rb'|data: ?\{"type": ?"(?:message_stop|response\.(?:completed|incomplete|failed))")'
)
"""The start of the event that ends a stream. A line begins it, so no text of a model can look like it."""
EPISODE_HEADER = b"x-fireact-episode"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


class Recorder(Protocol):
    """Receives the calls that pass through the proxy."""

    def assign_episode(self, dialect: str, request: Mapping[str, Any]) -> str:
        """The episode of a call whose URL names none."""

    def add_call(self, call: RecordedCall) -> None:
        """Store a call that has ended."""

    def add_feedback(self, episode: str, values: Any) -> Any:
        """Store feedback on an episode. Raises a FireactError."""

    def count_request(self, request: str) -> None:
        """Count a request that is not recorded."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go: the base URL of each dialect.

    ``timeout`` is in seconds without a byte; ``max_body`` is in bytes of a request.
    """

    urls: Mapping[str, str]
    timeout: float
    concurrency: int
    max_body: int

    def base_url(self, path: str, *, is_anthropic: bool = False) -> str:
        """The base URL of the dialect that a path belongs to; ``is_anthropic`` decides where a path belongs to none."""
        for dialect in (MESSAGES, RESPONSES):
            if f"{dialect.path}/" in f"{path}/":
                return self.urls[dialect.name]
        return self.urls[MESSAGES.name if is_anthropic else CHAT_COMPLETIONS.name]

    def url_for(self, path: str, *, is_anthropic: bool = False) -> str:
        """The upstream's address for a local path.

        /v1/... lies under the base URL, and so do the paths of a client that leaves /v1 out or gives it twice. Other
        paths replace /v1.
        """
        url = self.base_url(path, is_anthropic=is_anthropic)
        path = path.replace("/v1/v1/", "/v1/", 1)
        if path.startswith(("/v1/", *_BARE_PATHS)):
            return url + path.removeprefix("/v1")
        return url.removesuffix("/v1") + path


def parse_base_url(text: str) -> str:
    """A base URL in the form that clients take; without a path it gets /v1. Raises ConfigError for any other text."""
    try:
        url_parts = urlsplit(text.strip())
        valid = url_parts.scheme in ("http", "https") and bool(url_parts.hostname) and (url_parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        hint = " https:// is missing." if "://" not in text else ""
        raise ConfigError(f"--upstream {text!r} is no address.{hint} Give one such as https://api.openai.com/v1.")
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
    is_local = all(is_loopback(urlsplit(url).hostname or "") for url in upstream.urls.values())
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal client, slots
        slots = anyio.Semaphore(upstream.concurrency)
        client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(upstream.timeout, connect=min(10.0, upstream.timeout), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=not is_local,  # proxies of the environment
            cookies=no_cookies,
        )
        async with client:
            yield

    def error_response(status: int, message: str, code: str, dialect: Dialect | None = None) -> Response:
        dialect = dialect or CHAT_COMPLETIONS
        body = dialect.write_error(f"fireact record: {message}", "api_error" if dialect is MESSAGES else "proxy_error")
        if "code" in body["error"]:
            body["error"]["code"] = code
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
        raw_path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1")
        match = _EPISODE.fullmatch(raw_path)
        path = match[2] if match else raw_path
        episode = unquote(match[1]) if match else None
        dialect = find_dialect(path) if request.method == "POST" else None
        try:
            raw = await read_body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if raw is None:
            message = f"the request is longer than {upstream.max_body} bytes (--max-body)"
            return error_response(413, message, "too_long", dialect)
        if episode is not None and request.method == "POST" and _FEEDBACK.fullmatch(path):
            return take_feedback(episode, raw)
        redact = _make_redactor(request.headers.items(), request.query_params.multi_items())
        pending = _start_call(recorder, episode, dialect, raw, redact)
        is_anthropic = "anthropic-version" in request.headers
        query = f"?{request.url.query}" if request.url.query else ""
        await slots.acquire()
        try:
            url = upstream.url_for(path, is_anthropic=is_anthropic) + query
            response = await forward(request, url, raw, pending, dialect)
        except BaseException:
            slots.release()
            raise
        if pending is None:
            recorder.count_request(f"{request.method} {path[:80]} ({response.status_code})")
        return response

    def take_feedback(episode: str, raw: bytes) -> Response:
        try:
            recorder.add_feedback(episode, parse_json(raw))
        except FireactError as error:
            return error_response(404 if isinstance(error, DataError) else 400, str(error), "feedback")
        return JSONResponse({"episode": episode})

    async def forward(
        request: Request, url: str, raw: bytes, pending: _PendingCall | None, dialect: Dialect | None
    ) -> Response:
        """Forward a request; its slot is released here, or at the end of a stream."""
        headers = [(name, value) for name, value in request.headers.raw if name.decode("latin-1") not in _HOP]
        try:
            upstream_request = client.build_request(
                request.method, url, headers=[*headers, (b"accept-encoding", b"identity")], content=raw
            )
            reply = await client.send(upstream_request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return report_fault(error, url, pending, dialect)
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            response: Response = ForwardedStream(reply, pending)
        else:
            try:
                content = b"".join([chunk async for chunk in reply.aiter_raw()])
            except httpx2.HTTPError as error:
                return report_fault(error, url, pending, dialect)
            finally:
                with anyio.CancelScope(shield=True):
                    await reply.aclose()
            if pending is not None:
                pending.end(reply.status_code, _decompress(content, reply.headers.get("content-encoding")))
            slots.release()
            response = Response(content, status_code=reply.status_code)
        reply_headers = [(name, value) for name, value in reply.headers.raw if name.decode().lower() not in _HOP]
        length_headers = [(name, value) for name, value in response.raw_headers if name == b"content-length"]
        episode_headers = [] if pending is None else [(EPISODE_HEADER, quote(pending.episode, safe="").encode())]
        response.raw_headers = reply_headers + length_headers + episode_headers
        return response

    def report_fault(error: Exception, url: str, pending: _PendingCall | None, dialect: Dialect | None) -> Response:
        slow = isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout)
        unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.InvalidURL)
        cause = f"{type(error).__name__}{': ' + str(error) if str(error) else ''}"
        base = next((base for base in upstream.urls.values() if url.startswith(base)), url.partition("?")[0])
        if slow:
            status, message, code = 504, f"{base} sent nothing for {upstream.timeout:g} s ({cause})", "timeout"
        elif unreachable:
            status, message, code = 502, f"{base} cannot be reached ({cause})", "unreachable"
        else:
            status, message, code = 502, f"{base} broke off its reply ({cause})", "broken_off"
        response = error_response(status, message, code, dialect)
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
                    if _has_last_event(self.received):
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
    """A call in progress; only the first ``end`` counts."""

    def __init__(
        self,
        recorder: Recorder,
        episode: str | None,
        dialect: str,
        request: Mapping[str, Any],
        redact: Callable[[bytes], bytes],
    ) -> None:
        self._recorder, self._dialect, self._request, self._redact = recorder, dialect, request, redact
        self._named = episode is not None
        self.episode = episode if episode is not None else recorder.assign_episode(dialect, request)
        self._at, self._started = time.time(), time.perf_counter()
        self._ended = False

    def end(self, status: int, body: bytes, *, cut: str = "") -> None:
        if self._ended:
            return
        self._ended = True
        seconds = round(time.perf_counter() - self._started, 6)
        reply = decode_body(self._redact(body))
        at = round(self._at, 6)
        self._recorder.add_call(
            RecordedCall(self.episode, self._named, at, seconds, status, self._request, reply, cut, self._dialect)
        )


def _start_call(
    recorder: Recorder, episode: str | None, dialect: Dialect | None, raw: bytes, redact: Callable[[bytes], bytes]
) -> _PendingCall | None:
    """The pending call of a request that can be recorded, else None."""
    if dialect is None:
        return None
    request = parse_json(redact(raw))
    if not isinstance(request, dict) or not _has_conversation(request, dialect):
        return None
    return _PendingCall(recorder, episode, dialect.name, request, redact)


def _has_conversation(request: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether a request has what its dialect calls its messages; Responses may only name an earlier response."""
    if dialect is RESPONSES:
        return isinstance(request.get("input"), str | list) or isinstance(request.get("previous_response_id"), str)
    return isinstance(request.get("messages"), list)


def _has_last_event(received: bytearray) -> bool:
    """Whether the events so far end in a whole event that ends a stream."""
    if not received.endswith((b"\n\n", b"\r\n\r\n")):
        return False
    end = len(received.rstrip(b"\r\n"))
    start = max(received.rfind(b"\n\n", 0, end), received.rfind(b"\r\n\r\n", 0, end), -1)
    return _LAST_EVENT.search(received[max(start, 0) : end + 1]) is not None


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
