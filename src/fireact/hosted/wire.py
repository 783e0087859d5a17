"""Providers that speak the OpenAI wire for fine-tuning (files, jobs), told apart by a table of their differences.

    openai:MODEL[@BASE_URL]      OpenAI, Azure (https://NAME.openai.azure.com/openai/v1), and whoever keeps the API
    together:MODEL[@BASE_URL]    files/upload and fine-tunes; prices are asked for; the key is TOGETHER_API_KEY

A job is known again by its suffix, or, where the provider does not give it back, by its file, which no other job has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError, ProviderError
from fireact.hosted.http import Http, PassingError
from fireact.hosted.provider import Job, Order, Quote, Status

PAGE = 100
LOOKS = 600
"""How often a file is looked at until the provider has read it."""
_READING = ("uploaded", "pending", "running", "notrunning")
_REJECTED = ("error", "failed", "deleted")
"""Statuses of a file, OpenAI's and Azure's; any other counts as read."""
NANODOLLARS = 1e9
"""Together's unit of prices, by its own client."""
_STATUS: dict[str, Status] = {
    "validating_files": "waiting", "queued": "waiting", "pending": "waiting", "running": "running", "paused": "waiting",
    "compressing": "running", "uploading": "running", "succeeded": "succeeded", "completed": "succeeded",
    "failed": "failed", "error": "failed", "user_error": "failed", "cancelled": "cancelled", "cancel_requested": "running",
}  # fmt: skip
"""A status that is not known counts as running: the job is followed until it says more."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What providers of this wire differ in: addresses, the key, whether lists come in pages, what prices are."""

    url: str
    files: str
    jobs: str
    fewest: int
    takes: tuple[str, ...]
    """Settings of an Order that may be chosen (OpenAI takes a factor in place of a learning rate)."""
    variable: str = ""
    """Holds the key; empty: by the host of the address."""
    paged: bool = False
    priced: bool = False
    """Says what a job will cost, and what it did."""


DIALECTS = {
    "openai": Dialect(
        "https://api.openai.com/v1", "files", "fine_tuning/jobs", fewest=10, takes=("seed", "batch_size"), paged=True
    ),
    "together": Dialect(
        "https://api.together.ai/v1",
        "files/upload",
        "fine-tunes",
        fewest=1,
        variable="TOGETHER_API_KEY",
        priced=True,
        takes=("learning_rate", "rank", "batch_size"),
    ),
}


