"""Commands that use an agent: ask it, serve it."""

from __future__ import annotations

from typing import Annotated

import typer

from fireact.cli.values import AgentName, Json, LimitsTask, OtherTools, Tools


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
    from fireact.rollout.agents import load_agent
    from fireact.serving.stream import run_question
    from fireact.terminal.screen import STDERR, print_json, read_line
    from fireact.terminal.steps import StreamPrinter

    if question is None and as_json:
        raise ConfigError("--json needs a question. Leave it out to ask one question after the other.")
    chosen = load_agent(agent, task, tool, slots=1, other_tools=other_tools)
    if question is None:
        while line := read_line("Question: "):
            run_question(chosen, line, StreamPrinter())
        return
    trajectory = run_question(chosen, question, (lambda piece: None) if as_json else StreamPrinter())
    if as_json:
        steps = [step.to_dict() for step in trajectory.steps]
        print_json({"question": question, "answer": trajectory.answer, "steps": steps})
    elif trajectory.answer is None:
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
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse prompts and tools other than those of the recording.")
    ] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Serve the agent as an MCP tool on standard input and output.")
    ] = False,
) -> None:
    """Example: `fireact serve runs/quickstart --port 8000`, then base_url="http://127.0.0.1:8000/v1" and
    model="fireact-agent"
    """
    from fireact.base.listening import required_key
    from fireact.errors import ConfigError
    from fireact.pipeline.background import equip_served_model, make_served_model, open_engine
    from fireact.serving.server import run_server
    from fireact.terminal.screen import STDERR, TerminalProgress

    if not mcp:
        required_key(host)  # before a model is loaded
    with open_engine(engine, agent, name=name, slots=slots) as model:
        chosen, runs_tools = equip_served_model(model, task, tool, other_tools=other_tools, say=TerminalProgress().say)
        if mcp:
            from fireact.serving.mcp import build_mcp_server

            if not runs_tools:
                raise ConfigError("--mcp serves the agent, whose tools are not here. Name them with --tool.")

            build_mcp_server(name, chosen).run()
            return
        served = make_served_model(
            name, model, chosen, host=host, aliases=tuple(alias or ()), runs_tools=runs_tools, constrain=constrain,
            lenient=lenient, strict=strict,
        )  # fmt: skip

        def started(url: str) -> None:
            STDERR.print(f"Serving {', '.join(served.names)} at {url} (Ctrl-C ends it).", markup=False)

        run_server(served, host=host, port=port, started=started)
