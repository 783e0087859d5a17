"""Providers with OpenAI's API for fine-tuning (files, jobs), and their differences.

    openai:MODEL[@BASE_URL]      OpenAI, Azure (https://NAME.openai.azure.com/openai/v1), or any compatible API
    together:MODEL[@BASE_URL]    files/upload and fine-tunes; it quotes prices; the key is TOGETHER_API_KEY

A job is recognised by its suffix, or by its file where the provider does not return the suffix; each file has one job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.http import TransientError
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.hosted.provider import Job, JobQuote, JobRequest, ProviderClient, Status

PAGE = 100
MAX_POLLS = 600
"""The maximum number of polls until the provider has read a file."""
_READING_STATUSES = ("uploaded", "pending", "running", "notrunning")
_REJECTED_STATUSES = ("error", "failed", "deleted")
"""Statuses of a file, OpenAI's and Azure's; any other counts as read."""
NANODOLLARS = 1e9
"""Together's unit of prices, by its own client."""
_STATUS: dict[str, Status] = {
    "validating_files": "waiting", "queued": "waiting", "pending": "waiting", "running": "running", "paused": "waiting",
    "compressing": "running", "uploading": "running", "succeeded": "succeeded", "completed": "succeeded",
    "failed": "failed", "error": "failed", "user_error": "failed", "cancelled": "cancelled",
    "cancel_requested": "running",
}  # fmt: skip
"""An unknown status counts as running: the job is followed until it reports another."""


@dataclass(frozen=True, slots=True)
class TuningApi:
    """The differences between these providers: addresses, the key, pages of lists, prices."""

    url: str
    files: str
    jobs: str
    min_samples: int
    accepted_settings: tuple[str, ...]
    """The settings of a JobRequest that may be chosen (OpenAI takes a factor in place of a learning rate)."""
    variable: str = ""
    """The environment variable with the key; empty means the one for the host of the address."""
    paged: bool = False
    priced: bool = False
    """Whether the provider reports the cost of a job, before and after it."""
    names_method: bool = False
    """Whether a job names its method, as OpenAI's do; else its settings stand at the top."""

    def __call__(self, url: str = "", *, pause: float = 1.0) -> OpenAICompatibleProvider:
        """The provider with this API at an address; empty means the provider's own."""
        return OpenAICompatibleProvider(self, url, pause=pause)


OPENAI = TuningApi(
    "https://api.openai.com/v1", "files", "fine_tuning/jobs", min_samples=10, accepted_settings=("seed", "batch_size"),
    paged=True, names_method=True,
)  # fmt: skip
TOGETHER = TuningApi(
    "https://api.together.ai/v1", "files/upload", "fine-tunes", min_samples=1, variable="TOGETHER_API_KEY", priced=True,
    accepted_settings=("learning_rate", "rank", "batch_size"),
)  # fmt: skip


