"""A local server that speaks a fine-tuning API: slow and failing jobs, rejected files, 429s, replies that are lost.

``kind`` is openai (pages, suffixes), together (no suffix, no ids of events, prices) or fireworks (names that the client
chooses, data sets, no events).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ACCOUNT = "accounts/acme"
Answer = tuple[int, Any]


class FakeTuning:
    """Jobs move one state on each time that they are looked at; ``faults`` are statuses given first, one a request."""

    def __init__(
        self,
        kind: str = "openai",
        *,
        states: Sequence[str] = ("queued", "running", "succeeded"),
        faults: Sequence[int] = (),
        page: int = 2,
        price: float | None = 0.5,
    ) -> None:
        self.kind, self.states, self.faults, self.page, self.price = kind, list(states), list(faults), page, price
        self.files: dict[str, bytes] = {}
        self.datasets: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        """Method, path and query of every request."""
        self.headers: dict[str, str] = {}
        self.lost = 0
        """Creations of jobs whose reply is lost: the job is there, the client sees a fault."""
        self.rejected = ""
        """What is wrong with every file, said once it is uploaded (fireworks) or read (openai, together)."""
        self.reading: int | None = None
        """How often a file is looked at before it is read; until then no job is made of it. None: nothing is told."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeTuning:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- jobs ---

    def create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.jobs[name] = {"id": name, "seen": 0, "state": self.states[0], **body}
        return self.jobs[name]

    def look(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        job["seen"] = min(job["seen"] + 1, len(self.states) - 1)
        job["state"] = self.states[job["seen"]] if job["state"] != "cancelled" else "cancelled"
        return self.shown(job)

    def shown(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job as this API has it."""
        state = job["state"]
        if self.kind == "fireworks":
            row = {
                **job,
                "name": f"{ACCOUNT}/supervisedFineTuningJobs/{job['id']}",
                "state": f"JOB_STATE_{state.upper()}",
            }
            row |= {"estimatedCost": {"currencyCode": "USD", "units": "1", "nanos": 250_000_000}}
            row |= {"jobProgress": {"percent": 40, "epoch": 0}} if state == "running" else {}
            return row | ({"status": {"code": "INTERNAL", "message": "the file is odd"}} if state == "failed" else {})
        row = {key: value for key, value in job.items() if key != "suffix" or self.kind == "openai"} | {"status": state}
        if state in ("succeeded", "completed"):
            result = "fine_tuned_model" if self.kind == "openai" else "model_output_name"
            counted = "trained_tokens" if self.kind == "openai" else "token_count"
            row |= {result: f"ft:{job['model']}:{job['suffix']}", counted: 12_000}
        if self.kind == "together":
            row |= {"total_price": 700_000_000}
        return row | ({"error": {"code": "bad", "message": "the file is odd"}} if state == "failed" else {})

    def listed(self, rows: list[dict[str, Any]], query: dict[str, str]) -> Answer:
        """A list, newest first and in pages where the API has them."""
        if self.kind != "openai":
            return 200, {"data": rows}
        rows = rows[::-1]
        at = next((n + 1 for n, row in enumerate(rows) if row["id"] == query.get("after")), 0)
        size = min(self.page, int(query.get("limit", 20)))
        return 200, {"data": rows[at : at + size], "has_more": at + size < len(rows)}

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a job has told so far, oldest first."""
        ids = [{"id": f"e{at}"} if self.kind == "openai" else {} for at in range(len(self.states))]
        seen = self.jobs[name]["seen"]
        return [{**ids[at], "created_at": at, "message": f"now {self.states[at]}"} for at in range(seen + 1)]

    # --- requests ---

    def get(self, path: str, query: dict[str, str]) -> Answer:
        if self.kind == "fireworks":
            if path == "accounts":
                return 200, {"accounts": [{"name": ACCOUNT}]}
            group, name = path.split("/")[2:]
            if group == "datasets":
                return (200, self.datasets[name]) if name in self.datasets else _missing(name)
            return (200, self.look(name)) if name in self.jobs else _missing(name)
        if path.startswith("files/"):
            return self._file(path.removeprefix("files/"))
        parts = path.removeprefix(_jobs(self.kind)).strip("/").split("/")
        if parts == [""]:
            return self.listed([self.shown(job) for job in self.jobs.values()], query)
        if parts[-1] == "events":
            return self.listed(self.events(parts[0]), query)
        return 200, self.look(parts[0])

    def post(self, path: str, query: dict[str, str], raw: bytes) -> Answer:
        if path.endswith((":cancel", "/cancel")):
            name = path.removesuffix(":cancel").removesuffix("/cancel").rpartition("/")[2]
            self.jobs[name]["state"] = "cancelled"
            return 200, {} if self.kind == "fireworks" else self.shown(self.jobs[name])
        if path in ("files", "files/upload"):
            self.files[f"file-{len(self.files) + 1}"] = raw
            return 200, {"id": f"file-{len(self.files)}"}
        if path.endswith(":upload"):
            return self._uploaded(path.removesuffix(":upload").rpartition("/")[2], raw)
        body = json.loads(raw)
        if path.endswith("/datasets"):
            taken = body["datasetId"] in self.datasets
            self.datasets.setdefault(body["datasetId"], {**body["dataset"], "state": "UPLOADING"})
            return (409, {"message": "ALREADY_EXISTS"}) if taken else (200, {})
        if path.endswith("estimate-price"):
            priced = {
                "estimated_total_price": self.price,
                "estimated_train_token_count": 9000.0,
                "allowed_to_proceed": True,
            }
            return (500, {}) if self.price is None else (200, {"estimation_available": True, **priced})
        return self._created(query.get("supervisedFineTuningJobId", f"ftjob-{len(self.jobs) + 1}"), body)

    def _file(self, name: str) -> Answer:
        if self.reading is None:
            return _missing(name)
        self.reading = max(0, self.reading - 1)
        wrong = {"status": "error", "status_details": self.rejected} if self.rejected else {"status": "processed"}
        return 200, {"id": name, **({"status": "pending"} if self.reading else wrong)}

    def _uploaded(self, name: str, raw: bytes) -> Answer:
        self.files[name] = raw
        wrong = {"status": {"code": "INVALID_ARGUMENT", "message": self.rejected}} if self.rejected else {}
        self.datasets[name] |= {"state": "READY", "estimatedTokenCount": "3000", **wrong}
        return 200, {"id": name}

    def _created(self, name: str, body: dict[str, Any]) -> Answer:
        if name in self.jobs:
            return 409, {"error": {"message": "ALREADY_EXISTS"}}
        if self.reading:
            return 400, {"error": {"message": "The specified file reference must point to a completed file import."}}
        job = self.create(name, body)
        if self.lost:
            self.lost -= 1
            return 500, {"error": {"message": "lost"}}
        return 200, self.shown(job)


def _missing(name: str) -> Answer:
    return 404, {"code": 5, "message": f"{name} not found"}


def _jobs(kind: str) -> str:
    return "fine_tuning/jobs" if kind == "openai" else "fine-tunes"


def _handler(served: FakeTuning) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: apart, each reply waits 40 ms

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            path, query = (
                parts.path.removeprefix("/v1/"),
                {key: value[0] for key, value in parse_qs(parts.query).items()},
            )
            served.asked.append(f"{self.command} {path}{'?' if parts.query else ''}{parts.query}")
            served.headers = {name.lower(): value for name, value in self.headers.items()}
            if served.faults:
                status = served.faults.pop(0)
                return self._reply(status, {"error": {"message": f"planned {status}"}})
            self._reply(*(served.get(path, query) if self.command == "GET" else served.post(path, query, raw)))

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _reply(self, status: int, body: Any) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
