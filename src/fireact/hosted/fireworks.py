"""Fireworks: data sets and supervised fine-tuning jobs under an account, with names that we choose.

    fireworks:MODEL[@BASE_URL]   MODEL is llama-v3p1-8b-instruct or accounts/ACCOUNT/models/NAME

The key is FIREWORKS_API_KEY; the account is FIREWORKS_ACCOUNT_ID, or the only account of the key. Data set, job and
model share one name, so that a repeated request creates nothing twice. The result is a LoRA, which Fireworks serves
only on a dedicated deployment. There are no events; changes of the state and of the progress take their place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.base.http import TransientError
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.hosted.provider import Job, JobQuote, JobRequest, NotFoundError, ProviderClient, Status

URL = "https://api.fireworks.ai/v1"
KEY, ACCOUNT = "FIREWORKS_API_KEY", "FIREWORKS_ACCOUNT_ID"
MAX_UPLOAD_BYTES = 150_000_000
"""Bytes of a file that is uploaded in one request."""
MAX_POLLS = 600
"""The maximum number of polls until a data set is ready."""
_STATUS: dict[str, Status] = {
    "CREATING": "waiting", "PENDING": "waiting", "VALIDATING": "waiting", "RE_QUEUEING": "waiting", "PAUSED": "waiting",
    "CREATING_INPUT_DATASET": "waiting", "IDLE": "waiting", "RUNNING": "running", "WRITING_RESULTS": "running",
    "CANCELLING": "running", "COMPLETED": "succeeded", "EARLY_STOPPED": "succeeded", "FAILED": "failed",
    "EXPIRED": "failed", "CANCELLED": "cancelled", "DELETING": "cancelled", "DELETING_CLEANING_UP": "cancelled",
}  # fmt: skip
"""Our status for each JOB_STATE_...; an unknown state counts as running."""


class FireworksProvider:
    """The provider. Raises ConfigError without a key, or where the account is ambiguous."""

    min_samples = 3
    accepted_settings = ("learning_rate", "rank")
    """The settings of a JobRequest that may be chosen; Fireworks counts a batch in tokens."""
    priced = False

    def __init__(self, url: str = "", *, pause: float = 1.0) -> None:
        self._http = ProviderClient(url or URL, variable=KEY, pause=pause)
        self._pause = pause
        self._account_id = os.environ.get(ACCOUNT, "")

    @property
    def url(self) -> str:
        return self._http.url

    def agent(self, model: str) -> str:
        """The model at the address for inference, which differs from the one for training."""
        return f"openai:{model}@{self.url.removesuffix('/v1')}/inference/v1"

    def upload(self, file: Path, name: str) -> str:
        """Create a data set and upload the file, unless that was done before; returns the data set's name."""
        if file.stat().st_size > MAX_UPLOAD_BYTES:
            raise DataError(
                f"{file} has {file.stat().st_size:,} bytes; Fireworks takes {MAX_UPLOAD_BYTES:,} in a request. Mix "
                "fewer trajectories."
            )
        with file.open("rb") as lines:
            count = sum(1 for _ in lines)
        path = f"{self._account}/datasets/{name}"
        if self._find_dataset(path) is None:
            record = {"userUploaded": {}, "exampleCount": str(count), "format": "CHAT"}
            self._http.retry(lambda: self._create_dataset(path, {"datasetId": name, "dataset": record}))
        if (self._find_dataset(path) or {}).get("state") != "READY":
            self._http.retry(lambda: self._send_file(path, file))
            self._wait(path)
        return path

    def quote(self, file: str, job_request: JobRequest) -> JobQuote:
        """The tokens that Fireworks counts in the data set, times the epochs; it quotes no price before a job."""
        tokens = str((self._find_dataset(file) or {}).get("estimatedTokenCount") or "")
        return JobQuote(tokens=int(tokens) * (job_request.epochs or 1) if tokens.isdecimal() else None)

    def create(self, file: str, job_request: JobRequest) -> Job:
        """Create a job under its name once: a job that already has the name is ours."""
        model = job_request.model
        body: dict[str, Any] = {
            "dataset": file,
            "baseModel": model if "/" in model else f"accounts/fireworks/models/{model}",
            "outputModel": f"{self._account}/models/{job_request.name}",
            "displayName": job_request.name,
            **({"epochs": job_request.epochs} if job_request.epochs else {}),
            **({"learningRate": job_request.learning_rate} if job_request.learning_rate else {}),
            **({"loraRank": job_request.rank} if job_request.rank else {}),
        }

        def create_once() -> Job:
            query = {"supervisedFineTuningJobId": job_request.name}
            return _parse_job(self._http.send("POST", self._jobs, params=query, json=body))

        try:
            return create_once()
        except TransientError:
            return self._http.retry(lambda: self.find(file, job_request.name) or create_once())

    def find(self, file: str, name: str) -> Job | None:
        """The job with a name, if there is one."""
        try:
            return self.job(name)
        except NotFoundError:
            return None

    def job(self, id: str) -> Job:
        """The current state of a job."""
        return _parse_job(self._http.get(f"{self._jobs}/{id}"))

    def events(self, id: str, known_ids: Collection[str]) -> Sequence[tuple[str, str]]:
        """The current state and progress as one event; its text is also its id."""
        row = _require_object(self._http.get(f"{self._jobs}/{id}"))
        progress = row.get("jobProgress")
        state_text = _job_state(row).lower().replace("_", " ")
        if isinstance(progress, dict) and progress.get("percent"):
            epoch = f" of epoch {progress['epoch'] + 1}" if isinstance(progress.get("epoch"), int) else ""
            state_text += f", {progress['percent']} %{epoch}"
        return [(state_text, state_text)]

    def cancel(self, id: str) -> Job:
        """Ask for a job to be stopped."""
        self._http.post(f"{self._jobs}/{id}:cancel")
        return self.job(id)

    @property
    def _jobs(self) -> str:
        return f"{self._account}/supervisedFineTuningJobs"

    @property
    def _account(self) -> str:
        """The account, as the prefix of resource names."""
        if not self._account_id:
            listed = _require_object(self._http.get("accounts")).get("accounts")
            rows = listed if isinstance(listed, list) else []
            names = [str(row.get("name", "")) for row in rows if isinstance(row, dict)]
            if len(names) != 1:
                account_names = ", ".join(name.rpartition("/")[2] for name in names) or "none"
                raise ConfigError(
                    f"the key is one of several accounts, or of none ({account_names}). Set {ACCOUNT} to one."
                )
            self._account_id = names[0].rpartition("/")[2]
        return f"accounts/{self._account_id}"

    def _find_dataset(self, path: str) -> Mapping[str, Any] | None:
        try:
            return _require_object(self._http.get(path))
        except NotFoundError:
            return None

    def _create_dataset(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            self._http.send("POST", path.rpartition("/")[0], json=body)
        except TransientError:
            if self._find_dataset(path) is None:  # else only the reply was lost, or our earlier try made it
                raise

    def _send_file(self, path: str, file: Path) -> None:
        with file.open("rb") as body:
            files = {"file": (file.name, body, "application/octet-stream")}
            self._http.send("POST", f"{path}:upload", files=files)

    def _wait(self, path: str) -> None:
        """Wait until Fireworks has read the file. Raises DataError where it rejects it."""
        for _ in range(MAX_POLLS):
            dataset = _require_object(self._http.get(path))
            status = dataset.get("status")
            if isinstance(status, dict) and status.get("code", "OK") != "OK":
                raise DataError(f"Fireworks rejected the file: {status.get('message') or status['code']}")
            if dataset.get("state") == "READY":
                return
            time.sleep(self._pause)
        raise ProviderError(
            f"Fireworks has not read {path} after {MAX_POLLS} looks. Continue later: fireact resume DIR"
        )


def _require_object(reply: Any) -> Mapping[str, Any]:
    if not isinstance(reply, dict):
        raise ProviderError(f"Fireworks' reply is no JSON object: {str(reply)[:200]}")
    return reply


def _job_state(row: Mapping[str, Any]) -> str:
    return str(row.get("state", "")).removeprefix("JOB_STATE_")


def _parse_job(row: Any) -> Job:
    if not isinstance(row, dict) or not row.get("name"):
        raise ProviderError(f"Fireworks' reply has no name of a job: {str(row)[:200]}")
    status, job_status, model = _STATUS.get(_job_state(row), "running"), row.get("status"), row.get("outputModel")
    return Job(
        id=str(row["name"]).rpartition("/")[2],
        status=status,
        model=str(model) if model and status == "succeeded" else None,
        cost=_parse_money(row.get("estimatedCost")),
        error=str(job_status.get("message") or "") if isinstance(job_status, dict) else "",
    )


def _parse_money(money: Any) -> float | None:
    """Dollars from Google's money format (whole units and billionths); None for other currencies."""
    if not isinstance(money, dict) or money.get("currencyCode", "USD") != "USD":
        return None
    units, nanos = str(money.get("units") or "0"), money.get("nanos") or 0
    return int(units) + nanos / 1e9 if units.isdecimal() and isinstance(nanos, int) else None
