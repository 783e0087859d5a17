"""HTTP for endpoints, tuning providers and web tools: time-outs, a size limit, and retries with backoff.

A transient fault (408, 409, 425, 429, 5xx, a cut connection, a time-out, a reply that is not JSON) is a TransientError;
``Retry`` repeats the request with growing pauses, or after the wait that the server asks for.

Invariant: a message names the service, and never a header, a query or the address of a redirect, each of which may hold
a key. ``HttpClient`` follows no redirect, so that a key goes to one host only. Nothing is logged.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import tenacity

from fireact.base.redact import excerpt, redact
from fireact.errors import ProviderError

T = TypeVar("T")
MAX_BYTES = 64_000_000
"""The longest reply that is read."""
MAX_BACKOFF = 30.0
"""The longest pause in seconds that grows by itself."""


class TransientError(Exception):
    """A fault that a retry may mend; ``retry_after`` is the wait in seconds that the server asks for."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a request is tried, and the pauses between: from ``pause`` seconds, or as the server asks."""

    tries: int = 6
    pause: float = 1.0
    longest_wait: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def run(self, service: str, send: Callable[[], T]) -> T:
        """The result of ``send``, which is repeated after a TransientError. Raises ProviderError after the last try."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(self.tries),
            wait=self._wait,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return retrying(send)
        except TransientError as fault:
            raise ProviderError(f"{service} failed {self.tries} times: {fault}") from fault

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        requested_wait = fault.retry_after if isinstance(fault, TransientError) else None
        backoff = tenacity.wait_random_exponential(multiplier=self.pause, max=MAX_BACKOFF)(state)
        return min(requested_wait + 0.1 * backoff if requested_wait is not None else backoff, self.longest_wait)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that was read to its end."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The value of the body; an empty one is an empty object. Raises TransientError for what is not JSON."""
        try:
            return json.loads(self.body) if self.body else {}
        except (ValueError, RecursionError):
            raise TransientError("a reply that is not JSON") from None

    @property
    def error_text(self) -> str:
        """The server's own words about an error, without keys."""
        try:
            data = json.loads(self.body)
            error = data.get("error", data)
            return str(redact(str(error.get("message") or error) if isinstance(error, dict) else str(error)))
        except (ValueError, AttributeError, RecursionError):
            return excerpt(self.body, 200)


class HttpClient:
    """Sends requests to one service. ``seconds`` limits each wait, and a whole try where ``limits_try``."""

    def __init__(
        self,
        service: str,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 120.0,
        limits_try: bool = False,
        max_bytes: int = MAX_BYTES,
        quotes_errors: bool = False,
        retry: Retry | None = None,
    ) -> None:
        self.service, self._quotes_errors, self._retry = service, quotes_errors, retry or Retry()
        self._seconds, self._limits_try, self._max_bytes = seconds, limits_try, max_bytes
        self._client = httpx2.Client(timeout=seconds, headers=dict(headers or {}), follow_redirects=False)
        weakref.finalize(self, self._client.close)  # connections end with their owner

    def retry(self, send: Callable[[], T]) -> T:
        """The result of ``send``; transient faults are retried. Raises ProviderError after the last try."""
        return self._retry.run(self.service, send)

    def send(self, method: str, url: str, **options: Any) -> Reply:
        """The reply to one try of a request. Raises TransientError, or ProviderError where it is too long."""
        deadline = time.monotonic() + self._seconds if self._limits_try else float("inf")
        try:
            with self._client.stream(method, url, **options) as response:
                reply = Reply(response.status_code, self._read_body(response, deadline))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise TransientError(_describe_fault(error)) from None
        if is_transient(reply.status):
            text = f" {reply.error_text}" if self._quotes_errors else ""
            raise TransientError(f"status {reply.status}{text}", retry_after=parse_retry_after(response.headers))
        return reply

    def _read_body(self, response: httpx2.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self._max_bytes:
                raise _too_long_error(self.service, self._max_bytes)
            if time.monotonic() > deadline:  # slow bytes never trigger the time-out of a wait
                raise TransientError(f"its reply took longer than {self._seconds:g} s")
        return bytes(body)


def limit_reply(service: str, max_bytes: int = MAX_BYTES) -> Callable[[httpx2.Response], None]:
    """A response hook for clients of other libraries: a reply of more bytes raises ProviderError."""

    def limit(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _LimitedStream(response.stream, service, max_bytes)

    return limit


class _LimitedStream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, service: str, max_bytes: int) -> None:
        self._stream, self._service, self._max_bytes = stream, service, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for chunk in self._stream:
            count += len(chunk)
            if count > self._max_bytes:
                raise _too_long_error(self._service, self._max_bytes)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def is_transient(status: int) -> bool:
    """Whether an error of this status may go away at the next try."""
    return status in (408, 409, 425, 429) or status >= 500


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """The ``Retry-After`` header, a number or a date, as seconds from now; None where there is none to read."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def show_address(url: str) -> str:
    """An address for messages: without a name, a password or a query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _describe_fault(error: Exception) -> str:
    """A fault in words. Other messages than those of the network may repeat an address."""
    is_network_fault = isinstance(error, httpx2.NetworkError | httpx2.TimeoutException)
    return f"{type(error).__name__}: {error}" if is_network_fault else type(error).__name__


def _too_long_error(service: str, max_bytes: int) -> ProviderError:
    return ProviderError(f"{service} answered with more than {max_bytes:,} bytes; nothing of it was used.")