class OpenAICompatibleProvider:
    """A provider with one of these APIs. Raises ConfigError when its key is not in the environment."""

    def __init__(self, api: TuningApi, url: str = "", *, pause: float = 1.0) -> None:
        self._api = api
        self._http = ProviderClient(url or api.url, variable=api.variable, pause=pause)
        self._pause = pause

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def min_samples(self) -> int:
        return self._api.min_samples

    def agent(self, model: str) -> str:
        """The model at the address that trained it (at Azure the name is that of the deployment)."""
        return f"openai:{model}@{self.url}"

    def upload(self, file: Path, name: str) -> str:
        """Upload a training file; returns its id."""
        file_name = f"{name}.jsonl"
        data = {"purpose": "fine-tune"} | ({"file_name": file_name, "file_type": "jsonl"} if self._api.priced else {})

        def send() -> Any:
            with file.open("rb") as body:
                files = {"file": (file_name, body, "application/jsonl")}
                return self._http.send("POST", self._api.files, data=data, files=files)

        return str(_require_field(self._http.retry(send), "id"))

    def quote(self, file: str, job_request: JobRequest) -> JobQuote:
        """The provider's estimate of the cost; empty where it gives none."""
        if not self._api.priced:
            return JobQuote()
        body = {
            "training_file": file,
            "model": job_request.model,
            **({"n_epochs": job_request.epochs} if job_request.epochs else {}),
        }
        try:
            price_reply = self._http.post(f"{self._api.jobs}/estimate-price", body)
        except (ConfigError, ProviderError):  # a job must not fail because its price is unknown
            return JobQuote()
        if not isinstance(price_reply, dict):
            return JobQuote()
        if price_reply.get("allowed_to_proceed") is False:
            raise ConfigError(
                f"{self.url} does not allow the job: the limit of the account is ${price_reply.get('user_limit')}."
            )
        return JobQuote(
            _positive_int(price_reply.get("estimated_train_token_count")),
            _parse_dollars(price_reply.get("estimated_total_price")),
        )

    def create(self, file: str, job_request: JobRequest) -> Job:
        """Create a job of a file that the provider has read; after a fault it is searched for before a new try."""
        self._wait(file)
        body = self._body(file, job_request)

        def create_once() -> Job:
            return _parse_job(self._http.send("POST", self._api.jobs, json=body))

        try:
            return create_once()
        except TransientError:
            return self._http.retry(lambda: self.find(file, job_request.name) or create_once())

    def find(self, file: str, name: str) -> Job | None:
        """The job of a file and a name, if there is one."""
        return next((_parse_job(row) for row in self._rows(self._api.jobs) if _is_ours(row, file, name)), None)

    def job(self, id: str) -> Job:
        """The current state of a job."""
        return _parse_job(self._http.get(f"{self._api.jobs}/{id}"))

    def events(self, id: str, known_ids: Collection[str]) -> Sequence[tuple[str, str]]:
        """The events as (id, message), oldest first; pages with only known events are not fetched."""
        events: list[tuple[str, str, str]] = []
        for row in self._rows(f"{self._api.jobs}/{id}/events"):
            name = _event_name(row)
            if self._api.paged and name in known_ids:  # the newest come first
                break
            events.append((str(row.get("created_at", "")), name, str(row.get("message", ""))))
        newest_first = events[::-1] if self._api.paged else events
        return [(name, message) for _, name, message in sorted(newest_first, key=lambda event: event[0])]

    def cancel(self, id: str) -> Job:
        """Ask for a job to be stopped."""
        return _parse_job(self._http.post(f"{self._api.jobs}/{id}/cancel"))

    def _wait(self, file: str) -> None:
        """Wait until the provider has read a file: Azure refuses earlier jobs. Raises DataError for a rejected file.

        Where a provider has no status of files, or never reports a file as read, the job is created all the same.
        """
        for _ in range(MAX_POLLS):
            try:
                row = self._http.get(f"files/{file}")
            except ConfigError:  # the provider has no such address
                return
            status = str(row.get("status", "") if isinstance(row, dict) else "").lower()
            if status in _REJECTED_STATUSES:
                error = row.get("error")
                reason = error.get("message") if isinstance(error, Mapping) else row.get("status_details")
                raise DataError(f"{self.url} rejected the file {file}: {reason or status}")
            if status not in _READING_STATUSES:
                return
            time.sleep(self._pause)

    def _body(self, file: str, job_request: JobRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": job_request.model, "training_file": file, "suffix": job_request.name}
        if self._api.names_method:
            batch = {"batch_size": job_request.batch_size} if job_request.batch_size else {}
            chosen = {"hyperparameters": {"n_epochs": job_request.epochs or "auto", **batch}}
            if "api-version=" in self.url:  # Azure's dated API versions do not know the field method
                return body | {"seed": job_request.seed, **chosen}
            return body | {"seed": job_request.seed, "method": {"type": "supervised", "supervised": chosen}}
        settings = {
            "n_epochs": job_request.epochs, "learning_rate": job_request.learning_rate,
            "batch_size": job_request.batch_size,
            "training_type": _lora_settings(job_request.rank) if job_request.rank else None,
        }  # fmt: skip
        return body | {name: value for name, value in settings.items() if value}

    def _rows(self, path: str) -> Iterator[Mapping[str, Any]]:
        """The rows of a list, over all its pages."""
        query: dict[str, str | int] = {"limit": PAGE} if self._api.paged else {}
        while True:
            listed = self._http.get(path, **query)
            page = listed if isinstance(listed, dict) else {"data": listed}
            page_rows = page.get("data")
            rows = [row for row in page_rows if isinstance(row, dict)] if isinstance(page_rows, list) else []
            yield from rows
            last_id = str(rows[-1].get("id")) if rows else None
            if last_id is None or not self._api.paged or not page.get("has_more") or last_id == query.get("after"):
                return
            query["after"] = last_id


def _lora_settings(rank: int) -> dict[str, Any]:
    """Together's settings for LoRA of a rank, with the same alpha as local training."""
    return {"type": "Lora", "lora_r": rank, "lora_alpha": 2 * rank, "lora_trainable_modules": "all-linear"}


def _is_ours(row: Mapping[str, Any], file: str, name: str) -> bool:
    suffix = row.get("suffix") or row.get("user_provided_suffix")
    return suffix == name if suffix else row.get("training_file") == file


def _event_name(row: Mapping[str, Any]) -> str:
    parts = (row.get(key) for key in ("created_at", "type", "step", "message"))
    return str(row.get("id") or row.get("hash") or " ".join(str(value) for value in parts if value is not None))


def _parse_job(row: Any) -> Job:
    error = row.get("error") if isinstance(row, dict) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    name, price = str(_require_field(row, "id")), _parse_dollars(row.get("total_price"))
    model = row.get("fine_tuned_model") or row.get("model_output_name") or row.get("output_name")
    return Job(
        id=name,
        status=_STATUS.get(str(row.get("status", "")).lower(), "running"),
        model=str(model) if model else None,
        tokens=_positive_int(row.get("trained_tokens") or row.get("token_count")),
        cost=price / NANODOLLARS if price else None,
        error=str(message or ""),
    )


def _require_field(data: Any, name: str) -> Any:
    if not isinstance(data, dict) or not data.get(name):
        raise ProviderError(f"the provider's reply has no {name}: {str(data)[:200]}")
    return data[name]


def _positive_int(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _parse_dollars(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None
