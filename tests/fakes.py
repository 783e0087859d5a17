"""A small task, tool and LM for the tests of everything that is not about the embedded world."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fireact.methods.react import ReAct
from fireact.models.replies import Replies
from fireact.rollout.episodes import Agent, Episode
from fireact.types import Call, Completion, Example, Limits, Step, Trajectory, Usage

LIMITS = Limits(max_steps=4, max_tokens=32, reflect_at=(2,))


@dataclass(frozen=True)
class Echo:
    """A tool that says what it was asked, or fails."""

    name: str = "search"
    description: str = "says it back"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"properties": {"query": {}}, "required": ["query"]})

    def __call__(self, **arguments: Any) -> str:
        if arguments["query"] == "broken":
            raise OSError("the tool is down")
        return f"You said {arguments['query']}."


@dataclass(frozen=True)
class Small:
    """Numbered questions whose answer is "a"."""

    name: str = "small"
    limits: Limits = LIMITS

    def examples(self, split: str) -> Sequence[Example]:
        return [Example(f"{split}-{index}", f"Question {index}?", "a") for index in range(200)]

    def score(self, example: Example, answer: str | None) -> dict[str, float]:
        return {"em": float(answer == example.answer), "f1": float(answer == example.answer)}


GOOD = ("Thought: look\nAction: search[x]", "Thought: done\nAction: finish[a]")


def agent(*replies: str, limits: Limits = LIMITS) -> Agent:
    return Agent(lm=Replies(replies or GOOD), method=ReAct(), tools={"search": Echo()}, limits=limits)


def episodes(n: int, *replies: str) -> list[Episode]:
    task, who = Small(), agent(*replies)
    return [Episode(task=task, example=example, agent=who) for example in task.examples("train")[:n]]


class Slow:
    """An LM that takes an hour for each answer."""

    name = "slow"

    def complete(self, call: Call) -> Completion:
        for _ in range(0 if call.max_tokens == 1 else 36_000):
            time.sleep(0.1)
            if call.on_delta is not None:
                call.on_delta("on ")
        return Completion("on", Usage(1, 1, 0, 1), "stop", 3600.0)


def trajectory(
    index: int = 0, *, em: float = 1.0, task: str = "small", method: str = "react", steps: int = 1
) -> Trajectory:
    example = Example(f"train-{index}", f"Question {index}?", "a")
    found = tuple(Step(f"thought {number}", None, None, f"thought {number}") for number in range(steps))
    return Trajectory(task, example, method, "m", 0, found, "finish", {"em": em, "f1": em}, Usage(1, 2, 0, 3), 0.5)
