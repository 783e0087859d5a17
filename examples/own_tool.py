"""A tool of your own: a typed function with a docstring.

From the command line: fireact eval runs/train --tool examples.own_tool:capital
"""

from typing import Literal

from fireact.methods.react import ReAct
from fireact.models.replies import Replies
from fireact.rollout.agents import load_tools
from fireact.rollout.episodes import Agent, Episode, run_episode
from fireact.types import Example, Limits

CAPITALS = {"en": {"Norway": "Oslo", "Peru": "Lima"}, "es": {"Noruega": "Oslo", "Perú": "Lima"}}


def capital(country: str, language: Literal["en", "es"] = "en") -> str:
    """Tells the capital of a country.

    Args:
        country: its name
        language: of the name
    """
    return CAPITALS[language].get(country, "not known")


class Quiz:
    name = "quiz"
    limits = Limits(max_steps=3)

    def examples(self, split: str) -> list[Example]:
        return [Example("1", "What is the capital of Peru?", "Lima")]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        right = float(answer == example.answer)
        return {"em": right, "f1": right}


if __name__ == "__main__":
    task = Quiz()
    lm = Replies(
        [
            'Thought: I look it up.\nAction: capital[{"country": "Peru", "language": "en"}]',
            "Thought: It is Lima.\nAction: finish[Lima]",
        ]
    )
    agent = Agent(lm=lm, method=ReAct(), tools=load_tools(["__main__:capital"]), limits=task.limits)
    print(run_episode(Episode(task=task, example=task.examples("test")[0], agent=agent)))
