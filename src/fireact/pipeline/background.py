"""Servers of this process for Python: an agent, or the page of some runs, on a thread until it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fireact.base.listening import bind_socket, bounded_http, host_and_port, is_loopback, required_key
from fireact.errors import ConfigError, ProviderError, missing_extra_error, unknown_name_error

if TYPE_CHECKING:
    import socket

    from fireact.rollout.agents import Model
    from fireact.rollout.episodes import Agent
    from fireact.serving.server import ServedAgent

ENGINES = ("transformers", "vllm")
GRACE = 30
"""Seconds that requests in flight get to finish when a server is stopped."""


class RunningServer:
    """A server on a thread; ``url`` is its address and ``names`` are the models that it serves.

    ``stop()``, the end of a ``with`` statement, or the end of the process ends it. ``wait()`` blocks until then.
    """

    def __init__(self, app: Any, listening: socket.socket, *, url: str, names: Sequence[str] = ()) -> None:
        try:
            import uvicorn
        except ImportError as error:
            raise missing_extra_error("uvicorn", "serve") from error
        self.url, self.names = url, tuple(names)
        self.on_stop = ExitStack()
        config = uvicorn.Config(
            app,
            http=bounded_http(),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="fireact-server", daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        if not self._server.started:
            raise ProviderError(f"the server at {url} did not start. Try again, or with another port.")

    @property
    def is_running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the server; requests in flight are finished first."""
        self._server.should_exit = True
        self._thread.join()
        self.on_stop.close()

    def wait(self) -> None:
        """Block until the server is stopped, by another thread or by Ctrl-C."""
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"<Server at {self.url}: {', '.join([state, *self.names])}>"

    def _repr_html_(self) -> str:
        link = f'<a href="{escape(self.url)}">{escape(self.url)}</a>' if self.is_running else "stopped"
        return f"<p><code>{escape(repr(self))}</code> {link}</p>"


@contextmanager
def open_engine(engine: str, agent: str, *, name: str, slots: int) -> Iterator[Model]:
    """The student of an agent, in this process or behind vLLM. Raises ConfigError for an unknown engine."""
    from fireact.rollout.agents import load_model
    from fireact.terminal.screen import TerminalProgress

    if engine not in ENGINES:
        raise unknown_name_error("engine", engine, ENGINES)
    if engine == "transformers":
        yield load_model(agent, slots=slots)
        return
    from fireact.serving.vllm import run_vllm

    with run_vllm(agent, name=name, slots=slots, say=TerminalProgress().say) as model:
        yield model


def equip_served_model(
    model: Model, task: str, tools: Sequence[str] | None, *, other_tools: bool, say: Callable[[str], None]
) -> tuple[Agent, bool]:
    """The agent around a model, and whether its tools are here; where they are not, the student is served alone."""
    from fireact.rollout.agents import build_agent, equip_model, load_task

    try:
        return equip_model(model, task, tools, other_tools=other_tools), True
    except ConfigError as error:
        if tools or model.training is None:
            raise
        say(f"The student is served without an agent around it: {error}")
        return build_agent(model, load_task(task), method="react", tools={}), False


def make_served_model(name: str, model: Model, agent: Agent, *, host: str, **options: Any) -> ServedAgent:
    """The served agent around a model, with what the model's training says of it.

    Raises ConfigError when other machines could use it without a key.
    """
    from fireact.serving.server import make_served_agent

    training = model.training
    prompts = {} if training is None else {"dropped": training.dropped, "known": training.known}
    return make_served_agent(name, agent, host=host, tuned=model.tuned, **prompts, **options)


def start_serving(
    agent: str,
    *,
    host: str,
    port: int,
    name: str,
    tools: Sequence[str] | None,
    task: str,
    slots: int,
    engine: str,
    aliases: Sequence[str] = (),
    other_tools: bool = False,
    constrain: bool = True,
    lenient: bool = False,
    strict: bool = False,
) -> RunningServer:
    """Serve a student and its agent to OpenAI clients. Raises ConfigError where others could use it without a key."""
    from fireact.serving.server import build_serving_app
    from fireact.terminal.screen import TerminalProgress
    from fireact.types import Call, Message

    required_key(host)  # before a model is loaded
    with ExitStack() as stack:
        model = stack.enter_context(open_engine(engine, agent, name=name, slots=slots))
        agent_around, runs_tools = equip_served_model(
            model, task, tools, other_tools=other_tools, say=TerminalProgress().say
        )
        served = make_served_model(
            name, model, agent_around, host=host, aliases=tuple(aliases), runs_tools=runs_tools, constrain=constrain,
            lenient=lenient, strict=strict,
        )  # fmt: skip
        app, listening = build_serving_app(served), bind_socket(host, port)
        stack.callback(listening.close)
        # loads the weights before the first request
        served.agent.lm.complete(Call([Message("user", "Hello")], max_tokens=1))
        url = f"http://{host_and_port(host, listening.getsockname()[1])}/v1"
        server = RunningServer(app, listening, url=url, names=served.names)
        server.on_stop = stack.pop_all()
        return server


def start_view(paths: Sequence[Path], *, host: str, port: int) -> RunningServer:
    """Serve the page of some runs. Raises DataError for a path that holds no run, ConfigError for a taken port."""
    from fireact.reporting.view import view_application

    key = required_key(host)
    app = view_application(paths, key=None if is_loopback(host) else key)
    listening = bind_socket(host, port)
    return RunningServer(app, listening, url=f"http://{host_and_port(host, listening.getsockname()[1])}/")
