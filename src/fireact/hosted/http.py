"""Requests to a provider: its key, its error messages, and the retries.

A transient fault (429, 5xx, 408, 409, a cut connection, a reply that is not JSON) is a TransientError; ``retry``
repeats the request with growing pauses, or after the time that the server asks for. Only the client holds the key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import tenacity

from fireact.base.keys import key_variable, read_key
from fireact.errors import ConfigError, ProviderError

T = TypeVar("T")
MAX_TRIES = 6
MAX_WAIT_SECONDS = 120.0
"""The longest wait in seconds that a server may ask for."""


class TransientError(Exception):
    """A fault that may pass; ``retry_after`` is the number of seconds that the server asks to wait."""

    def __init__(self, message: str, *, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = (
            min(float(retry_after), MAX_WAIT_SECONDS)
            if retry_after and retry_after.replace(".", "", 1).isdigit()
            else None
        )


class NotFoundError(ConfigError):
    """The provider has nothing at that address."""


class ProviderClient:
    """A client for a provider's address, with its key. Raises ConfigError when the environment has no key."""

    def __init__(self, url: str, *, variable: str = "", pause: float = 1.0) -> None:
        self.url, self._pause = url.rstrip("/"), pause
        self._base, _, self._query = self.url.partition("?")  # an api-version stands in the query
        self._variable = variable or key_variable(url)
        key = read_key(url, self._variable)
        azure = f".{urlsplit(url).hostname}".endswith(".azure.com")
        headers = {"api-key": key} if azure else {"Authorization": f"Bearer {key}"}
        self._client = httpx2.Client(timeout=120, headers=headers)

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON at a path; transient faults are retried."""
        return self.retry(lambda: self.send("GET", path, params=query))

    def post(self, path: str, body: Any = None) -> Any:
        """Like ``get``, for a request that may be repeated without harm."""
        return self.retry(lambda: self.send("POST", path, json={} if body is None else body))

    def retry(self, send: Callable[[], T]) -> T:
        """The result of ``send``; transient faults are retried. Raises ProviderError after ``MAX_TRIES`` failures."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(MAX_TRIES),
            wait=self._wait,
            reraise=True,
        )
        try:
            return retrying(send)
        except TransientError as error:
            raise ProviderError(f"{self.url} failed {MAX_TRIES} times; the last time: {error}") from None

    def send(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a reply. Raises TransientError, or ConfigError for a request that is refused."""
        query = dict(httpx2.QueryParams(self._query)) | dict(options.pop("params", None) or {})
        address = f"{self._base}/{path}" if path else self._base
        try:
            reply = self._client.request(method, address, params=query or None, **options)
        except httpx2.HTTPError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from None
        if reply.status_code in (408, 409, 425, 429) or reply.status_code >= 500:
            raise TransientError(
                f"{reply.status_code} {_error_text(reply)}", retry_after=reply.headers.get("retry-after")
            )
        if reply.status_code >= 300:
            message = f"{self.url} refused {method} {path} with {reply.status_code}: {_error_text(reply)}"
            advice = f" Set {self._variable} to a valid key." if reply.status_code == 401 else ""
            raise (NotFoundError if reply.status_code == 404 else ConfigError)(message + advice)
        try:
            return reply.json() if reply.content else {}
        except (ValueError, RecursionError):
            raise TransientError("a reply that is not JSON") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        grown = tenacity.wait_random_exponential(multiplier=self._pause, max=60)(state)
        return fault.retry_after if isinstance(fault, TransientError) and fault.retry_after is not None else grown


def _error_text(reply: httpx2.Response) -> str:
    try:
        data = reply.json()
        error = data.get("error", data)
        return str(error.get("message") or error) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        return reply.text[:200]
