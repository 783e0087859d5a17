"""``fireact serve``: a fine-tuned student, and the agent around it, behind an OpenAI-compatible endpoint.

    POST /v1/chat/completions   model NAME is the student alone, NAME-agent the agent with its tools run here
    GET  /v1/models, /v1/models/NAME, /health

Requests of many clients share the batches of the engine. Invariant: a chat reaches the model through the same function
as training samples. A shutdown finishes the requests in flight; a request whose client has left stops. The question to
an agent is the last user message. Its text, as it is written, and its observations come as ``reasoning_content``, its
answer as ``content``. Loopback needs no key; any other address does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.errors import ConfigError, ContextError, FireactError, FormatError, missing_extra_error
from fireact.rollout.episodes import Agent, Cancelled, MeteredLM, complete_streaming
from fireact.serving.stream import EpisodeStream, iterate_steps
from fireact.serving.wire import ChatRequest, read_request
from fireact.types import Call, Completion, Message, OnDelta, Step, answer_of
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import StreamDelta, StreamWriter, WireReply
from fireact.wire.sse import write_event

KEY = "FIREACT_API_KEY"
GRACE = 120
"""Seconds that requests in flight may take after a signal before they are cut off."""
BODY_SECONDS = 30
"""Seconds within which the body of a request must arrive."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_BODY = 4_000_000
"""Bytes; a longer request is refused before it is read."""
SERVED = ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/NAME", "GET /health")
THREADS = 256
"""Requests that run at a time; more wait."""


