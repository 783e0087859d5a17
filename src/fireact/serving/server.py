"""``fireact serve``: a fine-tuned student, and the agent around it, behind an OpenAI-compatible endpoint.

    POST /v1/chat/completions   model NAME is the student alone, NAME-agent the agent with its tools run here
    GET  /v1/models, /v1/models/NAME, /health

Requests of many clients share the batches of the engine. Invariant: a chat reaches the model by the function that
training samples went through; what is in flight at a shutdown is finished, and what nobody waits for any more is not
written on. An agent is asked its last user message; its words, as it writes them, and what it observes come as
``reasoning_content``, its answer as ``content``.
No key is needed on loopback; beyond, one is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.episodes import Agent, Cancelled, Heard, Meter, aloud
from fireact.errors import ConfigError, ContextError, FireactError, FormatError, missing_extra
from fireact.serving.voice import Voice, walk
from fireact.serving.wire import ChatRequest, Reply, event, failure, read_request
from fireact.types import Completion, Message, Step, answer_of

KEY = "FIREACT_API_KEY"
GRACE = 120
"""Seconds that what is in flight may take after a signal, before it is cut off."""
BODY_SECONDS = 30
"""Seconds in which the body of a request must have come."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_BODY = 4_000_000
"""Bytes; a longer request is refused before it is read."""
SERVED = ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/NAME", "GET /health")
THREADS = 256
"""Requests under way at a time; more wait their turn."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is served under which name: the student, and the agent that it was trained to be."""

    name: str
    agent: Agent
    max_body: int = MAX_BODY
    body_seconds: float = BODY_SECONDS
    key: str | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for; a student of native calls is served as the agent alone, whose tools it was trained with."""
        native = getattr(getattr(self.agent.method, "renderer", None), "native", False)
        return (f"{self.name}-agent",) if native else (self.name, f"{self.name}-agent")


Tell = Callable[[dict[str, str]], None]
"""Takes the deltas of a streamed reply as they come."""


def service(name: str, agent: Agent, *, host: str) -> Service:
    """The service of an agent. Raises ConfigError when it would be open to others without a key."""
    return Service(name, agent, key=key_for(host))


def key_for(host: str) -> str | None:
    """The key that clients must send, from the environment. Raises ConfigError beyond loopback without one."""
    key = os.environ.get(KEY, "").strip() or None
    if host not in LOOPBACK and key is None:
        raise ConfigError(
            f"{host} can be reached from other machines. Set {KEY} to a secret that clients must send, or leave out --host."
        )
    return key


def application(served: Service) -> Any:
    """The ASGI application. Raises ConfigError when the extra is missing."""
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise missing_extra("starlette", "serve") from error

    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    def refuse(status: int, message: str) -> Response:
        return JSONResponse(failure(message), status_code=status)

    def unserved(model: str) -> Response:
        return refuse(404, f"the model {model!r} is not served. Served: {', '.join(served.names)}")

    def refused(request: Request) -> Response | None:
        """Why a request is not answered: no key where one is asked for, else a name that is not this machine's.

        Without the second a page in the user's browser could have a name of its own point here and run the agent's tools.
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

    async def body(request: Request) -> bytes | None:
        """The body, or None when it is longer than allowed. Raises TimeoutError when the client stops sending it."""
        read = bytearray()
        async with asyncio.timeout(served.body_seconds):
            async for part in request.stream():
                read += part
                if len(read) > served.max_body:
                    return None
        return bytes(read)

    async def complete(request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        try:
            raw = await body(request)
        except TimeoutError:
            return refuse(408, f"the request did not come within {served.body_seconds:g} seconds")
        if raw is None:
            return refuse(413, f"the request is longer than {served.max_body} bytes")
        try:
            asked = read_request(raw)
        except FormatError as error:
            return refuse(400, str(error))
        if asked.model not in served.names:
            return unserved(asked.model)
        reply, asking = Reply(asked.model), Asking(served, asked)
        watch = asyncio.create_task(left(request, asking.left))
        if asked.stream:
            return StreamingResponse(_stream(asking, reply, threads, watch), media_type="text/event-stream")
        try:
            completion, extra = await asyncio.get_running_loop().run_in_executor(threads, asking.answer)
        except FireactError as error:
            return refuse(400 if isinstance(error, ConfigError | FormatError | ContextError) else 500, str(error))
        except Cancelled:
            return refuse(499, "the client left")
        except asyncio.CancelledError:
            return refuse(503, "the server was stopped before the answer was finished")
        except Exception as error:  # whatever it is, the client is told and the server goes on
            return refuse(500, f"{type(error).__name__}: {error}")
        finally:  # however it ends, nobody listens from here on
            asking.left.set()
            watch.cancel()
        return JSONResponse(reply.whole(completion, extra=extra))

    async def left(request: Request, gone: threading.Event) -> None:
        """Wait until the client closes the connection, and say so."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    listed = {name: {"id": name, "object": "model", "created": 0, "owned_by": "fireact"} for name in served.names}

    async def models(request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        return JSONResponse({"object": "list", "data": list(listed.values())})

    async def model(request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        found = listed.get(request.path_params["id"])
        return unserved(request.path_params["id"]) if found is None else JSONResponse(found)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return refuse(status, f"{request.method} {request.url.path} is not served. Served: {', '.join(SERVED)}")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{id:path}", model),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: lost},
    )


class Asking:
    """One request being answered, on a thread; once its client has ``left``, it ends with Cancelled at the next word."""

    def __init__(self, served: Service, asked: ChatRequest, tell: Tell = lambda delta: None) -> None:
        self.served, self.asked, self.tell = served, asked, tell
        self.left = threading.Event()

    def answer(self) -> tuple[Completion, dict[str, Any]]:
        """The reply, and what goes into its message besides the words."""
        return (self._student(), {}) if self.asked.model == self.served.name else self._agent()

    def _student(self) -> Completion:
        asked = self.asked
        options: dict[str, Any] = {"stop": asked.stop, "temperature": asked.temperature, "seed": asked.seed}
        if asked.max_tokens is not None:
            options["max_tokens"] = asked.max_tokens

        def heard(piece: str) -> None:
            if self.left.is_set():
                raise Cancelled
            self.tell({"content": piece})

        return aloud(self.served.agent.lm, asked.messages, heard, **options)

    def _agent(self) -> tuple[Completion, dict[str, Any]]:
        asked, agent = self.asked, self.served.agent
        question = next((one.content for one in reversed(asked.messages) if one.role == "user"), "")
        if not question.strip():
            raise FormatError("an agent is asked the last message of the role user; there is none")
        if asked.stop:
            raise FormatError("stop: an agent ends its turns itself. Leave it out.")
        steps, said = list[Step](), list[str]()

        def tell(piece: str) -> None:
            said.append(piece)
            self.tell({"reasoning_content": piece})

        voice = Voice(tell)
        meter = _Frugal(
            replace(agent, temperature=asked.temperature), self.left, most=asked.max_tokens, heard=voice.heard
        )
        for step in walk(agent, question, meter, seed=asked.seed):
            steps.append(step)
            voice.step(step)
            if not meter.left:
                break
        found = answer_of(steps)
        if found:
            self.tell({"content": found})
        completion = Completion(
            text=found or "",
            usage=meter.usage,
            finish="length" if found is None else "stop",
            seconds=meter.seconds,
        )
        return completion, {"reasoning_content": "".join(said)}


class _Frugal(Meter):
    """A meter that lets an episode write ``most`` tokens in all, where a number is given."""

    def __init__(self, agent: Agent, cancelled: threading.Event, *, most: int | None, heard: Heard) -> None:
        super().__init__(agent, cancelled, heard=heard)
        self._most, self._turn = most, agent.limits.max_tokens

    @property
    def left(self) -> int:
        """Tokens that the next turn may have; 0 when all are written."""
        return self._turn if self._most is None else max(0, min(self._turn, self._most - self.usage.completion_tokens))

    def complete(self, messages: Sequence[Message], **options: Any) -> Completion:
        return super().complete(messages, **{"max_tokens": max(1, self.left), **options})


async def _stream(asking: Asking, reply: Reply, threads: Executor, watch: asyncio.Task[None]) -> AsyncIterator[bytes]:
    """The events of a reply, as the words come from the thread that writes them."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[dict[str, str] | Completion | BaseException] = asyncio.Queue()

    def put(piece: dict[str, str] | Completion | BaseException) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    def work() -> None:
        try:
            put(asking.answer()[0])
        except BaseException as error:  # whatever it is, the client must not wait for ever
            put(error)

    asking.tell = put
    try:
        working = loop.run_in_executor(threads, work)
        yield reply.piece({"role": "assistant", "content": ""})
        while isinstance(piece := await pieces.get(), dict):
            yield reply.piece(piece)
        if isinstance(piece, Completion):
            yield reply.piece({}, finish=piece.finish)
            yield reply.last(piece.usage if asking.asked.stream_usage else None)
        else:
            said = str(piece) if isinstance(piece, FireactError) else f"{type(piece).__name__}: {piece}"
            yield event(failure(said, "server_error"))
        await working
    finally:  # however it ends, nobody listens from here on
        asking.left.set()
        watch.cancel()


def serve(served: Service, *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until a signal ends it; requests in flight are finished first. ``started`` is given the base URL.

    Raises ConfigError when the port is taken.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra("uvicorn", "serve") from error
    app = application(served)
    listening = bound(host, port)
    served.agent.lm.complete([Message("user", "Hello")], max_tokens=1)  # loads the weights before anybody waits
    started(f"http://{address(host, listening.getsockname()[1])}/v1")
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE)
    logging.getLogger("uvicorn.error").addFilter(_no_fault)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything in flight is finished
        uvicorn.Server(config).run(sockets=[listening])


def _no_fault(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's log is to be kept: that a shutdown cut off a request is no fault to trace."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def address(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigError when the port is taken."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on and each reply waits for an acknowledgement.
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # whoever is told the address may connect at once
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {address(host, port)}: {why}. Give another --port.") from error
    return listening
