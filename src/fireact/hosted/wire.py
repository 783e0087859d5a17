"""Providers that speak the OpenAI wire for fine-tuning (files, fine_tuning/jobs), and Together, which differs in names.

    openai:MODEL[@BASE_URL]      OpenAI, Azure, and whoever keeps the API
    together:MODEL[@BASE_URL]    files/upload and fine-tunes; the key is TOGETHER_API_KEY

Keys come from the environment. Faults that may pass are tried again, except the creation of a job: whether one was
created is looked up instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import tenacity

from fireact.errors import ConfigError, ProviderError
from fireact.hosted.provider import Job, Order, Status

T = TypeVar("T")
DEFAULTS = {"openai": "https://api.openai.com/v1", "together": "https://api.together.xyz/v1"}
KEYS = {"openai": "OPENAI_API_KEY", "together": "TOGETHER_API_KEY"}
TRIES = 6
_STATUS: dict[str, Status] = {
    "validating_files": "waiting", "queued": "waiting", "pending": "waiting", "running": "running",
    "compressing": "running", "uploading": "running", "succeeded": "succeeded", "completed": "succeeded",
    "failed": "failed", "error": "failed", "user_error": "failed", "cancelled": "cancelled", "cancel_requested": "running",
}  # fmt: skip
"""A status that is not known counts as running: the job is followed until it says more."""


class WireProvider:
    """One provider; ``kind`` is openai or together. Raises ConfigError when its key is not in the environment."""

    def __init__(self, kind: str, url: str = "", *, pause: float = 1.0) -> None:
        self.kind, self._pause = kind, pause
        self.url = (url or DEFAULTS[kind]).rstrip("/")
        self._client = httpx2.Client(timeout=120, headers={"Authorization": f"Bearer {_key(kind, self.url)}"})

    def upload(self, file: Path) -> str:
        """Upload a training file; returns its id."""
        path = "files" if self.kind == "openai" else "files/upload"
        data = {"purpose": "fine-tune"} | ({} if self.kind == "openai" else {"file_name": file.name})

        def send() -> Any:
            with file.open("rb") as body:
                return self._send("POST", path, data=data, files={"file": (file.name, body, "application/jsonl")})

        return str(self._patiently(send)["id"])

    def create(self, file: str, order: Order) -> Job:
        """Create a job, once: after a fault it is looked for before another is made."""
        body: dict[str, Any] = {"model": order.model, "training_file": file, "suffix": order.name, **order.extra}
        if self.kind == "openai":
            supervised = {"hyperparameters": {"n_epochs": order.epochs or "auto"}}
            body |= {"seed": order.seed, "method": {"type": "supervised", "supervised": supervised}}
        elif order.epochs:
            body["n_epochs"] = order.epochs
        try:
            return _job(self._send("POST", self._jobs, json=body))
        except _PassingError:
            found = self.find(order.name)
            if found is not None:
                return found
            return self._patiently(lambda: self.find(order.name) or _job(self._send("POST", self._jobs, json=body)))

    def find(self, name: str) -> Job | None:
        """The job that was marked with a name, if there is one."""
        listed = self._patiently(lambda: self._send("GET", self._jobs))
        rows = listed.get("data", []) if isinstance(listed, dict) else listed
        return next((_job(row) for row in rows if _suffix(row) == name), None)

    def job(self, id: str) -> Job:
        """A job as it stands."""
        return _job(self._patiently(lambda: self._send("GET", f"{self._jobs}/{id}")))

    def events(self, id: str) -> Sequence[tuple[str, str]]:
        """(id, message) of what has happened, oldest first."""
        listed = self._patiently(lambda: self._send("GET", f"{self._jobs}/{id}/events"))
        rows = [row for row in listed.get("data", []) if isinstance(row, dict)]
        rows.sort(key=lambda row: str(row.get("created_at", "")))
        return [
            (str(row.get("id") or row.get("hash") or at), str(row.get("message", ""))) for at, row in enumerate(rows)
        ]

    def cancel(self, id: str) -> Job:
        """Ask for a job to be stopped."""
        return _job(self._patiently(lambda: self._send("POST", f"{self._jobs}/{id}/cancel")))

    @property
    def _jobs(self) -> str:
        return "fine_tuning/jobs" if self.kind == "openai" else "fine-tunes"

    def _patiently(self, send: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=lambda state: _wait(state, self._pause),
            reraise=True,
        )
        try:
            return retrying(send)
        except _PassingError as error:
            raise ProviderError(f"{self.url} failed {TRIES} times; the last time: {error}") from None

    def _send(self, method: str, path: str, **options: Any) -> Any:
        try:
            reply = self._client.request(method, f"{self.url}/{path}", **options)
        except httpx2.HTTPError as error:
            raise _PassingError(f"{type(error).__name__}: {error}") from None
        if reply.status_code in (408, 409, 429) or reply.status_code >= 500:
            raise _PassingError(f"{reply.status_code} {_said(reply)}", after=reply.headers.get("retry-after"))
        if reply.status_code >= 400:
            raise ConfigError(f"{self.url} refused {method} {path} with {reply.status_code}: {_said(reply)}")
        try:
            return reply.json()
        except ValueError:
            raise _PassingError("a reply that is not JSON") from None


class _PassingError(Exception):
    def __init__(self, said: str, *, after: str | None = None) -> None:
        super().__init__(said)
        self.after = float(after) if after and after.replace(".", "", 1).isdigit() else None


def _wait(state: tenacity.RetryCallState, pause: float) -> float:
    fault = state.outcome.exception() if state.outcome is not None else None
    grown = tenacity.wait_random_exponential(multiplier=pause, max=60)(state)
    return fault.after if isinstance(fault, _PassingError) and fault.after is not None else grown


def _job(row: Mapping[str, Any]) -> Job:
    error = row.get("error")
    said = error.get("message", "") if isinstance(error, Mapping) else (error or "")
    return Job(
        id=str(row["id"]),
        status=_STATUS.get(str(row.get("status", "")).lower(), "running"),
        model=row.get("fine_tuned_model") or row.get("model_output_name") or row.get("output_name"),
        tokens=row.get("trained_tokens") or row.get("token_count"),
        error=str(said or ""),
    )


def _suffix(row: Mapping[str, Any]) -> str:
    return str(row.get("suffix") or row.get("user_provided_suffix") or "")


def _said(reply: httpx2.Response) -> str:
    try:
        error = reply.json().get("error", {})
        return str(error.get("message") if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return reply.text[:200]


def _key(kind: str, url: str) -> str:
    key = os.environ.get(KEYS[kind])
    if not key and urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"{url} needs a key, and {KEYS[kind]} is not set. Set it in the environment; it is never stored."
        )
    return key or "none"


def from_spec(spec: str, *, pause: float = 1.0) -> tuple[WireProvider, str]:
    """The provider and the base model of ``KIND:MODEL[@BASE_URL]``. Raises ConfigError."""
    kind, _, rest = spec.partition(":")
    model, _, url = rest.partition("@")
    if kind not in DEFAULTS or not model:
        raise ConfigError(f"hosted training {spec!r} is not of the form openai:MODEL[@BASE_URL] or together:MODEL.")
    return WireProvider(kind, url, pause=pause), model
