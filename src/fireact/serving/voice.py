"""An agent is asked a question that belongs to no task, and what it does is told while it does it.

Invariant: what is told, put together, is each turn in the LM's own words (native calls in their text form), then what
was observed. It keeps nothing and scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from fireact.episodes import Agent, Meter
from fireact.errors import ConfigError, FireactError, ProviderError
from fireact.render.react import OBSERVATION, turn
from fireact.types import Step


class Voice:
    """Tells an episode: words as they are ``heard`` by a Meter, and the rest of each step once there is one."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._heard = tell, False

    def heard(self, piece: str) -> None:
        self._heard = True
        self._tell(piece)

    def step(self, step: Step) -> None:
        self._tell(_observed(step) if self._heard else told(step))
        self._heard = False


def ask(agent: Agent, question: str, tell: Callable[[str], None]) -> list[Step]:
    """The steps of an agent on a question, told as they come.

    Raises ProviderError where a tool or the LM fails, ConfigError for a question without words.
    """
    if not question.strip():
        raise ConfigError("the question is empty. Give the question in words.")
    voice, steps = Voice(tell), list[Step]()
    for step in walk(agent, question, Meter(agent, heard=voice.heard)):
        steps.append(step)
        voice.step(step)
    return steps


def walk(agent: Agent, question: str, meter: Meter, *, seed: int = 0) -> Iterator[Step]:
    """The steps of an agent on a question that belongs to no task. Raises ProviderError where a tool or the LM fails."""
    try:
        tools = meter.tools(f"ask/{question}", seed)
        yield from islice(agent.method.run(question, meter, tools, seed), agent.limits.max_steps)
    except FireactError:
        raise
    except Exception as fault:  # a tool of the user's may raise anything; there is no trajectory to keep it in
        raise ProviderError(f"the episode ended in a fault: {type(fault).__name__}: {fault}") from fault


def told(step: Step) -> str:
    """A step in words: the student's turn, and what was observed."""
    return turn(step) + _observed(step)


def _observed(step: Step) -> str:
    return "\n" if step.observation is None else f"\n{OBSERVATION} {step.observation}\n"
