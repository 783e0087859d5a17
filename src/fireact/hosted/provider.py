"""Requests to a fine-tuning provider and its jobs, in one form for all providers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

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
