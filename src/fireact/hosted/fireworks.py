"""Fireworks: data sets and supervised fine-tuning jobs under an account, with names that we choose.

    fireworks:MODEL[@BASE_URL]   MODEL is llama-v3p1-8b-instruct or accounts/ACCOUNT/models/NAME

The key is FIREWORKS_API_KEY; the account is FIREWORKS_ACCOUNT_ID, or the only one that the key has. Data set, job and
model have one name, so that whatever is asked for twice is made once. The result is a LoRA, which Fireworks serves on a
dedicated deployment alone. There are no events; changes of the state and of the progress stand for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError, ProviderError
from fireact.hosted.http import Http, MissingError, PassingError
from fireact.hosted.provider import Job, Order, Quote, Status

URL = "https://api.fireworks.ai/v1"
KEY, ACCOUNT = "FIREWORKS_API_KEY", "FIREWORKS_ACCOUNT_ID"
LARGEST = 150_000_000
"""Bytes of a file that is uploaded in one request."""
LOOKS = 600
"""How often a data set is looked at until it is ready."""
_STATUS: dict[str, Status] = {
    "CREATING": "waiting", "PENDING": "waiting", "VALIDATING": "waiting", "RE_QUEUEING": "waiting", "PAUSED": "waiting",
    "CREATING_INPUT_DATASET": "waiting", "IDLE": "waiting", "RUNNING": "running", "WRITING_RESULTS": "running",
    "CANCELLING": "running", "COMPLETED": "succeeded", "EARLY_STOPPED": "succeeded", "FAILED": "failed",
    "EXPIRED": "failed", "CANCELLED": "cancelled", "DELETING": "cancelled", "DELETING_CLEANING_UP": "cancelled",
}  # fmt: skip
"""By the end of JOB_STATE_...; one that is not known counts as running."""


class FireworksProvider:
    """The provider. Raises ConfigError without a key, or where it is not clear which account is meant."""

    fewest = 3
    takes = ("learning_rate", "rank")
    """Settings of an Order that may be chosen; a batch is counted in tokens there."""

    def __init__(self, url: str = "", *, pause: float = 1.0) -> None:
        self._http = Http(url or URL, variable=KEY, pause=pause)
        self._pause = pause
        self._found = os.environ.get(ACCOUNT, "")

    @property
    def url(self) -> str:
        return self._http.url

    def agent(self, model: str) -> str:
        """The model at the address for inference, which is another than that for training."""
        return f"openai:{model}@{self.url.removesuffix('/v1')}/inference/v1"

    def upload(self, file: Path, name: str) -> str:
        """Make a data set and upload the file into it, as far as that was not done before; returns its name."""
        if file.stat().st_size > LARGEST:
            raise DataError(
                f"{file} has {file.stat().st_size:,} bytes; Fireworks takes {LARGEST:,} in a request. Mix fewer trajectories."
            )
        with file.open("rb") as lines:
            count = sum(1 for _ in lines)
        path = f"{self._account}/datasets/{name}"
        if self._dataset(path) is None:
            record = {"userUploaded": {}, "exampleCount": str(count), "format": "CHAT"}
            self._http.patiently(lambda: self._made(path, {"datasetId": name, "dataset": record}))
        if (self._dataset(path) or {}).get("state") != "READY":
            self._http.patiently(lambda: self._sent(path, file))
            self._wait(path)
        return path

    def quote(self, file: str, order: Order) -> Quote:
        """How many tokens Fireworks counts in the data set, all epochs; it tells prices of jobs, not of plans."""
        tokens = str((self._dataset(file) or {}).get("estimatedTokenCount") or "")
        return Quote(tokens=int(tokens) * (order.epochs or 1) if tokens.isdecimal() else None)

    def create(self, file: str, order: Order) -> Job:
        """Create a job under its name, once: where the name is taken, it is ours."""
        body: dict[str, Any] = {
            "dataset": file,
            "baseModel": order.model if "/" in order.model else f"accounts/fireworks/models/{order.model}",
            "outputModel": f"{self._account}/models/{order.name}",
            "displayName": order.name,
            **({"epochs": order.epochs} if order.epochs else {}),
            **({"learningRate": order.learning_rate} if order.learning_rate else {}),
            **({"loraRank": order.rank} if order.rank else {}),
        }

        def once() -> Job:
            query = {"supervisedFineTuningJobId": order.name}
            return _job(self._http.send("POST", self._jobs, params=query, json=body))

        try:
            return once()
        except PassingError:
            return self._http.patiently(lambda: self.find(file, order.name) or once())

    def find(self, file: str, name: str) -> Job | None:
        """The job of a name, if there is one."""
        try:
            return self.job(name)
        except MissingError:
            return None

    def job(self, id: str) -> Job:
        """A job as it stands."""
        return _job(self._http.get(f"{self._jobs}/{id}"))

    def events(self, id: str, known: Collection[str]) -> Sequence[tuple[str, str]]:
        """The state and the progress as they stand; the name of an event is what it says."""
        row = _object(self._http.get(f"{self._jobs}/{id}"))
        progress = row.get("jobProgress")
        said = _state(row).lower().replace("_", " ")
        if isinstance(progress, dict) and progress.get("percent"):
            epoch = f" of epoch {progress['epoch'] + 1}" if isinstance(progress.get("epoch"), int) else ""
            said += f", {progress['percent']} %{epoch}"
        return [(said, said)]

    def cancel(self, id: str) -> Job:
        """Ask for a job to be stopped."""
        self._http.post(f"{self._jobs}/{id}:cancel")
        return self.job(id)

    @property
    def _jobs(self) -> str:
        return f"{self._account}/supervisedFineTuningJobs"

    @property
    def _account(self) -> str:
        """The account as names begin with it."""
        if not self._found:
            listed = _object(self._http.get("accounts")).get("accounts")
            rows = listed if isinstance(listed, list) else []
            names = [str(row.get("name", "")) for row in rows if isinstance(row, dict)]
            if len(names) != 1:
                known = ", ".join(name.rpartition("/")[2] for name in names) or "none"
                raise ConfigError(f"the key is one of several accounts, or of none ({known}). Set {ACCOUNT} to one.")
            self._found = names[0].rpartition("/")[2]
        return f"accounts/{self._found}"

    def _dataset(self, path: str) -> Mapping[str, Any] | None:
        try:
            return _object(self._http.get(path))
        except MissingError:
            return None

    def _made(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            self._http.send("POST", path.rpartition("/")[0], json=body)
        except PassingError:
            if self._dataset(path) is None:  # else the reply alone was lost, or the name is taken: by us
                raise

    def _sent(self, path: str, file: Path) -> None:
        with file.open("rb") as body:
            files = {"file": (file.name, body, "application/octet-stream")}
            self._http.send("POST", f"{path}:upload", files=files)

    def _wait(self, path: str) -> None:
        """Wait until Fireworks has read the file. Raises DataError where it rejects it."""
        for _ in range(LOOKS):
            found = _object(self._http.get(path))
            status = found.get("status")
            if isinstance(status, dict) and status.get("code", "OK") != "OK":
                raise DataError(f"Fireworks rejected the file: {status.get('message') or status['code']}")
            if found.get("state") == "READY":
                return
            time.sleep(self._pause)
        raise ProviderError(f"Fireworks has not read {path} after {LOOKS} looks. Go on later: fireact resume DIR")


def _object(reply: Any) -> Mapping[str, Any]:
    if not isinstance(reply, dict):
        raise ProviderError(f"Fireworks' reply is no JSON object: {str(reply)[:200]}")
    return reply


def _state(row: Mapping[str, Any]) -> str:
    return str(row.get("state", "")).removeprefix("JOB_STATE_")


def _job(row: Any) -> Job:
    if not isinstance(row, dict) or not row.get("name"):
        raise ProviderError(f"Fireworks' reply has no name of a job: {str(row)[:200]}")
    status, raw, model = _STATUS.get(_state(row), "running"), row.get("status"), row.get("outputModel")
    return Job(
        id=str(row["name"]).rpartition("/")[2],
        status=status,
        model=str(model) if model and status == "succeeded" else None,
        cost=_dollars(row.get("estimatedCost")),
        error=str(raw.get("message") or "") if isinstance(raw, dict) else "",
    )


def _dollars(money: Any) -> float | None:
    """Google's form of money: whole units and billionths; None where it is not in dollars."""
    if not isinstance(money, dict) or money.get("currencyCode", "USD") != "USD":
        return None
    units, nanos = str(money.get("units") or "0"), money.get("nanos") or 0
    return int(units) + nanos / 1e9 if units.isdecimal() and isinstance(nanos, int) else None
