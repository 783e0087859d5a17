"""Commands that use an agent: ask it, serve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from fireact.cli.values import AgentName, Json, LimitsTask, OtherTools, Tools

ENGINES = ("transformers", "vllm")


def ask_command(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question. Without it, each line that is typed is one.")
    ] = None,
    agent: AgentName = "runs/quickstart",
    tool: Tools = None,
    other_tools: OtherTools = False,
    task: LimitsTask = "geo-hop",
    as_json: Json = False,
) -> None:
    """Each question is answered on its own. End with Ctrl-D or an empty line.

    Example: `fireact ask "What is the currency of the country whose capital is Tashkent?" -a runs/quickstart`
    """
    from fireact.errors import ConfigError
    from fireact.serving.stream import ask_agent
    from fireact.terminal.screen import STDERR, print_json, read_line
    from fireact.terminal.steps import StreamPrinter
    from fireact.types import answer_of

    if question is None and as_json:
        raise ConfigError("--json needs a question. Leave it out to ask one question after the other.")
    chosen = _load_agent(agent, task, tool, other_tools=other_tools)
    if question is None:
        while line := read_line("Question: "):
            ask_agent(chosen, line, StreamPrinter())
        return
    steps = ask_agent(chosen, question, (lambda piece: None) if as_json else StreamPrinter())
    answer = answer_of(steps)
    if as_json:
        print_json({"question": question, "answer": answer, "steps": [step.to_dict() for step in steps]})
    elif answer is None:
        STDERR.print(f"No answer within {chosen.limits.max_steps} steps.")


def serve_command(
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", help="A directory of 'fireact train', or a model.")
    ] = "runs/quickstart",
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback FIREACT_API_KEY must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[str, typer.Option(help="Name of the model; NAME-agent is the agent with its tools.")] = "fireact",
    alias: Annotated[
        list[str] | None, typer.Option("--alias", help="Further name of the model, such as gpt-4o; repeatable.")
    ] = None,
    tool: Tools = None,
    other_tools: OtherTools = False,
    task: LimitsTask = "geo-hop",
    slots: Annotated[int, typer.Option(help="Texts that are written at a time.")] = 16,
    engine: Annotated[
        str, typer.Option(help="transformers, in this process; or vllm, started beside it (for GPUs).")
    ] = "transformers",
    constrain: Annotated[
        bool, typer.Option(help="Let the student write only calls and JSON that fit the request's schemas.")
    ] = True,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Ignore fields that cannot be served, and name them in a header.")
    ] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Serve the agent as an MCP tool on standard input and output.")
    ] = False,
) -> None:
    """Example: `fireact serve runs/quickstart --port 8000`, then base_url="http://127.0.0.1:8000/v1" and
    model="fireact-agent"
    """
    from fireact.serving.server import make_served_agent, required_key, run_server
    from fireact.terminal.screen import STDERR

    if not mcp:
        required_key(host)  # before a model is loaded
    with _open_engine(engine, agent, name=name, slots=slots) as model:
        chosen, runs_tools = _build_served_agent(model, task, tool, other_tools=other_tools)
        if mcp:
            from fireact.serving.mcp import build_mcp_server

            build_mcp_server(name, chosen).run()
            return
        served = make_served_agent(
            name, chosen, host=host, aliases=tuple(alias or ()), tuned=model.tuned, runs_tools=runs_tools,
            constrain=constrain, lenient=lenient,
        )  # fmt: skip

        def started(url: str) -> None:
            STDERR.print(f"Serving {', '.join(served.names)} at {url} (Ctrl-C ends it).")

        run_server(served, host=host, port=port, started=started)


@contextmanager
def _open_engine(engine: str, agent: str, *, name: str, slots: int) -> Iterator[Any]:
    """The student of an agent, in this process or behind vLLM."""
    from fireact.errors import unknown_name_error
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


def _load_agent(model: str, task: str, tools: list[str] | None, *, other_tools: bool) -> Any:
    from fireact.rollout.agents import load_model

    return _build_agent(load_model(model, slots=1), task, tools, other_tools=other_tools)


def _build_served_agent(model: Any, task: str, tools: list[str] | None, *, other_tools: bool) -> tuple[Any, bool]:
    """The agent around a model, and whether its tools are here; without them the student is served alone."""
    from fireact.errors import ConfigError
    from fireact.rollout.agents import build_agent, load_task
    from fireact.terminal.screen import STDERR

    try:
        return _build_agent(model, task, tools, other_tools=other_tools), True
    except ConfigError as error:
        if tools or model.training is None:
            raise
        STDERR.print(f"The student is served without an agent around it: {error}")
        return build_agent(model, load_task(task), method="react", tools={}), False


def _build_agent(model: Any, task: str, tools: list[str] | None, *, other_tools: bool = False) -> Any:
    from fireact.rollout.agents import build_agent, equip_student, load_task

    equipped = equip_student(model, tools or (), other_tools=other_tools)
    return build_agent(model, load_task(task), method="react", tools=equipped)
