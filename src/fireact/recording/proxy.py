"""The proxy: passes every request on to the upstream and every reply back as it comes, and hands chat completions over.

    /v1/...          to the upstream; chat completions are grouped into episodes by their conversation
    /e/ID/v1/...     the same, and the episode is ID

Invariant: bodies pass through unchanged, streams byte by byte; a call is handed over before the client has seen the end
of its reply. Headers, and so keys, are passed on and never kept. It keeps no episodes and writes no files.
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

from fireact.errors import ConfigError, missing_extra
from fireact.recording.conversations import Call, body_of
from fireact.recording.wire import parsed

_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding", "expect",
}  # fmt: skip
"""Headers that belong to one connection. A reply is asked for as it is, without compression, so that it can be read."""
_SECRET = re.compile(r"authorization|cookie|key|token|secret", re.IGNORECASE)
_EPISODE = re.compile(r"/e/([^/]{1,200})(/.*)")
_UNRECORDED = ("/v1/responses", "/v1/completions", "/v1/messages")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


class Recorder(Protocol):
    """Takes what the proxy hears."""

    def episode(self, request: Mapping[str, Any]) -> str:
        """The episode of a call that names none."""

    def take(self, call: Call) -> None:
        """A call has ended."""

    def note(self, line: str) -> None:
        """Something that whoever watches should know."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go. ``timeout`` is in seconds without a byte; ``max_body`` in bytes of a request."""

    url: str
    timeout: float
    concurrency: int
    max_body: int

    def at(self, path: str) -> str:
        """The address of a local path: /v1/... (and chat/..., of a client without /v1) lies under the base URL, others beside."""
        under = path.removeprefix("/v1") if path.startswith(("/v1/", "/chat/")) else None
        return self.url.removesuffix("/v1") + path if under is None else self.url + under


def base_url(text: str) -> str:
    """A base URL as clients take it; /v1 is added where there is no path. Raises ConfigError where it is none."""
    try:
        found = urlsplit(text.strip())
        valid = found.scheme in ("http", "https") and bool(found.hostname) and (found.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--upstream {text!r} is no address. Give one such as https://api.openai.com/v1.")
    if found.username or found.password or found.query or found.fragment:
        raise ConfigError(
            "--upstream is kept with the run: give it without a user, key or query; clients send their key."
        )
    path = found.path.rstrip("/")
    return f"{found.scheme}://{found.netloc}{path or '/v1'}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(upstream: Upstream, recorder: Recorder) -> Any:
    """The ASGI application. Raises ConfigError when the extra is missing."""
    try:
        import anyio
        import httpx2
        from starlette.applications import Starlette
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra("starlette", "serve") from error

    client: httpx2.AsyncClient
    slots: anyio.Semaphore
    said: set[str] = set()

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

    def failure(status: int, message: str, code: str) -> Response:
        body = {"error": {"message": f"fireact record: {message}", "type": "proxy_error", "param": None, "code": code}}
        return JSONResponse(body, status_code=status)

    async def body(request: Request) -> bytes | None:
        """The body, or None when it is longer than allowed."""
        read = bytearray()
        async for part in request.stream():
            read += part
            if len(read) > upstream.max_body:
                return None
        return bytes(read)

    async def handle(request: Request) -> Response:
        match = _EPISODE.fullmatch(request.scope["path"])
        path = match[2] if match else request.scope["path"]
        try:
            raw = await body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if raw is None:
            return failure(413, f"the request is longer than {upstream.max_body} bytes (--max-body)", "too_long")
        hide = _secrets(request.headers.items(), request.query_params.multi_items())
        tape = _tape(recorder, unquote(match[1]) if match else None, path, request.method, raw, hide)
        if tape is None and path in _UNRECORDED and path not in said:
            said.add(path)
            recorder.note(f"{path} is passed through but not recorded: only chat completions are.")
        query = f"?{request.url.query}" if request.url.query else ""
        await slots.acquire()
        try:
            return await exchange(request, upstream.at(path) + query, raw, tape)
        except BaseException:
            slots.release()
            raise

    async def exchange(request: Request, url: str, raw: bytes, tape: _Tape | None) -> Response:
        """Send a request on; the slot is freed here, or at the end of a stream."""
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        try:
            sent = client.build_request(
                request.method, url, headers=[*headers, ("accept-encoding", "identity")], content=raw
            )
            reply = await client.send(sent, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return lost(error, tape)
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            response: Response = Passing(reply, tape)
        else:
            try:
                whole = b"".join([part async for part in reply.aiter_raw()])
            except httpx2.HTTPError as error:
                return lost(error, tape)
            finally:
                with anyio.CancelScope(shield=True):
                    await reply.aclose()
            if tape is not None:
                tape.end(reply.status_code, _plain(whole, reply.headers.get("content-encoding")))
            slots.release()
            response = Response(whole, status_code=reply.status_code)
        kept = [(name, value) for name, value in reply.headers.raw if name.decode().lower() not in _HOP]
        own = [(name, value) for name, value in response.raw_headers if name == b"content-length"]
        response.raw_headers = kept + own
        return response

    def lost(error: Exception, tape: _Tape | None) -> Response:
        slow = isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout)
        unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.InvalidURL)
        cause = f"{type(error).__name__}{': ' + str(error) if str(error) else ''}"
        if slow:
            response = failure(504, f"{upstream.url} sent nothing for {upstream.timeout:g} s ({cause})", "timeout")
        elif unreachable:
            response = failure(502, f"{upstream.url} cannot be reached ({cause})", "unreachable")
        else:
            response = failure(502, f"{upstream.url} broke off its reply ({cause})", "broken_off")
        if tape is not None:
            tape.end(response.status_code, bytes(response.body))
        slots.release()
        return response

    class Passing(StreamingResponse):
        """A stream on its way; whoever ends it, what was heard is kept and the slot is freed."""

        def __init__(self, reply: httpx2.Response, tape: _Tape | None) -> None:
            super().__init__(self.parts(), status_code=reply.status_code)
            self.reply, self.tape, self.heard, self.cut = reply, tape, bytearray(), "client"

        async def parts(self) -> AsyncIterator[bytes]:
            try:
                async for part in self.reply.aiter_raw():
                    self.heard += part
                    if b"[DONE]" in self.heard[-len(part) - 8 :]:
                        self.kept("")
                    yield part
            except httpx2.HTTPError:
                self.cut = "upstream"
                raise
            self.kept("")

        def kept(self, cut: str) -> None:
            if self.tape is not None:
                encoding = self.reply.headers.get("content-encoding")
                self.tape.end(self.reply.status_code, _plain(bytes(self.heard), encoding), cut=cut)

        async def __call__(self, *arguments: Any) -> None:
            try:
                await super().__call__(*arguments)
            finally:
                slots.release()
                with anyio.CancelScope(shield=True):
                    await self.reply.aclose()
                self.kept(self.cut)  # the first end counts

    return Starlette(routes=[Route("/{path:path}", handle, methods=_METHODS)], lifespan=lifespan)


