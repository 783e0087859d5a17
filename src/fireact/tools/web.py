"""JSON over HTTP for the live tools: time-outs, a limit of size, retries with back-off, and no key in any message.

Invariant: an answer that comes back is a JSON object of at most ``MAX_BYTES``; anything else is an error that names the
service and never the address that was called, since a key may be part of it. Nothing is logged.
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
AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that may be gone at the next try."""
LONGEST_WAIT = 60.0


class _BusyError(Exception):
    """The service did not answer this time; ``after`` is how many seconds it asked to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: an address with a key in it is for one host."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


@dataclass(frozen=True, slots=True)
class Service:
    """A web service that answers GET with JSON; ``seconds`` bounds one try as a whole."""

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
        """The answer to these parameters.

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
            return retrying(self._once, request)
        except _BusyError as error:
            raise ProviderError(f"{self.name} failed {self.tries} times: {error}. Try again later.") from None

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _BusyError) and error.after is not None:
            return min(error.after, LONGEST_WAIT)
        return tenacity.wait_exponential_jitter(multiplier=self.back_off, max=LONGEST_WAIT, jitter=self.back_off)(state)

    def _once(self, request: urllib.request.Request) -> dict[str, Any]:
        until = time.monotonic() + self.seconds
        try:
            with _OPENER.open(request, timeout=self.seconds) as response:
                body = self._read(response, until)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, urllib.error.URLError, ValueError) as error:  # names its cause, not the address
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

    def _read(self, response: Any, until: float) -> bytes:
        body = bytearray()
        while block := response.read1(65536):
            body += block
            if len(body) > MAX_BYTES:
                raise ProviderError(f"{self.name} answered with more than {MAX_BYTES:,} bytes; nothing of it was used.")
            if time.monotonic() > until:  # bytes that trickle never run into the time-out of the socket
                raise _BusyError(f"its answer took longer than {self.seconds:g} s")
        if len(body) < int(response.headers.get("Content-Length") or 0):
            raise _BusyError("the connection was cut")
        return bytes(body)

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in AGAIN:
            return _BusyError(f"status {error.code}", _seconds(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            return ConfigError(f"{self.name} refused the call (status {error.code}). Check its key.")
        return ProviderError(f"{self.name} answered with status {error.code}.")


def _seconds(after: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now."""
    if after is None:
        return None
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
