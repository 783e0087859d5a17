"""A tool of your own: anything with a name, a description, JSON-schema parameters and a call that returns text.

From the command line: fireact eval runs/train --tool examples.own_tool:Capitals
"""

from fireact.episodes import Agent, Episode, run_episode
from fireact.methods.react import ReAct
from fireact.models.replies import Replies
from fireact.types import Example, Limits


class Capitals:
    name = "search"
    description = "tells the capital of a country"
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}  # noqa: RUF012

    def __call__(self, query: str) -> str:
        return {"Norway": "Oslo", "Peru": "Lima"}.get(query, "not known")


class Quiz:
    name = "quiz"
    limits = Limits(max_steps=3)

    def examples(self, split: str) -> list[Example]:
        return [Example("1", "What is the capital of Peru?", "Lima")]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        right = float(answer == example.answer)
        return {"em": right, "f1": right}


if __name__ == "__main__":
    tool, task = Capitals(), Quiz()
    lm = Replies(["Thought: I look it up.\nAction: search[Peru]", "Thought: It is Lima.\nAction: finish[Lima]"])
    agent = Agent(lm=lm, method=ReAct(), tools={tool.name: tool}, limits=task.limits)
    print(run_episode(Episode(task=task, example=task.examples("test")[0], agent=agent)))
