"""A server on loopback that speaks as much of the hub's API as a push takes: create, look at modes, commit."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What was created and committed; without ``token`` in a request it is refused."""

    token: str = "hf_of_the_test"
    address: str = ""
    refusal: int = 0
    """The status with which every request is refused."""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


def _repository(path: str) -> str:
    """OWNER/NAME of a request such as /api/models/OWNER/NAME/commit/main, with the prefix that its address has."""
    _, _, kind, owner, name, *_ = path.split("/")
    return f"{'' if kind == 'models' else f'{kind}/'}{owner}/{name}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def answer(self, body: Any, status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(self.path)
            if hub.refusal:
                return self.answer({"error": "not in this way"}, hub.refusal)
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer({"error": "Invalid credentials"}, 401)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                hub.created.append(asked)
                kind = "datasets/" if asked.get("type") == "dataset" else ""
                return self.answer({"url": f"{hub.address}/{kind}{asked['organization']}/{asked['name']}"})
            if "/preupload/" in self.path:
                files = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
                return self.answer({"files": modes})
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return self.answer(
                    {"commitUrl": f"{hub.address}/{_repository(self.path)}/commit/1", "commitOid": "1", "success": True}
                )
            return self.answer({"error": self.path}, 404)

        def do_GET(self) -> None:
            hub.requests.append(self.path)
            if hub.refusal:
                return self.answer({"error": "not in this way"}, hub.refusal)
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer({"error": "Invalid credentials"}, 401)
            self.answer({"sha": "0", "id": "me/agent"} if "/api/" in self.path else {}, 200)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
