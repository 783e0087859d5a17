"""Runs episodes: the one place of concurrency, limits, metering, scoring and the handling of faults.

Invariant: every episode that starts becomes one Trajectory, whatever happens in it; a fault of the infrastructure has
the stop ``error`` and no scores. Each episode advances on its own thread and carries only what it needs; the caller
alone saves. An episode's seconds are those of its LM and tool calls. Methods know nothing of this module.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from fireact.errors import BudgetError, ConfigError
from fireact.methods.react import finished
from fireact.tasks.scoring import scores_of
from fireact.tools.noise import for_episode
from fireact.types import LM, Completion, Example, Limits, Message, Method, Step, Stop, Task, Tool, Trajectory, Usage


@dataclass(frozen=True, slots=True)
class Agent:
    """Who acts: a method that prompts an LM, with tools, within limits."""

    lm: LM
    method: Method
    tools: Mapping[str, Tool]
    limits: Limits = field(default_factory=Limits)
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Episode:
    """One question for one agent; ``seed`` feeds every draw in it."""

    task: Task
    example: Example
    agent: Agent
    seed: int = 0

    @property
    def key(self) -> str:
        """The key of the Trajectory that it will become."""
        return f"{self.task.name}/{self.example.id}/{self.agent.method.name}/{self.seed}"


class Cancelled(BaseException):
    """Ends an episode from inside because the run is being stopped; never stored."""


Heard = Callable[[str], None]
"""Takes the words of an LM piece by piece; what it raises ends the text."""


class Meter:
    """An LM for one episode: fills in its limits, counts its usage and seconds, and refuses to go on once cancelled.

    Where somebody listens, ``heard`` is given the words of each turn as they are written; native calls are no words.
    """

    def __init__(self, agent: Agent, cancelled: threading.Event | None = None, *, heard: Heard | None = None) -> None:
        self.name = agent.lm.name
        self.usage = Usage()
        self.seconds = 0.0
        self._agent = agent
        self._cancelled = cancelled or threading.Event()
        self._heard = heard

    def complete(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        tools: Sequence[Tool] = (),
    ) -> Completion:
        if self._cancelled.is_set():
            raise Cancelled
        silent = self._heard is None or bool(tools)
        completion = (self._agent.lm.complete if silent else self._aloud)(
            messages,
            stop=stop,
            max_tokens=self._agent.limits.max_tokens if max_tokens is None else max_tokens,
            temperature=self._agent.temperature if temperature is None else temperature,
            seed=seed,
            tools=tools,
        )
        self.usage += completion.usage
        self.seconds += completion.seconds
        return completion

    def _aloud(self, messages: Sequence[Message], **options: Any) -> Completion:
        def hear(piece: str) -> None:
            if self._cancelled.is_set():
                raise Cancelled
            if self._heard is not None:
                self._heard(piece)

        return aloud(self._agent.lm, messages, hear, **options)

    def tools(self, key: str, seed: int) -> dict[str, Tool]:
        """The agent's tools as this episode uses them, their seconds counted."""
        return {name: _Timed(for_episode(tool, key, seed), self) for name, tool in self._agent.tools.items()}


def aloud(lm: LM, messages: Sequence[Message], heard: Heard, **options: Any) -> Completion:
    """Complete a chat; its words go to ``heard`` as they are written, or at once where the LM knows no such thing."""
    told = 0

    def hear(piece: str) -> None:
        nonlocal told
        told += len(piece)
        heard(piece)

    complete: Callable[..., Completion] = lm.complete
    listens = {"heard": hear} if "heard" in inspect.signature(complete).parameters else {}
    completion = complete(messages, **options, **listens)
    if rest := completion.text[told:]:
        heard(rest)
    return completion


@dataclass(frozen=True, slots=True)
class _Timed:
    """A tool that adds its seconds to an episode's; those of a replayed call are the recorded ones."""

    tool: Tool
    meter: Meter

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def description(self) -> str:
        return self.tool.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.tool.parameters

    def __call__(self, **arguments: Any) -> str:
        started = time.perf_counter()
        said = self.tool(**arguments)
        recorded: float | None = getattr(said, "seconds", None)
        self.meter.seconds += time.perf_counter() - started if recorded is None else recorded
        return said


def rollout(episodes: Iterable[Episode], *, workers: int = 16) -> Iterator[Trajectory]:
    """Run episodes, ``workers`` at a time, and yield each Trajectory as it ends; closing the iterator stops them all."""
    waiting = iter(episodes)
    cancelled = threading.Event()
    running: set[Future[Trajectory]] = set()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="episode")
    try:
        while True:
            fresh = islice(waiting, workers - len(running))
            running |= {pool.submit(run_episode, episode, cancelled) for episode in fresh}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        cancelled.set()
        pool.shutdown(wait=False, cancel_futures=True)


def run_episode(episode: Episode, cancelled: threading.Event | None = None) -> Trajectory:
    """Run one episode to its end and score it.

    Raises ConfigError (a task that cannot score its question, too) and BudgetError, which would end every episode in the same
    way; anything else that a tool, an
    endpoint or a user's method does is kept as data.
    """
    agent, seed = episode.agent, episode.seed
    meter = Meter(agent, cancelled)
    steps: list[Step] = []
    error = None
    try:
        tools = meter.tools(f"{episode.task.name}/{episode.example.id}", seed)
        found = agent.method.run(episode.example.question, meter, tools, seed)  # never the gold answer
        for step in islice(found, agent.limits.max_steps):
            steps.append(step)
    except (ConfigError, BudgetError):
        raise
    except Exception as fault:
        error = f"{type(fault).__name__}: {fault}"
    trajectory = Trajectory(
        task=episode.task.name,
        example=episode.example,
        method=agent.method.name,
        model=agent.lm.name,
        seed=seed,
        steps=tuple(steps),
        stop=_stop(steps, agent.limits, error),
        scores={},
        usage=meter.usage,
        seconds=meter.seconds,
        error=error,
    )
    return trajectory if error else trajectory.with_scores(scores_of(episode.task, episode.example, trajectory.answer))


def _stop(steps: Sequence[Step], limits: Limits, error: str | None) -> Stop:
    if error:
        return "error"
    if steps and finished(steps[-1]):
        return "finish"
    return "max_steps" if len(steps) >= limits.max_steps else "format"
