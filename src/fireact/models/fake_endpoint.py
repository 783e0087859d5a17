"""A local HTTP server with scripted replies in the three dialects, for tests and benchmarks of agents.

Invariant: a reply depends only on the request, so concurrent clients get the same replies as one. Faults come in their
planned order, one a request. It is not a model: its usage counts words, and it checks no key.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from fireact.types import Usage
from fireact.wire.chat_completions import read_message, write_message
from fireact.wire.dialect import Dialect, StreamDelta, WireReply, WireRequest
from fireact.wire.dialects import find_dialect
from fireact.wire.response_history import ResponseHistory
from fireact.wire.responses import RESPONSES

FakeReply = str | Mapping[str, Any]
"""The text of a reply, or a whole assistant message (``content``, ``tool_calls``)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of one request: a status with headers, a cut connection, a body that is not JSON, slow bytes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    cut: bool = False
    """Close the connection in the middle of the body."""
    seconds_a_byte: float = 0.0


class FakeEndpoint:
    """Serves the three dialects, models, embeddings and ``count_tokens`` on loopback while in a ``with`` statement.

    ``reply`` gets the parsed request, with what it refers to in earlier responses, and returns a reply in the form of
    chat completions, whatever the dialect, or a fault. ``latency`` returns the seconds that a request waits.
    ``requests`` are the parsed bodies as they came, and ``peak`` is the most requests that were answered at a time.
    """

    def __init__(
        self,
        reply: Callable[[Mapping[str, Any]], FakeReply | Fault],
        *,
        models: Sequence[str] = ("fake",),
        faults: Sequence[Fault] = (),
        latency: Callable[[Mapping[str, Any]], float] = lambda request: 0.0,
        port: int = 0,
    ) -> None:
        self.reply, self.models, self.latency = reply, tuple(models), latency
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.peak = self._active = 0
        self._faults: Iterator[Fault] = iter(tuple(faults))
        self._history = ResponseHistory()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _make_handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-endpoint", daemon=True)

    @property
    def url(self) -> str:
        """The base URL that clients take."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kill(self) -> None:
        """Close the port and cut every connection, as a server does that dies."""
        self._server.socket.close()
        self._server.cut_connections()

    def begin(self, request: dict[str, Any], headers: Mapping[str, str]) -> Fault | None:
        """Record a request, and return the fault that is planned for it."""
        with self._lock:
            self.requests.append(request)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self._active += 1
            self.peak = max(self.peak, self._active)
            return next(self._faults, None)

    def resolve(self, dialect: Dialect, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request with what it refers to in earlier responses."""
        with self._lock:
            return self._history.resolve(request)[0] if dialect is RESPONSES else request

    def remember(self, dialect: Dialect, request: Mapping[str, Any], reply: WireReply) -> WireReply:
        """The reply with the id of its response, under which later requests may refer to it."""
        if dialect is not RESPONSES:
            return reply
        reply = RESPONSES.read_reply(RESPONSES.write_reply(reply, model=str(request.get("model"))))
        with self._lock:
            self._history.add(request, reply)
        return reply

    def begin_conversation(self, id: str, items: Iterable[Any]) -> None:
        """Hold the items of a new conversation."""
        with self._lock:
            self._history.add_conversation_items(id, items)

    def end(self) -> None:
        """Record that a request is answered."""
        with self._lock:
            self._active -= 1


