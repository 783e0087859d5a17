"""``fireact serve --mcp``: the agent as one tool of an MCP server, on standard input and output."""

from __future__ import annotations

from typing import Any

from fireact.errors import missing_extra_error
from fireact.rollout.episodes import Agent, MeteredLM
from fireact.serving.stream import iterate_steps, render_step
from fireact.types import answer_of


def build_mcp_server(name: str, agent: Agent) -> Any:
    """The server; ``run()`` serves until its input ends. Raises ConfigError when the extra is missing."""
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError as error:
        raise missing_extra_error("mcp", "mcp") from error
    server = MCPServer(name, instructions="Ask the agent a question; it looks things up with its own tools.")

    def ask(question: str) -> str:
        """Ask the agent one question and get its answer."""
        steps = list(iterate_steps(agent, question, MeteredLM(agent)))
        answer = answer_of(steps)
        return answer if answer is not None else "No answer was found.\n" + "".join(map(render_step, steps))

    server.add_tool(ask, structured_output=False)
    return server