@dataclass(frozen=True, slots=True)
class ServedAgent:
    """An agent and its student, with the names under which they are served."""

    name: str
    agent: Agent
    max_body: int = MAX_BODY
    body_seconds: float = BODY_SECONDS
    key: str | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models; a student of native calls is served only as the agent, with its trained tools."""
        native = getattr(getattr(self.agent.method, "renderer", None), "native", False)
        return (f"{self.name}-agent",) if native else (self.name, f"{self.name}-agent")


OnReplyDelta = Callable[[StreamDelta], None]
"""Receives the deltas of a streamed reply as they arrive."""


def make_served_agent(name: str, agent: Agent, *, host: str) -> ServedAgent:
    """The served agent with its key. Raises ConfigError when other machines could use it without a key."""
    return ServedAgent(name, agent, key=required_key(host))


def required_key(host: str) -> str | None:
    """The key that clients must send, from the environment. Raises ConfigError beyond loopback without one."""
    key = os.environ.get(KEY, "").strip() or None
    if host not in LOOPBACK and key is None:
        raise ConfigError(
            f"{host} can be reached from other machines. Set {KEY} to a secret that clients must send, or leave out "
            "--host."
        )
    return key


def build_serving_app(served: ServedAgent) -> Any:
    """The ASGI application. Raises ConfigError when the extra is missing."""
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra_error("starlette", "serve") from error

    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    def refuse(status: int, message: str) -> Response:
        return JSONResponse(CHAT_COMPLETIONS.write_error(message), status_code=status)

    def refuse_model(model: str) -> Response:
        return refuse(404, f"the model {model!r} is not served. Served: {', '.join(served.names)}")

    def check_access(request: Request) -> Response | None:
        """The refusal of a request without the key or, where there is no key, under a host name of another machine.

        Without the second check a web page could point its own host name here (DNS rebinding) and run the agent's
        tools from the user's browser.
        """
        if served.key is None:
            if request.url.hostname in LOOPBACK:
                return None
            return refuse(403, "this endpoint answers to the names of this machine alone")
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        # Headers are read as Latin-1, and most clients send UTF-8.
        same = hmac.compare_digest(sent.strip().encode("latin-1", "replace"), served.key.encode())
        if same and scheme.lower() == "bearer":
            return None
        return refuse(401, f"this endpoint needs the key in its {KEY}, as Authorization: Bearer KEY")

    async def read_body(request: Request) -> bytes | None:
        """The body, or None when it is longer than allowed. Raises TimeoutError when the client stops sending it."""
        received = bytearray()
        async with asyncio.timeout(served.body_seconds):
            async for chunk in request.stream():
                received += chunk
                if len(received) > served.max_body:
                    return None
        return bytes(received)

    async def complete(request: Request) -> Response:
        if (refusal := check_access(request)) is not None:
            return refusal
        try:
            request_body = await read_body(request)
        except TimeoutError:
            return refuse(408, f"the request did not come within {served.body_seconds:g} seconds")
        if request_body is None:
            return refuse(413, f"the request is longer than {served.max_body} bytes")
        try:
            chat_request = read_request(request_body)
        except FormatError as error:
            return refuse(400, str(error))
        if chat_request.model not in served.names:
            return refuse_model(chat_request.model)
        served_request = ServedRequest(served, chat_request)
        watch = asyncio.create_task(wait_until_left(request, served_request.client_left))
        if chat_request.stream:
            writer = CHAT_COMPLETIONS.stream_writer(chat_request.model)
            return StreamingResponse(
                _stream_events(served_request, writer, threads, watch), media_type="text/event-stream"
            )
        try:
            reply = await asyncio.get_running_loop().run_in_executor(threads, served_request.answer)
        except FireactError as error:
            return refuse(400 if isinstance(error, ConfigError | FormatError | ContextError) else 500, str(error))
        except Cancelled:
            return refuse(499, "the client left")
        except asyncio.CancelledError:
            return refuse(503, "the server was stopped before the answer was finished")
        except Exception as error:  # the client gets any error, and the server continues
            return refuse(500, f"{type(error).__name__}: {error}")
        finally:  # nobody reads the reply from here on
            served_request.client_left.set()
            watch.cancel()
        return JSONResponse(CHAT_COMPLETIONS.write_reply(reply, model=chat_request.model))

    async def wait_until_left(request: Request, client_left: threading.Event) -> None:
        """Wait until the client closes the connection, then set ``client_left``."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        client_left.set()

    model_entries = {
        name: {"id": name, "object": "model", "created": 0, "owned_by": "fireact"} for name in served.names
    }

    async def models(request: Request) -> Response:
        if (refusal := check_access(request)) is not None:
            return refusal
        return JSONResponse({"object": "list", "data": list(model_entries.values())})

    async def model(request: Request) -> Response:
        if (refusal := check_access(request)) is not None:
            return refusal
        model_entry = model_entries.get(request.path_params["id"])
        return refuse_model(request.path_params["id"]) if model_entry is None else JSONResponse(model_entry)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def refuse_path(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return refuse(status, f"{request.method} {request.url.path} is not served. Served: {', '.join(SERVED)}")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{id:path}", model),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: refuse_path},
    )


class ServedRequest:
    """One request, answered on a thread; once ``client_left`` is set, the next delta raises Cancelled."""

    def __init__(
        self, served: ServedAgent, chat_request: ChatRequest, on_reply_delta: OnReplyDelta = lambda delta: None
    ) -> None:
        self.served, self.chat_request, self.on_reply_delta = served, chat_request, on_reply_delta
        self.client_left = threading.Event()

    def answer(self) -> WireReply:
        """The reply; an agent's steps are its reasoning."""
        return self._student() if self.chat_request.model == self.served.name else self._agent()

    def _student(self) -> WireReply:
        chat_request = self.chat_request

        def on_delta(delta: str) -> None:
            if self.client_left.is_set():
                raise Cancelled
            self.on_reply_delta(StreamDelta(delta))

        call = Call(
            chat_request.messages,
            stop=chat_request.stop,
            max_tokens=chat_request.max_tokens,
            temperature=chat_request.temperature,
            seed=chat_request.seed,
            on_delta=on_delta,
        )
        completion = complete_streaming(self.served.agent.lm, call)
        return WireReply((completion.text,), finish=completion.finish, usage=completion.usage)

    def _agent(self) -> WireReply:
        chat_request, agent = self.chat_request, self.served.agent
        question = next((message.content for message in reversed(chat_request.messages) if message.role == "user"), "")
        if not question.strip():
            raise FormatError("an agent is asked the last message of the role user; there is none")
        if chat_request.stop:
            raise FormatError("stop: an agent ends its turns itself. Leave it out.")
        steps, deltas = list[Step](), list[str]()

        def add_delta(delta: str) -> None:
            deltas.append(delta)
            self.on_reply_delta(StreamDelta(reasoning=delta))

        stream = EpisodeStream(add_delta)
        meter = _TokenLimitedLM(
            replace(agent, temperature=chat_request.temperature),
            self.client_left,
            token_limit=chat_request.max_tokens,
            on_delta=stream.on_delta,
        )
        for step in iterate_steps(agent, question, meter, seed=chat_request.seed):
            steps.append(step)
            stream.on_step(step)
            if not meter.remaining_tokens:
                break
        answer = answer_of(steps)
        if answer:
            self.on_reply_delta(StreamDelta(answer))
        finish = "length" if answer is None else "stop"
        return WireReply((answer or "",), reasoning="".join(deltas), finish=finish, usage=meter.usage)


