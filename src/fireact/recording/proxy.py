"""The proxy: forwards every request to the upstream and every reply to the client, and records the three dialects.

    /v1/...            to the upstream of its dialect; calls are grouped into episodes by their conversation
    /e/ID/v1/...       the same, in the episode ID
    /e/ID/feedback     what the program says of the episode ID; it goes to the recorder

Invariant: bodies pass through unchanged, and streams byte by byte. The recorder gets a call before the client has seen
the end of its reply. Headers, and so keys, are forwarded and never stored. Nothing of one client, such as a cookie,
reaches another. This module keeps no episodes and writes no files.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import httpx2

from fireact.base.listening import find_stranger, is_json, is_loopback
from fireact.base.redact import is_secret_name, list_header_secrets
from fireact.errors import ConfigError, DataError, FireactError, missing_extra_error
from fireact.recording.calls import CLIENT_LEFT, RecordedCall, decode_body
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect
from fireact.wire.dialects import DIALECTS, find_dialect, find_owner, normalise_path, split_episode
from fireact.wire.fields import as_mapping, parse_json
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES

if TYPE_CHECKING:
    import aiohttp

_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"host", b"content-length", b"accept-encoding", b"expect",
}  # fmt: skip
"""Headers that belong to one connection. The proxy asks for replies without compression, so that it can read them."""
LONG_BODY = 1_000_000
"""Bytes of a request that are sent at once."""
_FEEDBACK = re.compile(r"/(?:v1/)?feedback/?")
_RESPONSE = re.compile(r"/responses/([^/]+)\Z")
_CONVERSATION = re.compile(r"/conversations(?:/([^/]+)/items)?/?\Z")
"""Where conversations of the Responses API begin, and get items."""
_LAST_EVENT = re.compile(
    rb"(?:\A|\n)(?:data: ?\[DONE\]"
    rb"|event: ?(?:message_stop|response\.(?:completed|incomplete|failed))\r?\n"
    rb'|data: ?\{"type": ?"(?:message_stop|response\.(?:completed|incomplete|failed))")'
)
"""The start of the event that ends a stream. A line begins it, so no text of a model can look like it."""
BROKEN_OFF = "fireact record: the endpoint broke off its stream"
EPISODE_HEADER = b"x-fireact-episode"
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 4.0
"""How long an idle connection to the upstream is kept: less than servers keep it, most of them 5 s or longer."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Recorder(Protocol):
    """Receives the calls that pass through the proxy."""

    def assign_episode(self, dialect: str, request: Mapping[str, Any]) -> str:
        """The episode of a call whose URL names none."""

    def add_call(self, call: RecordedCall) -> None:
        """Store a call that has ended."""

    def add_feedback(self, episode: str, values: Any) -> Any:
        """Store feedback on an episode. Raises a FireactError."""

    def add_late_reply(self, response_id: str, reply: Any) -> None:
        """Store the reply of a response that ran in the background, if it is one of this recording and has ended."""

    def add_conversation_items(self, id: str, items: Sequence[Any]) -> None:
        """Store the items with which a conversation of the Responses API began, or which it got without a call."""

    def count_request(self, request: str) -> None:
        """Count a request that is not recorded."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go: the base URL of each dialect.

    ``timeout`` is in seconds without a byte; ``max_body`` is in bytes of a request, and of what is kept of a reply.
    """

    urls: Mapping[str, str]
    timeout: float
    concurrency: int
    max_body: int

    def base_url(self, path: str, *, is_anthropic: bool = False) -> str:
        """The base URL of the dialect that a path belongs to; ``is_anthropic`` decides where a path belongs to none."""
        dialect = find_owner(path) or (MESSAGES if is_anthropic else CHAT_COMPLETIONS)
        return self.urls[dialect.name]

    def url_for(self, path: str, *, is_anthropic: bool = False) -> str:
        """The upstream's address for a local path.

        /v1/... lies under the base URL, and so do the paths of a client that leaves /v1 out or gives it twice. Other
        paths replace /v1.
        """
        url = self.base_url(path, is_anthropic=is_anthropic)
        path = normalise_path(path)
        return url + path.removeprefix("/v1") if path.startswith("/v1/") else url.removesuffix("/v1") + path


