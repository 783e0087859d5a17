"""Runs an agent on a question that belongs to no task, and streams its steps as text.

Invariant: the streamed text is each turn as the LM wrote it (native calls in their text form), then its observation.
This module stores nothing and scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from fireact.errors import ConfigError, FireactError, ProviderError
from fireact.render.react import OBSERVATION, render_turn
from fireact.rollout.episodes import Agent, MeteredLM, find_stop_reason
from fireact.types import Example, Step, Trajectory


class EpisodeStream:
    """Streams an episode as text: the deltas of each turn (``on_delta``), then the rest of each step (``on_step``)."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text, self._has_streamed = on_text, False

    def on_delta(self, delta: str) -> None:
        self._has_streamed = True
        self._on_text(delta)

    def on_step(self, step: Step) -> None:
        self._on_text(_render_observation(step) if self._has_streamed else render_step(step))
        self._has_streamed = False


def ask_agent(agent: Agent, question: str, on_text: Callable[[str], None]) -> list[Step]:
    """The steps of an agent on a question; their text goes to ``on_text`` as it comes.

    Raises ProviderError where a tool or the LM fails, ConfigError for an empty question.
    """
    return list(run_question(agent, question, on_text).steps)


def run_question(agent: Agent, question: str, on_text: Callable[[str], None]) -> Trajectory:
    """The trajectory of an agent on a question of the task ``ask``, like ``ask_agent``; it has no scores."""
    if not question.strip():
        raise ConfigError("the question is empty. Give the question in words.")
    stream, steps = EpisodeStream(on_text), list[Step]()
    meter = MeteredLM(agent, on_delta=stream.on_delta)
    for step in iterate_steps(agent, question, meter):
        steps.append(step)
        stream.on_step(step)
    return Trajectory(
        task="ask", example=Example("question", question, ""), method=agent.method.name, model=agent.lm.name, seed=0,
        steps=tuple(steps), stop=find_stop_reason(steps, agent.limits), scores={}, usage=meter.usage,
        seconds=meter.seconds,
    )  # fmt: skip


def iterate_steps(agent: Agent, question: str, meter: MeteredLM, *, seed: int = 0) -> Iterator[Step]:
    """The steps of an agent on a question of no task. Raises ProviderError where a tool or the LM fails."""
    try:
        tools = meter.timed_tools(f"ask/{question}", seed)
        yield from islice(agent.method.run(question, meter, tools, seed), agent.limits.max_steps)
    except FireactError:
        raise
    except Exception as fault:  # a user's tool may raise anything; there is no trajectory to store it in
        raise ProviderError(f"the episode ended in a fault: {type(fault).__name__}: {fault}") from fault


def render_step(step: Step) -> str:
    """A step as text: the student's turn and the observation."""
    return render_turn(step) + _render_observation(step)


def _render_observation(step: Step) -> str:
    return "\n" if step.observation is None else f"\n{OBSERVATION} {step.observation}\n"
