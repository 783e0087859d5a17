"""A tool of any MCP server: this file is a server with one tool, and an agent that calls it, also when it fails at
times.

From the command line: fireact eval runs/train --tool "mcp:python examples/mcp_tool.py serve"
"""

import shlex
import sys

from fireact.methods.react import ReAct
from fireact.models.replies import Replies
from fireact.rollout.episodes import Agent, Episode, run_episode
from fireact.rollout.loading import load_tools
from fireact.types import Example, Limits


def serve() -> None:
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("capitals", version="1")

    @server.tool()
    def search(query: str) -> str:
        """Tells the capital of a country."""
        return {"Norway": "Oslo", "Peru": "Lima"}.get(query, "not known")

    server.run()


class Quiz:
    name = "quiz"
    limits = Limits(max_steps=3)

    def examples(self, split: str) -> list[Example]:
        return [Example("1", "What is the capital of Peru?", "Lima")]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        right = float(answer == example.answer)
        return {"em": right, "f1": right}


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        command = shlex.join([sys.executable, __file__, "serve"])
        lm = Replies(["Thought: I look it up.\nAction: search[Peru]", "Thought: It is Lima.\nAction: finish[Lima]"])
        for spec in (f"mcp:{command}", f"noise:none=1:mcp:{command}"):
            agent = Agent(lm=lm, method=ReAct(), tools=load_tools([spec]), limits=Quiz.limits)
            done = run_episode(Episode(task=Quiz(), example=Quiz().examples("test")[0], agent=agent))
            print(done.steps[0].observation, done.steps[0].noise, done.answer)
