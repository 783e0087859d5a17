"""A fine-tuning provider and its jobs, in one form for all, and the client that has its key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2

from fireact.base.http import HttpClient, Retry, show_address
from fireact.base.keys import key_variable, read_key
from fireact.errors import ConfigError

T = TypeVar("T")

Status = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
ENDED_STATUSES: tuple[Status, ...] = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """The state of a job; ``model`` is the name of the result, ``tokens`` the trained tokens, which are paid for.

    ``cost`` is in US dollars, where the provider reports it.
    """

    id: str
    status: Status
    model: str | None = None
    tokens: int | None = None
    cost: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """The settings of a job; ``name`` marks the job, its file and its model, so that a crash does not lose them."""

    model: str
    name: str
    epochs: int | None = None
    seed: int = 0
    learning_rate: float | None = None
    rank: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class JobQuote:
    """The provider's own estimate of a job; None where it is not known."""

    tokens: int | None = None
    cost: float | None = None


class Provider(Protocol):
    """Runs fine-tuning jobs. Every method raises ProviderError when the provider fails, ConfigError when it refuses."""

    @property
    def url(self) -> str: ...

    @property
    def min_samples(self) -> int:
        """The smallest number of samples in a file."""
        ...

    def agent(self, model: str) -> str:
        """The spec of a result for ``--agent`` and ``--teacher``."""
        ...

    def upload(self, file: Path, name: str) -> str:
        """Upload a training file; returns its id."""
        ...

    def quote(self, file: str, job_request: JobRequest) -> JobQuote: ...

    def create(self, file: str, job_request: JobRequest) -> Job:
        """Create a job once: after a fault the provider is searched for it before another is created."""
        ...

    def find(self, file: str, name: str) -> Job | None:
        """The job of a file and a name, if there is one."""
        ...

    def job(self, id: str) -> Job: ...

    def events(self, id: str, known_ids: Collection[str]) -> Sequence[tuple[str, str]]:
        """The events as (id, message), oldest first; those in ``known_ids`` may be left out."""
        ...

    def cancel(self, id: str) -> Job: ...


class ProviderFactory(Protocol):
    """What the name of a provider stands for: it makes the provider of an address, and knows its limits without a key.

    ``url`` empty means the provider's own address, ``pause`` are the seconds before the first repeat of a request.
    """

    @property
    def min_samples(self) -> int:
        """The smallest number of samples in a file."""
        ...

    @property
    def accepted_settings(self) -> Sequence[str]:
        """The settings of a JobRequest that may be chosen, besides the epochs."""
        ...

    @property
    def priced(self) -> bool:
        """Whether the provider quotes a price once it has the file."""
        ...

    def __call__(self, url: str = "", *, pause: float = 1.0) -> Provider: ...


class NotFoundError(ConfigError):
    """The provider has nothing at that address."""


class ProviderClient:
    """Asks for JSON at a provider's address, with its key. Raises ConfigError when the environment has no key."""

    def __init__(self, url: str, *, variable: str = "", pause: float = 1.0) -> None:
        self.url = url.rstrip("/")
        self._base, _, self._query = self.url.partition("?")  # an api-version stands in the query
        self._variable = variable or key_variable(url)
        key = read_key(url, self._variable)
        azure = f".{urlsplit(url).hostname}".endswith(".azure.com")
        headers = {"api-key": key} if azure else {"Authorization": f"Bearer {key}"}
        self._http = HttpClient(show_address(url), headers=headers, quotes_errors=True, retry=Retry(pause=pause))

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON at a path; transient faults are retried."""
        return self.retry(lambda: self.send("GET", path, params=query))

    def post(self, path: str, body: Any = None) -> Any:
        """Like ``get``, for a request that may be repeated without harm."""
        return self.retry(lambda: self.send("POST", path, json={} if body is None else body))

    def retry(self, send: Callable[[], T]) -> T:
        """The result of ``send``; transient faults are retried. Raises ProviderError after the last try."""
        return self._http.retry(send)

    def send(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of one reply. Raises TransientError, or ConfigError for a request that is refused."""
        query = dict(httpx2.QueryParams(self._query)) | dict(options.pop("params", None) or {})
        address = f"{self._base}/{path}" if path else self._base
        reply = self._http.send(method, address, params=query or None, **options)
        if reply.status >= 300:
            message = f"{self._http.service} refused {method} {path} with {reply.status}: {reply.error_text}"
            advice = f" Set {self._variable} to a valid key." if reply.status == 401 else ""
            raise (NotFoundError if reply.status == 404 else ConfigError)(message + advice)
        return reply.json()
