"""``fireact serve``: a fine-tuned student, and the agent around it, behind an OpenAI-compatible endpoint.

    POST /v1/chat/completions, /v1/responses, /v1/messages
                                model NAME is the student alone, NAME-agent the agent with its tools run here
    POST /v1/messages/count_tokens
    GET  /v1/models, /v1/models/NAME, /health

Each dialect is a route. Paths are read as the recording proxy reads them, so /e/ID/v1/... and a base URL without /v1
work, too. Requests of many clients share the batches of the engine. Invariant: errors have the form of the client's
dialect, and a shutdown finishes the requests in flight. Loopback needs no key; any other address does. Importing this
module raises ConfigError where the extra is missing.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from fireact.base.listening import KEY, find_stranger, has_key, is_json
from fireact.errors import ConfigError, ContextError, FireactError, FormatError, missing_extra_error
from fireact.rollout.episodes import Cancelled
from fireact.serving.response_store import ResponseStore, make_response_id
from fireact.serving.served_agent import ServedAgent, ServedRequest, stream_events
from fireact.serving.wire import read_request
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import Dialect, WireReply
from fireact.wire.dialects import DIALECTS, find_owner, normalise_path, split_episode
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as missing_extra:
    raise missing_extra_error("starlette", "serve") from missing_extra

SERVED = (
    *(f"POST /v1{dialect.path}" for dialect in DIALECTS.values()),
    "POST /v1/messages/count_tokens",
    *("GET /v1/models", "GET /v1/models/NAME", "GET /health"),
)
IGNORED_HEADER = "X-FireAct-Ignored"
"""Names the fields of a request that a lenient server ignores."""
PROMPT_HEADER = "X-FireAct-Prompt"
"""Says that a request has another system prompt or other tools than the training had."""
THREADS = 256
"""Requests that run at a time; more wait."""


def build_serving_app(served: ServedAgent) -> Starlette:
    """The ASGI application."""
    service = _Service(served)
    return Starlette(
        routes=[
            *(
                Route(f"/v1{dialect.path}", functools.partial(service.complete, dialect=dialect), methods=["POST"])
                for dialect in DIALECTS.values()
            ),
            Route("/v1/messages/count_tokens", service.count_tokens, methods=["POST"]),
            Route("/v1/models", service.list_models),
            Route("/v1/models/{id:path}", service.describe_model),
            Route("/health", _report_health),
        ],
        exception_handlers={HTTPException: _refuse_path},
        middleware=[Middleware(_PathNormaliser)],
    )


class _Service:
    """The handlers of a served agent's routes."""

    def __init__(self, served: ServedAgent) -> None:
        self._served, self._store = served, ResponseStore()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    async def complete(self, request: Request, dialect: Dialect) -> Response:
        """Answer a request of a dialect, whole or as a stream."""
        served_request = await self._read_request(request, dialect)
        if isinstance(served_request, Response):
            return served_request
        watch = asyncio.create_task(_wait_until_left(request, served_request.client_left))
        headers = _describe_request(served_request)
        response_id = make_response_id() if dialect is RESPONSES else ""
        if served_request.request.stream:
            return self._stream(served_request, dialect, response_id, watch, headers)
        try:
            reply = await asyncio.get_running_loop().run_in_executor(self._threads, served_request.answer)
        except FireactError as error:
            status = 400 if isinstance(error, ConfigError | FormatError | ContextError) else 500
            return _refuse(status, str(error), dialect)
        except Cancelled:
            return _refuse(499, "the client left", dialect)
        except asyncio.CancelledError:
            return _refuse(503, "the server was stopped before the answer was finished", dialect)
        except Exception as error:  # the client gets any error, and the server continues
            return _refuse(500, f"{type(error).__name__}: {error}", dialect)
        finally:  # nobody reads the reply from here on
            served_request.client_left.set()
            watch.cancel()
        return JSONResponse(self._write_reply(served_request, reply, dialect, response_id), headers=headers)

    def _stream(
        self,
        served_request: ServedRequest,
        dialect: Dialect,
        response_id: str,
        watch: asyncio.Task[None],
        headers: dict[str, str],
    ) -> Response:
        request = served_request.request

        def store_reply(reply: WireReply) -> None:
            if dialect is RESPONSES:
                self._write_reply(served_request, reply, dialect, response_id)

        writer = (
            RESPONSES.stream_writer(request.model, id=response_id, request=request.body)
            if dialect is RESPONSES
            else dialect.stream_writer(request.model)
        )
        events = stream_events(served_request, writer, self._threads, watch, store_reply)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def _write_reply(
        self, served_request: ServedRequest, reply: WireReply, dialect: Dialect, response_id: str
    ) -> dict[str, Any]:
        """The body of a reply; a response of the Responses API is stored too, so that a client may refer to it."""
        request = served_request.request
        if dialect is RESPONSES:
            return self._store.write_reply(request.body, reply, model=request.model, id=response_id)
        return dialect.write_reply(reply, model=request.model)

    async def count_tokens(self, request: Request) -> Response:
        """Answer how many tokens the prompt of a request has."""
        served_request = await self._read_request(request, MESSAGES)
        if isinstance(served_request, Response):
            return served_request
        count = getattr(self._served.agent.lm, "count_prompt_tokens", None)
        if count is None:
            return _refuse(404, "count_tokens is not served here: this model has no tokenizer", MESSAGES)
        try:
            tokens = await asyncio.get_running_loop().run_in_executor(self._threads, count, served_request.prompt)
        except FireactError as error:
            return _refuse(400, str(error), MESSAGES)
        return JSONResponse({"input_tokens": tokens})

    async def list_models(self, request: Request) -> Response:
        """Answer with the names that are served."""
        if (refusal := self._check_access(request, _find_error_form(request))) is not None:
            return refusal
        return JSONResponse({"object": "list", "data": [_write_model(name) for name in self._served.names]})

    async def describe_model(self, request: Request) -> Response:
        """Answer whether a name is served."""
        dialect, name = _find_error_form(request), request.path_params["id"]
        if (refusal := self._check_access(request, dialect)) is not None:
            return refusal
        return JSONResponse(_write_model(name)) if self._served.serves(name) else self._refuse_model(name, dialect)

    async def _read_request(self, request: Request, dialect: Dialect) -> ServedRequest | Response:
        """The request, or its refusal."""
        if (refusal := self._check_access(request, dialect)) is not None:
            return refusal
        if not is_json(request.headers):
            sent_type = request.headers.get("content-type") or "none"
            return _refuse(415, f"the content-type is {sent_type}; it must be application/json", dialect)
        try:
            request_body = await self._read_body(request)
        except TimeoutError:
            return _refuse(408, f"the request did not come within {self._served.body_seconds:g} seconds", dialect)
        if request_body is None:
            return _refuse(413, f"the request is longer than {self._served.max_body} bytes", dialect)
        try:
            resolve = self._store.resolve if dialect is RESPONSES else lambda body: body
            student_request = read_request(request_body, dialect, lenient=self._served.lenient, resolve=resolve)
            if not self._served.serves(student_request.model):
                return self._refuse_model(student_request.model, dialect)
            return ServedRequest(self._served, student_request)
        except FormatError as error:
            return _refuse(400, str(error), dialect)

    async def _read_body(self, request: Request) -> bytes | None:
        """The body, or None when it is longer than allowed. Raises TimeoutError when the client stops sending it."""
        received = bytearray()
        async with asyncio.timeout(self._served.body_seconds):
            async for chunk in request.stream():
                received += chunk
                if len(received) > self._served.max_body:
                    return None
        return bytes(received)

    def _check_access(self, request: Request, dialect: Dialect) -> Response | None:
        """The refusal of a request without the key or, where there is no key, of one that is not of this machine."""
        if self._served.key is None:
            reason = find_stranger(request.headers)
            return _refuse(403, reason, dialect) if reason else None
        if has_key(request.headers, self._served.key):
            return None
        return _refuse(401, f"this endpoint needs the key in its {KEY}, as Authorization: Bearer KEY", dialect)

    def _refuse_model(self, model: str, dialect: Dialect) -> Response:
        return _refuse(
            404,
            f"the model {model!r} is not served. Served: {', '.join(self._served.names)}. --alias {model} gives the "
            "student this name.",
            dialect,
        )


