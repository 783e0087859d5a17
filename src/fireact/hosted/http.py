"""Requests to a provider: its key, its errors in words, and which faults are tried again.

A fault that may pass (429, 5xx, 408, 409, a cut connection, a reply that is not JSON) is a PassingError; ``patiently``
tries again with growing pauses, or after as long as the server says. The key is kept by the client alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import tenacity

from fireact.errors import ConfigError, ProviderError
from fireact.models.keys import key_of, variable_of

T = TypeVar("T")
TRIES = 6
LONGEST = 120.0
"""Seconds that a server may ask to wait."""


class PassingError(Exception):
    """A fault that may pass; ``after`` is how many seconds the server asks to wait."""

    def __init__(self, said: str, *, after: str | None = None) -> None:
        super().__init__(said)
        self.after = min(float(after), LONGEST) if after and after.replace(".", "", 1).isdigit() else None


class MissingError(ConfigError):
    """The provider has nothing under that address."""


class Http:
    """A provider's address with its key. Raises ConfigError when the key is not in the environment."""

    def __init__(self, url: str, *, variable: str = "", pause: float = 1.0) -> None:
        self.url, self._pause = url.rstrip("/"), pause
        self._base, _, self._query = self.url.partition("?")  # an api-version stands in the query
        self._variable = variable or variable_of(url)
        key = key_of(url, self._variable)
        azure = f".{urlsplit(url).hostname}".endswith(".azure.com")
        headers = {"api-key": key} if azure else {"Authorization": f"Bearer {key}"}
        self._client = httpx2.Client(timeout=120, headers=headers)

    def get(self, path: str, **query: str | int) -> Any:
        """What is at a path, tried again after faults that may pass."""
        return self.patiently(lambda: self.send("GET", path, params=query))

    def post(self, path: str, body: Any = None) -> Any:
        """As ``get``, for what may be done twice."""
        return self.patiently(lambda: self.send("POST", path, json={} if body is None else body))

    def patiently(self, send: Callable[[], T]) -> T:
        """The result of ``send``, tried again after faults that may pass. Raises ProviderError when tries are used up."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=self._wait,
            reraise=True,
        )
        try:
            return retrying(send)
        except PassingError as error:
            raise ProviderError(f"{self.url} failed {TRIES} times; the last time: {error}") from None

    def send(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a reply. Raises PassingError, or ConfigError for a request that is refused."""
        query = dict(httpx2.QueryParams(self._query)) | dict(options.pop("params", None) or {})
        address = f"{self._base}/{path}" if path else self._base
        try:
            reply = self._client.request(method, address, params=query or None, **options)
        except httpx2.HTTPError as error:
            raise PassingError(f"{type(error).__name__}: {error}") from None
        if reply.status_code in (408, 409, 425, 429) or reply.status_code >= 500:
            raise PassingError(f"{reply.status_code} {_said(reply)}", after=reply.headers.get("retry-after"))
        if reply.status_code >= 300:
            said = f"{self.url} refused {method} {path} with {reply.status_code}: {_said(reply)}"
            advice = f" Set {self._variable} to a valid key." if reply.status_code == 401 else ""
            raise (MissingError if reply.status_code == 404 else ConfigError)(said + advice)
        try:
            return reply.json() if reply.content else {}
        except (ValueError, RecursionError):
            raise PassingError("a reply that is not JSON") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        grown = tenacity.wait_random_exponential(multiplier=self._pause, max=60)(state)
        return fault.after if isinstance(fault, PassingError) and fault.after is not None else grown


def _said(reply: httpx2.Response) -> str:
    try:
        data = reply.json()
        error = data.get("error", data)
        return str(error.get("message") or error) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        return reply.text[:200]
