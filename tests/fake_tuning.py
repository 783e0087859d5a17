"""A local server that speaks the fine-tuning wire of OpenAI or Together: slow and failing jobs, rejected files, 429s."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeTuning:
    """Jobs move one state on each time that they are looked at; ``faults`` are statuses given first, one a request."""

    def __init__(
        self,
        kind: str = "openai",
        *,
        states: Sequence[str] = ("queued", "running", "succeeded"),
        faults: Sequence[int] = (),
    ) -> None:
        self.kind, self.states, self.faults = kind, list(states), list(faults)
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.lost = 0
        """Creations whose reply is lost: the job is there, the client sees a fault."""
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

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = f"ftjob-{len(self.jobs) + 1}"
        self.jobs[name] = {"id": name, "status": self.states[0], "seen": 0, **body}
        return self.jobs[name]

    def look(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        job["seen"] = min(job["seen"] + 1, len(self.states) - 1)
        job["status"] = self.states[job["seen"]] if job["status"] != "cancelled" else "cancelled"
        if job["status"] in ("succeeded", "completed"):
            result = "fine_tuned_model" if self.kind == "openai" else "model_output_name"
            job |= {result: f"ft:{job['model']}:{job['suffix']}", "trained_tokens": 12_000}
        if job["status"] == "failed":
            job["error"] = {"code": "bad", "message": "the file is odd"}
        return job


def _handler(served: FakeTuning) -> type[BaseHTTPRequestHandler]:
    jobs = "fine_tuning/jobs" if served.kind == "openai" else "fine-tunes"
    files = "files" if served.kind == "openai" else "files/upload"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self, status: int, body: Any) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(raw)

        def _begin(self) -> tuple[str, bytes] | None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if served.faults:
                status = served.faults.pop(0)
                self._reply(status, {"error": {"message": f"planned {status}"}})
                return None
            return self.path.removeprefix("/v1/"), raw

        def do_POST(self) -> None:
            begun = self._begin()
            if begun is None:
                return
            path, raw = begun
            if path == files:
                served.files[f"file-{len(served.files) + 1}"] = raw
                return self._reply(200, {"id": f"file-{len(served.files)}"})
            if path.endswith("/cancel"):
                job = served.jobs[path.split("/")[-2]]
                job["status"] = "cancelled"
                return self._reply(200, job)
            job = served.create(json.loads(raw))
            if served.lost:
                served.lost -= 1
                return self._reply(500, {"error": {"message": "lost"}})
            self._reply(200, job)

        def do_GET(self) -> None:
            begun = self._begin()
            if begun is None:
                return
            parts = begun[0].removeprefix(jobs).strip("/").split("/")
            if parts == [""]:
                return self._reply(200, {"data": list(served.jobs.values())})
            if parts[-1] == "events":
                seen = served.jobs[parts[0]]["seen"]
                rows = [
                    {"id": f"e{at}", "created_at": at, "message": f"now {served.states[at]}"} for at in range(seen + 1)
                ]
                return self._reply(200, {"data": rows[::-1]})
            self._reply(200, served.look(parts[0]))

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
