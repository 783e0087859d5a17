"""Commands that use an agent: ask it, serve it; and one that writes a job of any verb."""

from __future__ import annotations

from fireact.cli.running import CommandCall, run_until_signal
from fireact.errors import ConfigError
from fireact.terminal.screen import STDERR, TerminalProgress, print_json, read_line


def ask_command(call: CommandCall) -> None:
    """Print the steps of an answer as they come; without a question, of one answer after the other."""
    from fireact.rollout.agents import load_agent
    from fireact.serving.stream import run_question
    from fireact.terminal.steps import StreamPrinter

    config = call.config
    question = config.question
    if question is None and call.as_json:
        raise ConfigError("--json needs a question. Leave it out to ask one question after the other.")
    agent = load_agent(config.agent, config.task, config.tools, slots=1, other_tools=config.other_tools)
    if question is None:
        while line := read_line("Question: "):
            run_question(agent, line, StreamPrinter())
        return
    trajectory = run_question(agent, question, (lambda piece: None) if call.as_json else StreamPrinter())
    if call.as_json:
        steps = [step.to_dict() for step in trajectory.steps]
        print_json({"question": question, "answer": trajectory.answer, "steps": steps})
    elif trajectory.answer is None:
        STDERR.print(f"No answer within {agent.limits.max_steps} steps.")


def launch_command(call: CommandCall) -> None:
    """Print the script of a job, once the options of its verb are known to be right."""
    from fireact.cli import build_command
    from fireact.pipeline.jobs import write_job

    script = write_job(call.config).value
    verb, *words = call.config.words
    build_command(verb, "", None).make_context(verb, words)
    print(script)


def serve_command(call: CommandCall) -> None:
    """Serve an agent until a signal comes, or as an MCP tool until its client leaves."""
    from fireact.serving.service import run_mcp_service, start_serving

    say = TerminalProgress().say
    if call.options.mcp:
        run_mcp_service(call.config, say=say)
        return
    server = start_serving(call.config, say=say)
    run_until_signal(server, lambda url: f"Serving {', '.join(server.names)} at {url}")
