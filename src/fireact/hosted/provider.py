"""What a provider of fine-tuning is asked for, and what a job looks like to us, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
ENDED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands; ``model`` is the result's name, ``tokens`` what was trained on and is paid for."""

    id: str
    status: Status
    model: str | None = None
    tokens: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for; ``name`` marks the job and its model, so that it is found again after a crash."""

    model: str
    name: str
    epochs: int | None = None
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """Runs fine-tuning jobs. Every method raises ProviderError when the provider fails, ConfigError when it refuses."""

    @property
    def url(self) -> str: ...

    def upload(self, file: Path) -> str: ...

    def create(self, file: str, order: Order) -> Job: ...

    def find(self, name: str) -> Job | None: ...

    def job(self, id: str) -> Job: ...

    def events(self, id: str) -> Sequence[tuple[str, str]]: ...

    def cancel(self, id: str) -> Job: ...
