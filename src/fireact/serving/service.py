"""Serving an agent from its name: the settings of ``serve``, the engine, the agent around the student, the server.

Invariant: nothing is loaded before it is clear that the server may answer on its address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass

from fireact.base.listening import RunningServer, bind_socket, required_key, socket_address
from fireact.base.settings import AGENT, CheckedSettings, check_settings, setting
from fireact.errors import ConfigError, unknown_name_error
from fireact.render.requests import RecordedRenderer
from fireact.rollout.agents import build_agent, equip_model
from fireact.rollout.episodes import Agent
from fireact.rollout.loading import load_task
from fireact.rollout.models import Model, load_model
from fireact.types import Call, Message

ENGINES = ("transformers", "vllm")
HOST_HELP = "Address to listen on; beyond loopback FIREACT_API_KEY must be set."
GRACE = 120
"""Seconds that requests in flight may take after a signal before they are cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUse(CheckedSettings):
    """How a trained agent is equipped where it is asked or served."""

    tools: Sequence[str] | None = setting(None, flags=("--tool",), panel=AGENT)
    """Tool, by name or module:attribute; repeatable."""
    other_tools: bool = setting(False, panel=AGENT)
    """Run a student with other tools than it was trained with."""
    task: str = setting("geo-hop", flags=("-t", "--task"), panel=AGENT)
    """Task that supplies the step limits, and the few-shot examples of a prompted agent."""


@dataclass(frozen=True, slots=True)
class ServeConfig(AgentUse):
    """Settings of ``serve``."""

    agent: str = setting("runs/quickstart", metavar="AGENT")
    """A directory of 'fireact train', or a model."""
    _: KW_ONLY
    host: str = setting("127.0.0.1", help=HOST_HELP)
    port: int = 8000
    """Port; 0 takes a free one."""
    name: str = "fireact"
    """Name of the model; NAME-agent is the agent with its tools."""
    aliases: Sequence[str] = setting((), flags=("--alias",))
    """Further name of the model, such as gpt-4o; repeatable."""
    slots: int = 16
    """Sequences generated in parallel."""
    engine: str = "transformers"
    """transformers, in this process; or vllm, started beside it (for GPUs)."""
    constrain: bool = setting(True, flags=("--constrain/--no-constrain",))
    """Let the student write only calls and JSON that fit the request's schemas."""
    lenient: bool = setting(False)
    """Ignore fields that cannot be served, and name them in a header."""
    strict: bool = setting(False)
    """Refuse prompts and tools other than those of the recording."""

    def __post_init__(self) -> None:
        check_settings(self, "serve")
        if self.engine not in ENGINES:
            raise unknown_name_error("engine", self.engine, ENGINES)


@contextmanager
def _open_engine(config: ServeConfig, say: Callable[[str], None]) -> Iterator[Model]:
    """The student of an agent, in this process or behind vLLM."""
    if config.engine == "transformers":
        yield load_model(config.agent, slots=config.slots)
        return
    from fireact.serving.vllm import run_vllm

    with run_vllm(config.agent, name=config.name, slots=config.slots, say=say) as model:
        yield model


def _equip_served_model(model: Model, config: ServeConfig, say: Callable[[str], None]) -> tuple[Agent, bool]:
    """The agent around a model, and whether its tools are here; where they are not, the student is served alone."""
    try:
        agent = equip_model(model, config.task, config.tools, other_tools=config.other_tools)
        return agent, bool(agent.tools) or model.renderer != RecordedRenderer.name
    except ConfigError as error:
        if config.tools or model.training is None:
            raise
        say(f"The student is served without an agent around it: {error}")
        return build_agent(model, load_task(config.task), method="react", tools={}), False


def start_serving(config: ServeConfig, *, say: Callable[[str], None]) -> RunningServer:
    """Serve a student and its agent to OpenAI clients. Raises ConfigError where others could use it without a key."""
    from fireact.serving.served_agent import make_served_agent
    from fireact.serving.server import build_serving_app

    host = config.host
    required_key(host)
    with ExitStack() as stack:
        model = stack.enter_context(_open_engine(config, say))
        agent, runs_tools = _equip_served_model(model, config, say)
        training = model.training
        prompts = {} if training is None else {"dropped": training.dropped, "known": training.known}
        served = make_served_agent(
            config.name, agent, host=host, aliases=tuple(config.aliases), tuned=model.tuned, runs_tools=runs_tools,
            constrain=config.constrain, lenient=config.lenient, strict=config.strict, **prompts,
        )  # fmt: skip
        app, listening = build_serving_app(served), bind_socket(host, config.port)
        stack.callback(listening.close)
        # loads the weights before the first request
        served.agent.lm.complete(Call([Message("user", "Hello")], max_tokens=1))
        url = f"{socket_address(host, listening)}/v1"
        server = RunningServer(app, listening, url=url, names=served.names, grace=GRACE)
        server.on_stop = stack.pop_all()
        return server


def run_mcp_service(config: ServeConfig, *, say: Callable[[str], None]) -> None:
    """Serve an agent as an MCP tool on standard input and output, until its client leaves."""
    from fireact.serving.mcp import build_mcp_server

    with _open_engine(config, say) as model:
        agent, runs_tools = _equip_served_model(model, config, say)
        if not runs_tools:
            raise ConfigError("--mcp serves the agent, whose tools are not here. Name them with --tool.")
        build_mcp_server(config.name, agent).run()