class _TokenLimitedLM(MeteredLM):
    """A metered LM that lets an episode write ``token_limit`` tokens in total; None is no limit."""

    def __init__(self, agent: Agent, cancelled: threading.Event, *, token_limit: int | None, on_delta: OnDelta) -> None:
        super().__init__(agent, cancelled, on_delta=on_delta)
        self._token_limit, self._turn_limit = token_limit, agent.limits.max_tokens

    @property
    def remaining_tokens(self) -> int:
        """The tokens that the next turn may write; 0 when the limit is reached."""
        return (
            self._turn_limit
            if self._token_limit is None
            else max(0, min(self._turn_limit, self._token_limit - self.usage.completion_tokens))
        )

    def complete(self, call: Call) -> Completion:
        max_tokens = max(1, self.remaining_tokens) if call.max_tokens is None else call.max_tokens
        return super().complete(replace(call, max_tokens=max_tokens))


async def _stream_events(
    served_request: ServedRequest, writer: StreamWriter, threads: Executor, watch: asyncio.Task[None]
) -> AsyncIterator[bytes]:
    """The events of a reply, as they come from the thread that answers the request."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[StreamDelta | WireReply | BaseException] = asyncio.Queue()

    def put(item: StreamDelta | WireReply | BaseException) -> None:
        loop.call_soon_threadsafe(events.put_nowait, item)

    def work() -> None:
        try:
            put(served_request.answer())
        except BaseException as error:  # the client gets any error instead of waiting for ever
            put(error)

    served_request.on_reply_delta = put
    try:
        working = loop.run_in_executor(threads, work)
        yield writer.start()
        while isinstance(item := await events.get(), StreamDelta):
            yield writer.add(item)
        if isinstance(item, WireReply):
            yield writer.end(finish=item.finish, usage=item.usage if served_request.chat_request.stream_usage else None)
        else:
            error_text = str(item) if isinstance(item, FireactError) else f"{type(item).__name__}: {item}"
            yield write_event(CHAT_COMPLETIONS.write_error(error_text, "server_error"))
        await working
    finally:  # nobody reads the reply from here on
        served_request.client_left.set()
        watch.cancel()


def run_server(served: ServedAgent, *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until a signal ends it; requests in flight are finished first. ``started`` is given the base URL.

    Raises ConfigError when the port is taken.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra_error("uvicorn", "serve") from error
    app = build_serving_app(served)
    listening = bind_socket(host, port)
    served.agent.lm.complete(
        Call([Message("user", "Hello")], max_tokens=1)
    )  # loads the weights before the first request
    started(f"http://{host_and_port(host, listening.getsockname()[1])}/v1")
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE)
    logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything in flight is finished
        uvicorn.Server(config).run(sockets=[listening])


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether uvicorn shall log a record; a request that a shutdown cut off is no fault to trace."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def host_and_port(host: str, port: int) -> str:
    """Host and port in the form of a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigError when the port is taken."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on and each reply waits for an acknowledgement.
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # clients may connect as soon as they know the address
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {why}. Give another --port.") from error
    return listening