class WireProvider:
    """One provider of the table. Raises ConfigError when its key is not in the environment."""

    def __init__(self, kind: str, url: str = "", *, pause: float = 1.0) -> None:
        self._kind, self._dialect = kind, DIALECTS[kind]
        self._http = Http(url or self._dialect.url, variable=self._dialect.variable, pause=pause)
        self._pause = pause

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def fewest(self) -> int:
        return self._dialect.fewest

    def agent(self, model: str) -> str:
        """The model at the address that trained it (at Azure the name is that of its deployment)."""
        return f"openai:{model}@{self.url}"

    def upload(self, file: Path, name: str) -> str:
        """Upload a training file; returns its id."""
        named = f"{name}.jsonl"
        data = {"purpose": "fine-tune"} | ({"file_name": named, "file_type": "jsonl"} if self._dialect.priced else {})

        def send() -> Any:
            with file.open("rb") as body:
                files = {"file": (named, body, "application/jsonl")}
                return self._http.send("POST", self._dialect.files, data=data, files=files)

        return str(_field(self._http.patiently(send), "id"))

    def quote(self, file: str, order: Order) -> Quote:
        """What the provider says the job will cost; nothing where it says nothing."""
        if not self._dialect.priced:
            return Quote()
        body = {"training_file": file, "model": order.model, **({"n_epochs": order.epochs} if order.epochs else {})}
        try:
            said = self._http.post(f"{self._dialect.jobs}/estimate-price", body)
        except (ConfigError, ProviderError):  # a job must not fail because its price is not told
            return Quote()
        if not isinstance(said, dict):
            return Quote()
        if said.get("allowed_to_proceed") is False:
            raise ConfigError(
                f"{self.url} does not allow the job: the limit of the account is ${said.get('user_limit')}."
            )
        return Quote(_number(said.get("estimated_train_token_count")), _dollars(said.get("estimated_total_price")))

    def create(self, file: str, order: Order) -> Job:
        """Create a job of a file, once that is read: after a fault it is looked for before another is made."""
        self._wait(file)
        body = self._body(file, order)

        def once() -> Job:
            return _job(self._http.send("POST", self._dialect.jobs, json=body))

        try:
            return once()
        except PassingError:
            return self._http.patiently(lambda: self.find(file, order.name) or once())

    def find(self, file: str, name: str) -> Job | None:
        """The job that was made of a file under a name, if there is one."""
        return next((_job(row) for row in self._rows(self._dialect.jobs) if _is_ours(row, file, name)), None)

    def job(self, id: str) -> Job:
        """A job as it stands."""
        return _job(self._http.get(f"{self._dialect.jobs}/{id}"))

    def events(self, id: str, known: Collection[str]) -> Sequence[tuple[str, str]]:
        """(id, message) of what has happened, oldest first; where there are pages, those that are known are not asked for."""
        found: list[tuple[str, str, str]] = []
        for row in self._rows(f"{self._dialect.jobs}/{id}/events"):
            name = _event_name(row)
            if self._dialect.paged and name in known:  # the newest come first
                break
            found.append((str(row.get("created_at", "")), name, str(row.get("message", ""))))
        newest_first = found[::-1] if self._dialect.paged else found
        return [(name, message) for _, name, message in sorted(newest_first, key=lambda event: event[0])]

    def cancel(self, id: str) -> Job:
        """Ask for a job to be stopped."""
        return _job(self._http.post(f"{self._dialect.jobs}/{id}/cancel"))

    def _wait(self, file: str) -> None:
        """Wait until the provider has read a file: Azure refuses jobs before. Raises DataError where it rejects it.

        A provider that tells nothing of its files, or never that one is read, is asked for the job all the same.
        """
        for _ in range(LOOKS):
            try:
                row = self._http.get(f"files/{file}")
            except ConfigError:  # no such address there
                return
            status = str(row.get("status", "") if isinstance(row, dict) else "").lower()
            if status in _REJECTED:
                error = row.get("error")
                said = error.get("message") if isinstance(error, Mapping) else row.get("status_details")
                raise DataError(f"{self.url} rejected the file {file}: {said or status}")
            if status not in _READING:
                return
            time.sleep(self._pause)

    def _body(self, file: str, order: Order) -> dict[str, Any]:
        body: dict[str, Any] = {"model": order.model, "training_file": file, "suffix": order.name}
        if self._kind == "openai":
            batch = {"batch_size": order.batch_size} if order.batch_size else {}
            chosen = {"hyperparameters": {"n_epochs": order.epochs or "auto", **batch}}
            if "api-version=" in self.url:  # dated versions of Azure's know no methods
                return body | {"seed": order.seed, **chosen}
            return body | {"seed": order.seed, "method": {"type": "supervised", "supervised": chosen}}
        settings = {
            "n_epochs": order.epochs, "learning_rate": order.learning_rate, "batch_size": order.batch_size,
            "training_type": _lora(order.rank) if order.rank else None,
        }  # fmt: skip
        return body | {name: value for name, value in settings.items() if value}

    def _rows(self, path: str) -> Iterator[Mapping[str, Any]]:
        """The rows of a list, over all its pages."""
        query: dict[str, str | int] = {"limit": PAGE} if self._dialect.paged else {}
        while True:
            listed = self._http.get(path, **query)
            page = listed if isinstance(listed, dict) else {"data": listed}
            found = page.get("data")
            rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
            yield from rows
            last = str(rows[-1].get("id")) if rows else None
            if last is None or not self._dialect.paged or not page.get("has_more") or last == query.get("after"):
                return
            query["after"] = last


def _lora(rank: int) -> dict[str, Any]:
    """Together's LoRA of a rank, with the alpha that training here has."""
    return {"type": "Lora", "lora_r": rank, "lora_alpha": 2 * rank, "lora_trainable_modules": "all-linear"}


def _is_ours(row: Mapping[str, Any], file: str, name: str) -> bool:
    suffix = row.get("suffix") or row.get("user_provided_suffix")
    return suffix == name if suffix else row.get("training_file") == file


def _event_name(row: Mapping[str, Any]) -> str:
    parts = (row.get(part) for part in ("created_at", "type", "step", "message"))
    return str(row.get("id") or row.get("hash") or " ".join(str(part) for part in parts if part is not None))


def _job(row: Any) -> Job:
    error = row.get("error") if isinstance(row, dict) else None
    said = error.get("message") if isinstance(error, Mapping) else error
    name, price = str(_field(row, "id")), _dollars(row.get("total_price"))
    model = row.get("fine_tuned_model") or row.get("model_output_name") or row.get("output_name")
    return Job(
        id=name,
        status=_STATUS.get(str(row.get("status", "")).lower(), "running"),
        model=str(model) if model else None,
        tokens=_number(row.get("trained_tokens") or row.get("token_count")),
        cost=price / NANODOLLARS if price else None,
        error=str(said or ""),
    )


def _field(data: Any, name: str) -> Any:
    if not isinstance(data, dict) or not data.get(name):
        raise ProviderError(f"the provider's reply has no {name}: {str(data)[:200]}")
    return data[name]


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _dollars(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None
