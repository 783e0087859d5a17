"""JSON over HTTP for the live tools: time-outs, a size limit, retries with backoff, and no key in any message.

Invariant: an answer is a JSON object of at most ``MAX_BYTES`` bytes. Anything else is an error that names the service
but not the address, which may hold a key. Nothing is logged.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

import tenacity

from fireact.errors import ConfigError, ProviderError

MAX_BYTES = 4_000_000
RETRY_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that may go away at the next try."""
LONGEST_WAIT = 60.0


class _BusyError(Exception):
    """The service failed but may answer a retry; ``retry_after`` is the wait in seconds that it asked for."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, so that an address with a key goes to one host only."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


@dataclass(frozen=True, slots=True)
class WebService:
    """A web service that answers GET with JSON; ``seconds`` limits a whole try."""

    name: str
    url: str
    seconds: float = 10.0
    tries: int = 4
    back_off: float = 0.5
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(
                f"the address of {self.name} is not http or https. Set it to a URL such as http://host/path."
            )

    def get(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Request these parameters and return the answer.

        Raises ConfigError where the service refuses the key, ProviderError where it fails after all tries.
        """
        agent = f"FireAct/{version('fireact')} (https://arxiv.org/abs/2310.05915; language agents by fine-tuning)"
        request = urllib.request.Request(
            f"{self.url}?{urllib.parse.urlencode(parameters)}",
            headers={"User-Agent": agent, "Accept": "application/json", **self.headers},
        )
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_BusyError),
            stop=tenacity.stop_after_attempt(self.tries),
            wait=self._wait,
            reraise=True,
        )
        try:
            return retrying(self._fetch_once, request)
        except _BusyError as error:
            raise ProviderError(f"{self.name} failed {self.tries} times: {error}. Try again later.") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _BusyError) and error.retry_after is not None:
            return min(error.retry_after, LONGEST_WAIT)
        return tenacity.wait_exponential_jitter(multiplier=self.back_off, max=LONGEST_WAIT, jitter=self.back_off)(state)

    def _fetch_once(self, request: urllib.request.Request) -> dict[str, Any]:
        deadline = time.monotonic() + self.seconds
        try:
            with _OPENER.open(request, timeout=self.seconds) as response:
                body = self._read_body(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._error_for(error) from None
        except (OSError, urllib.error.URLError, ValueError) as error:  # the message names the cause, not the address
            reason = getattr(error, "reason", error)
            raise _BusyError(
                f"{type(error).__name__} ({reason})" if not isinstance(error, ValueError) else "a broken answer"
            ) from None
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise _BusyError("its answer is not JSON") from None
        if not isinstance(value, dict):
            raise ProviderError(f"{self.name} answered with a {type(value).__name__}; a JSON object was expected.")
        return value

    def _read_body(self, response: Any, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(65536):
            body += chunk
            if len(body) > MAX_BYTES:
                raise ProviderError(f"{self.name} answered with more than {MAX_BYTES:,} bytes; nothing of it was used.")
            if time.monotonic() > deadline:  # slow bytes never trigger the socket's own time-out
                raise _BusyError(f"its answer took longer than {self.seconds:g} s")
        if len(body) < int(response.headers.get("Content-Length") or 0):
            raise _BusyError("the connection was cut")
        return bytes(body)

    def _error_for(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in RETRY_STATUSES:
            return _BusyError(f"status {error.code}", _retry_seconds(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            return ConfigError(f"{self.name} refused the call (status {error.code}). Check its key.")
        return ProviderError(f"{self.name} answered with status {error.code}.")


def _retry_seconds(header: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