def make_reply(request: WireRequest, reply: FakeReply) -> WireReply:
    """The reply to a request; it honours stop strings and ``max_tokens`` (in words)."""
    message, _ = read_message({"role": "assistant", **({"content": reply} if isinstance(reply, str) else reply)})
    text, finish = message.text, "tool_calls" if message.calls else "stop"
    for string in request.stop:
        text = text.split(string, 1)[0]
    if request.max_tokens is not None and len(text.split()) > request.max_tokens:
        text, finish = " ".join(text.split()[: request.max_tokens]), "length"
    prompt_words = len(json.dumps([write_message(message) for message in request.messages]).split())
    message_extra = {"choices": [{"message": dict(message.extra)}]} if message.extra else {}
    return WireReply(
        (text,) if message.parts else (), message.calls, message.reasoning, finish,
        usage=Usage(1, prompt_words, 0, len(text.split())), extra=message_extra,
    )  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and remember it while it is open."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        """Cut all open connections."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _make_handler(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "fireact"} for name in endpoint.models]
            self._send(200, json.dumps({"object": "list", "data": listed}))

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = json.loads(raw)
            fault = endpoint.begin(request, dict(self.headers))
            try:
                self._answer(request, fault)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                endpoint.end()

        def _answer(self, request: dict[str, Any], fault: Fault | None) -> None:
            time.sleep(endpoint.latency(request))
            dialect = find_dialect(urlsplit(self.path).path)
            if dialect is None:
                return self._answer_elsewhere(request)
            if request.get("model") not in endpoint.models:
                error = dialect.write_error(f"The model {request.get('model')!r} does not exist", "not_found_error")
                return self._send(404, json.dumps(error))
            if fault is not None and fault.status != 200:
                body = fault.body or json.dumps({"error": {"message": f"planned fault {fault.status}"}})
                return self._send(fault.status, body, fault)
            whole_request = endpoint.resolve(dialect, request)
            wire_request, answer = dialect.read_request(whole_request), endpoint.reply(whole_request)
            if isinstance(answer, Fault):
                return self._send(answer.status, answer.body or "{}", answer)
            reply = endpoint.remember(dialect, whole_request, make_reply(wire_request, answer))
            if wire_request.stream:
                return self._stream(dialect, reply, wire_request.model, cut=fault is not None and fault.cut)
            body = json.dumps(dialect.write_reply(reply, model=wire_request.model))
            self._send(200, fault.body if fault is not None and fault.body is not None else body, fault)

        def _answer_elsewhere(self, request: dict[str, Any]) -> None:
            if self.path.endswith("/messages/count_tokens"):
                return self._send(200, json.dumps({"input_tokens": len(json.dumps(request["messages"]).split())}))
            if self.path.endswith("/conversations"):
                endpoint.begin_conversation("conv_1", request.get("items") or ())
                return self._send(200, json.dumps({"id": "conv_1", "object": "conversation", "created_at": 0}))
            if self.path.endswith("/embeddings"):
                return self._send(200, json.dumps(_embed(request)))
            self._send(404, json.dumps({"error": {"message": f"{self.path} is not served"}}))

        def _send(self, status: int, body: str, fault: Fault | None = None) -> None:
            raw = body.encode()
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
            for name, value in {**headers, **(fault.headers if fault else {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if fault is not None and fault.cut:
                self.wfile.write(raw[: len(raw) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif fault is not None and fault.seconds_a_byte:
                for index in range(len(raw)):
                    self.wfile.write(raw[index : index + 1])
                    self.wfile.flush()
                    time.sleep(fault.seconds_a_byte)
            else:
                self.wfile.write(raw)

        def _stream(self, dialect: Dialect, reply: WireReply, model: str, *, cut: bool) -> None:
            """The reply as server-sent events, a word an event; or the first half of them."""
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            events = list(_write_events(dialect, reply, model))
            for event in events[: len(events) // 2] if cut else events:
                self.wfile.write(event)
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing: ``requests`` is the log."""

    return Handler


def _embed(request: Mapping[str, Any]) -> dict[str, Any]:
    """The embedding of each input: how many characters and words it has."""
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    vectors = [[float(len(text)), float(len(text.split()))] for text in texts]
    rows = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": rows, "model": request.get("model")}


def _write_events(dialect: Dialect, reply: WireReply, model: str) -> Iterator[bytes]:
    writer = dialect.stream_writer(model, id=str(reply.extra.get("id") or ""))
    yield writer.start()
    if reply.reasoning:
        yield writer.add(StreamDelta(reasoning=reply.reasoning))
    for position, word in enumerate(reply.text.split(" ")):
        yield writer.add(StreamDelta((" " if position else "") + word))
    for call in reply.calls:
        yield writer.add(StreamDelta(calls=(call,)))
    yield writer.end(finish=reply.finish, usage=reply.usage)
