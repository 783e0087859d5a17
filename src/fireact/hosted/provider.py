"""What a provider of fine-tuning is asked for, and what a job looks like to us, whoever runs it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
ENDED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands; ``model`` is the result's name, ``tokens`` what was trained on and is paid for.

    ``cost`` is in US dollars, where the provider says it.
    """

    id: str
    status: Status
    model: str | None = None
    tokens: int | None = None
    cost: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for; ``name`` marks the job, its file and its model, so that they are found again after a crash."""

    model: str
    name: str
    epochs: int | None = None
    seed: int = 0
    learning_rate: float | None = None
    rank: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job will take, by the provider's own reckoning; None is not known."""

    tokens: int | None = None
    cost: float | None = None


class Provider(Protocol):
    """Runs fine-tuning jobs. Every method raises ProviderError when the provider fails, ConfigError when it refuses."""

    @property
    def url(self) -> str: ...

    @property
    def fewest(self) -> int:
        """The samples that a file must have at least."""
        ...

    def agent(self, model: str) -> str:
        """A result as ``--agent`` and ``--teacher`` take it."""
        ...

    def upload(self, file: Path, name: str) -> str:
        """Upload a training file; returns its id."""
        ...

    def quote(self, file: str, order: Order) -> Quote: ...

    def create(self, file: str, order: Order) -> Job:
        """Create a job, once: after a fault it is looked for before another is made."""
        ...

    def find(self, file: str, name: str) -> Job | None:
        """The job that was made of a file under a name, if there is one."""
        ...

    def job(self, id: str) -> Job: ...

    def events(self, id: str, known: Collection[str]) -> Sequence[tuple[str, str]]:
        """(id, message) of what has happened, oldest first; those that are ``known`` may be left out."""
        ...

    def cancel(self, id: str) -> Job: ...