def parse_base_url(text: str, option: str = "--upstream") -> str:
    """A base URL in the form that clients take; without a path it gets /v1. Raises ConfigError for any other text."""
    try:
        url_parts = urlsplit(text.strip())
        valid = url_parts.scheme in ("http", "https") and bool(url_parts.hostname) and (url_parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        hint = " https:// is missing." if "://" not in text else ""
        raise ConfigError(f"{option} {text!r} is no address.{hint} Give one such as https://api.openai.com/v1.")
    if url_parts.username or url_parts.password or url_parts.query or url_parts.fragment:
        raise ConfigError(
            f"{option} is stored with the run: give it without a user, key or query; clients send their key."
        )
    path = url_parts.path.rstrip("/")
    return f"{url_parts.scheme}://{url_parts.netloc}{path or '/v1'}"


@dataclass(frozen=True, slots=True)
class _ProxiedRequest:
    """A request of a client; ``body`` is None where it is longer than allowed."""

    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes | None
    episode: str | None
    dialect: Dialect | None

    @property
    def is_anthropic(self) -> bool:
        return any(name == b"anthropic-version" for name, _ in self.headers)


class ClientLeftError(Exception):
    """The client closed its connection."""


class RecordingProxy:
    """The ASGI application; ``is_local`` where only this machine can reach it.

    Requests of web pages are refused, and so are bodies to be recorded that are not JSON. Raises ConfigError when the
    extra is missing.
    """

    def __init__(self, upstream: Upstream, recorder: Recorder, *, is_local: bool = True) -> None:
        try:
            import aiohttp
            import yarl
        except ImportError as error:
            raise missing_extra_error("aiohttp", "serve") from error
        self._aiohttp, self._make_url = aiohttp, yarl.URL
        self._upstream, self._recorder, self._is_local = upstream, recorder, is_local
        self._slots = asyncio.Semaphore(upstream.concurrency)
        self._session: aiohttp.ClientSession

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_session(receive, send)
            return
        try:
            request = await self._read_request(scope, receive)
        except ClientLeftError:
            return
        work = asyncio.ensure_future(self._answer(request, send))
        left = asyncio.ensure_future(_wait_until_left(receive))
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not work.done():  # nobody reads the reply from here on
                work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _run_session(self, receive: Receive, send: Send) -> None:
        """Open the client of the upstreams when the server starts, and close it when the server ends."""
        aiohttp, upstream = self._aiohttp, self._upstream
        is_local = all(is_loopback(urlsplit(url).hostname or "") for url in upstream.urls.values())
        is_secure = any(url.startswith("https:") for url in upstream.urls.values())
        await receive()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=httpx2.create_ssl_context() if is_secure else True, keepalive_timeout=IDLE_SECONDS
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(CONNECT_SECONDS, upstream.timeout), sock_read=upstream.timeout
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            trust_env=not is_local,  # proxies of the environment
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _read_request(self, scope: Any, receive: Receive) -> _ProxiedRequest:
        """The request, as its bytes say it. Raises ClientLeftError."""
        received, is_more, is_short = bytearray(), True, True
        while is_more and is_short:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            received += message.get("body", b"")
            is_more = message.get("more_body", False)
            is_short = len(received) <= self._upstream.max_body
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        episode, path = split_episode(path)
        return _ProxiedRequest(
            method=scope["method"], path=path, query=scope["query_string"].decode("latin-1"), headers=scope["headers"],
            body=bytes(received) if is_short else None, episode=None if episode is None else unquote(episode),
            dialect=find_dialect(path) if scope["method"] == "POST" else None,
        )  # fmt: skip

    async def _answer(self, request: _ProxiedRequest, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        if reason := find_stranger(headers, check_host=self._is_local):
            await _send_error(send, 403, reason, "foreign_origin", request.dialect)
            self._recorder.count_request(f"{request.method} {request.path[:80]} (403)")
            return
        is_feedback = request.episode is not None and request.method == "POST" and _FEEDBACK.fullmatch(request.path)
        if (request.dialect is not None or is_feedback) and not is_json(headers):
            message = f"the content-type is {headers.get('content-type', 'none')}; it must be application/json"
            await _send_error(send, 415, message, "not_json", request.dialect)
            self._recorder.count_request(f"{request.method} {request.path[:80]} (415)")
            return
        if request.body is None:
            message = f"the request is longer than {self._upstream.max_body} bytes (--max-body)"
            await _send_error(send, 413, message, "too_long", request.dialect)
            self._recorder.count_request(f"{request.method} {request.path[:80]} (413)")
            return
        if is_feedback and request.episode is not None:
            await self._take_feedback(request.episode, request.body, send)
            return
        redact = _make_redactor(request.headers, request.query)
        pending = _start_call(self._recorder, request.episode, request.dialect, request.body, redact)
        if pending is None:
            status = await self._forward(request, send, None)
            self._recorder.count_request(f"{request.method} {request.path[:80]} ({status})")
            return
        try:
            async with self._slots:
                await self._forward(request, send, pending)
        except asyncio.CancelledError:  # the first end counts: a stream that began has ended its call
            pending.end(CLIENT_LEFT, b"", cut="client")
            raise
        finally:
            pending.end(500, b"fireact record failed")  # whatever went wrong, the call is in the log

    async def _take_feedback(self, episode: str, body: bytes, send: Send) -> None:
        try:
            self._recorder.add_feedback(episode, parse_json(body))
        except FireactError as error:
            await _send_error(send, 404 if isinstance(error, DataError) else 400, str(error), "feedback", None)
        else:
            await _send_json(send, 200, {"episode": episode})

    async def _forward(self, request: _ProxiedRequest, send: Send, pending: _PendingCall | None) -> int:
        """Forward a request and its reply, and return the status."""
        aiohttp = self._aiohttp
        url = self._upstream.url_for(request.path, is_anthropic=request.is_anthropic)
        try:
            async with self._session.request(
                request.method,
                self._make_url(f"{url}?{request.query}" if request.query else url, encoded=True),
                headers=_make_upstream_headers(request.headers),
                data=_make_payload(request.body),
                allow_redirects=False,
            ) as reply:
                content = b""
                if reply.content_type != "text/event-stream":
                    content = await self._read_reply(reply)
                if not reply.content.at_eof():  # a stream, or longer than what is kept
                    await self._forward_stream(reply, send, pending, content)
                    return int(reply.status)
        except (TimeoutError, aiohttp.ClientError) as error:
            return await self._report_fault(error, url, request, send, pending)
        plain_content, is_whole = self._decompress(content, reply)
        if pending is not None:
            pending.end(reply.status, plain_content, cut="" if is_whole else "bound")
        elif reply.status == 200 and request.method == "GET" and (match := _RESPONSE.search(request.path)):
            redact = _make_redactor(request.headers, request.query)
            self._recorder.add_late_reply(unquote(match[1]), decode_body(redact(plain_content)))
        elif reply.status == 200 and request.method == "POST" and (match := _CONVERSATION.search(request.path)):
            redact = _make_redactor(request.headers, request.query)
            bodies = [as_mapping(decode_body(redact(body))) for body in (request.body or b"", plain_content)]
            items, id = bodies[0].get("items"), unquote(match[1]) if match[1] else str(bodies[1].get("id"))
            self._recorder.add_conversation_items(id, items if isinstance(items, list) else [])
        await _send_response(send, reply.status, _make_client_headers(reply, pending, len(content)), content)
        return int(reply.status)

    async def _read_reply(self, reply: Any) -> bytes:
        """The body of a reply, or its beginning where it is longer than what is kept."""
        received = bytearray()
        async for chunk in reply.content.iter_any():
            received += chunk
            if len(received) > self._upstream.max_body:
                break
        return bytes(received)

    async def _forward_stream(self, reply: Any, send: Send, pending: _PendingCall | None, beginning: bytes) -> None:
        """Forward a reply as it comes; whichever side ends it, the bytes so far are recorded, up to a bound.

        A stream that the upstream breaks off ends in an error for the client, too.
        """
        received, cut, is_whole, ending = bytearray(beginning), "client", False, beginning[-4:]

        def end_call(cut: str) -> None:
            if pending is not None:
                content, is_whole = self._decompress(bytes(received), reply)
                pending.end(reply.status, content, cut=cut if is_whole else "bound")

        headers = _make_client_headers(reply, pending, None)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        try:
            if beginning:
                await send({"type": "http.response.body", "body": beginning, "more_body": True})
            async for chunk in reply.content.iter_any():
                ending = (ending + chunk)[-4:]
                if len(received) <= self._upstream.max_body:
                    received += chunk
                    if _has_last_event(received):
                        end_call("")
                        is_whole = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            cut = ""
        except (TimeoutError, self._aiohttp.ClientError):
            cut = "upstream"
        finally:
            end_call(cut)  # the first end counts
        is_broken = not is_whole and (cut == "upstream" if pending is None else pending.is_broken_off)
        is_plain = reply.headers.get("content-encoding") in (None, "", "identity")
        ends_inside = bool(ending) and not ending.endswith((b"\n\n", b"\r\n\r\n"))
        if is_broken and (pending is None or ends_inside or not is_plain):
            raise ConnectionAbortedError(BROKEN_OFF)  # no event can follow, so the client gets a broken connection
        error_event = pending.write_stream_error(BROKEN_OFF) if is_broken and pending is not None else b""
        await send({"type": "http.response.body", "body": error_event})

    def _decompress(self, body: bytes, reply: Any) -> tuple[bytes, bool]:
        """What is kept of a body, without compression, and whether that is all of it.

        A server may compress although the proxy asked it not to.
        """
        bound = self._upstream.max_body
        if reply.headers.get("content-encoding") in ("gzip", "deflate"):
            with contextlib.suppress(zlib.error):
                body = zlib.decompressobj(47).decompress(body, bound + 1)
        return body[:bound], len(body) <= bound

    async def _report_fault(
        self, error: Exception, url: str, request: _ProxiedRequest, send: Send, pending: _PendingCall | None
    ) -> int:
        """Answer a request that the upstream did not answer, in the form of its dialect; returns the status."""
        aiohttp, seconds = self._aiohttp, self._upstream.timeout
        base = self._upstream.base_url(request.path, is_anthropic=request.is_anthropic)
        cause = f"{type(error).__name__}{': ' + str(error) if str(error) else ''}"
        unreachable_errors = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ValueError)
        if isinstance(error, aiohttp.SocketTimeoutError):
            status, message, code = 504, f"{base} sent nothing for {seconds:g} s ({cause})", "timeout"
        elif isinstance(error, unreachable_errors):
            status, message, code = 502, f"{base} cannot be reached ({cause})", "unreachable"
        else:
            status, message, code = 502, f"{base} broke off its reply ({cause})", "broken_off"
        body = _write_error(message, code, request.dialect)
        if pending is not None:
            pending.end(status, body)
        await _send_response(send, status, [(b"content-type", b"application/json")], body)
        return status


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _write_error(message: str, code: str, dialect: Dialect | None) -> bytes:
    """The body of an error of the proxy itself, in the form of a dialect."""
    dialect = dialect or CHAT_COMPLETIONS
    body = dialect.write_error(f"fireact record: {message}", "api_error" if dialect is MESSAGES else "proxy_error")
    if "code" in body["error"]:
        body["error"]["code"] = code
    return json.dumps(body, ensure_ascii=False).encode()


async def _send_error(send: Send, status: int, message: str, code: str, dialect: Dialect | None) -> None:
    await _send_response(send, status, [(b"content-type", b"application/json")], _write_error(message, code, dialect))


async def _send_json(send: Send, status: int, value: Mapping[str, Any]) -> None:
    await _send_response(send, status, [(b"content-type", b"application/json")], json.dumps(value).encode())


async def _send_response(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if not any(name == b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _make_payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """The body for the upstream; a long one goes in pieces, so that other clients do not wait for it."""
    return io.BytesIO(body) if body and len(body) > LONG_BODY else body or None


def _make_upstream_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    forwarded = [(_decode_header(name), _decode_header(value)) for name, value in headers if name not in _HOP]
    return [*forwarded, ("accept-encoding", "identity")]


def _decode_header(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _make_client_headers(reply: Any, pending: _PendingCall | None, length: int | None) -> list[tuple[bytes, bytes]]:
    headers = [(name.lower(), value) for name, value in reply.raw_headers if name.lower() not in _HOP]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    if pending is not None:
        headers.append((EPISODE_HEADER, quote(pending.episode, safe="").encode()))
    return headers


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
        self._call: RecordedCall | None = None

    @property
    def is_broken_off(self) -> bool:
        """Whether the upstream ended its stream in the middle, without an error."""
        return self._call is not None and self._call.is_broken_off

    def write_stream_error(self, message: str) -> bytes:
        """The event of an error that ends a stream, in the form of its dialect."""
        writer = DIALECTS[self._dialect].stream_writer(str(self._request.get("model") or ""))
        return writer.fail(message)

    def end(self, status: int, body: bytes, *, cut: str = "") -> None:
        if self._call is not None:
            return
        seconds = round(time.perf_counter() - self._started, 6)
        reply = decode_body(self._redact(body))
        at = round(self._at, 6)
        self._call = RecordedCall(
            self.episode, self._named, at, seconds, status, self._request, reply, cut, self._dialect
        )
        self._recorder.add_call(self._call)


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


def _make_redactor(headers: Sequence[tuple[bytes, bytes]], query: str) -> Callable[[bytes], bytes]:
    """A function that redacts a request's keys in bodies."""
    fields = [*((_decode_header(name), _decode_header(value)) for name, value in headers), *parse_qsl(query)]
    secrets = list_header_secrets(tuple(value for name, value in fields if is_secret_name(name)))

    def redact(body: bytes) -> bytes:
        for value in secrets:
            body = body.replace(value, b"[key]")
        return body

    return redact