def _describe_request(served_request: ServedRequest) -> dict[str, str]:
    """The headers that tell a client what of its request was ignored, or is new to the student."""
    ignored = served_request.request.ignored
    headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
    if served_request.has_unknown_prompt:
        headers[PROMPT_HEADER] = "other than in training; served as sent"
    return headers


def _refuse(status: int, message: str, dialect: Dialect) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(dialect.write_error(message, kind), status_code=status)


def _find_error_form(request: Request) -> Dialect:
    """The dialect of the errors on a path; where it belongs to none, that of the client."""
    is_anthropic = "anthropic-version" in request.headers
    return find_owner(request.url.path) or (MESSAGES if is_anthropic else CHAT_COMPLETIONS)


async def _wait_until_left(request: Request, client_left: threading.Event) -> None:
    """Wait until the client closes the connection, then set ``client_left``."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    client_left.set()


def _write_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "fireact"}


async def _report_health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refuse_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path} is not served. Served: {', '.join(SERVED)}"
    return _refuse(status, message, _find_error_form(request))


class _PathNormaliser:
    """ASGI middleware: the paths of all base URLs that the proxy takes become those of the routes."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = normalise_path(split_episode(scope["path"])[1]).rstrip("/") or "/"
            scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        await self._app(scope, receive, send)