class _Tape:
    """What is known of one chat completion while it is under way; the first ``end`` counts."""

    def __init__(
        self,
        recorder: Recorder,
        episode: str | None,
        request: Mapping[str, Any],
        hide: Callable[[bytes], bytes],
    ) -> None:
        self._recorder, self._request, self._hide = recorder, request, hide
        self._named = episode is not None
        self._episode = episode if episode is not None else recorder.episode(request)
        self._at, self._started = time.time(), time.perf_counter()
        self._ended = False

    def end(self, status: int, body: bytes, *, cut: str = "") -> None:
        if self._ended:
            return
        self._ended = True
        seconds = round(time.perf_counter() - self._started, 6)
        reply = body_of(self._hide(body))
        self._recorder.take(
            Call(self._episode, self._named, round(self._at, 6), seconds, status, self._request, reply, cut)
        )


def _tape(
    recorder: Recorder, episode: str | None, path: str, method: str, raw: bytes, hide: Callable[[bytes], bytes]
) -> _Tape | None:
    """A tape for what can be recorded, else None."""
    if method != "POST" or not path.endswith("/chat/completions"):
        return None
    request = parsed(hide(raw))
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        return None
    return _Tape(recorder, episode, request, hide)


def _secrets(*pairs: Any) -> Callable[[bytes], bytes]:
    """Takes the keys that a request carries out of bodies: servers echo them in errors."""
    values = [value.removeprefix("Bearer ").strip() for found in pairs for name, value in found if _SECRET.search(name)]
    # what is shorter is a placeholder ("not-needed"), which may well be a word of the conversation
    hidden = [json.dumps(value)[1:-1].encode() for value in values if len(value) >= 16]

    def hide(body: bytes) -> bytes:
        for value in hidden:
            body = body.replace(value, b"[key]")
        return body

    return hide


def _plain(body: bytes, encoding: str | None) -> bytes:
    """A body as text, of a server that compresses although it was asked not to."""
    if encoding not in ("gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(47).decompress(body)
    except zlib.error:
        return body
