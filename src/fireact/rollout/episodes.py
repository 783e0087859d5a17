"""Runs episodes: the one place of concurrency, limits, metering, scoring and the handling of faults.

Invariant: every episode that starts becomes one Trajectory, whatever happens in it; an infrastructure fault gives the
stop ``error`` and no scores. Each episode runs on its own thread and carries only what it needs; only the caller
saves. The seconds of an episode are those of its LM and tool calls. Methods know nothing of this module.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from fireact.base.redact import excerpt, redact
from fireact.errors import BudgetError, ConfigError, DiskError, PromptError
from fireact.methods.react import is_finished
from fireact.tasks.scoring import score_answer
from fireact.tools.wrapper import ToolWrapper, make_episode_tool
from fireact.types import (
    LM,
    Call,
    Completion,
    Example,
    Limits,
    Method,
    OnDelta,
    Step,
    Stop,
    Task,
    Tool,
    Trajectory,
    Usage,
    name_episode,
)


@dataclass(frozen=True, slots=True)
class Agent:
    """A method that prompts an LM, with tools, within limits."""

    lm: LM
    method: Method
    tools: Mapping[str, Tool]
    limits: Limits = field(default_factory=Limits)
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Episode:
    """One example for one agent; ``seed`` seeds every random choice in it, ``meta`` becomes that of its trajectory."""

    task: Task
    example: Example
    agent: Agent
    seed: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the Trajectory that it will become."""
        return name_episode(self.task.name, self.example.id, self.agent.method.name, self.seed)


class Cancelled(BaseException):
    """Ends an episode from inside because the run is being stopped; never stored."""


class MeteredLM:
    """An LM for one episode: fills in its limits, counts its usage and seconds, and raises once cancelled.

    ``on_delta``, where given, receives the text of each turn as it is written; native tool calls are not streamed.
    """

    def __init__(
        self, agent: Agent, cancelled: threading.Event | None = None, *, on_delta: OnDelta | None = None
    ) -> None:
        self.name = agent.lm.name
        self.usage = Usage()
        self.seconds = 0.0
        self._agent = agent
        self._cancelled = cancelled or threading.Event()
        self._on_delta = on_delta

    def complete(self, call: Call) -> Completion:
        if self._cancelled.is_set():
            raise Cancelled
        limited_call = replace(
            call,
            max_tokens=self._agent.limits.max_tokens if call.max_tokens is None else call.max_tokens,
            temperature=self._agent.temperature if call.temperature is None else call.temperature,
            on_delta=call.on_delta if self._on_delta is None or call.tools else self._forward_delta,
        )
        completion = complete_streaming(self._agent.lm, limited_call)
        self.usage += completion.usage
        self.seconds += completion.seconds
        if completion.finish == "refused":
            raise PromptError(f"{self.name} refused to answer: {excerpt(completion.text, 500)}")
        return completion

    def _forward_delta(self, delta: str) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        if self._on_delta is not None:
            self._on_delta(delta)

    def timed_tools(self, key: str, seed: int) -> dict[str, Tool]:
        """The agent's tools as this episode uses them, with their seconds counted."""
        return {name: _TimedTool(make_episode_tool(tool, key, seed), self) for name, tool in self._agent.tools.items()}


def complete_streaming(lm: LM, call: Call) -> Completion:
    """Complete a call; ``call.on_delta`` gets all of the text: at the end what the LM did not stream."""
    on_delta = call.on_delta
    if on_delta is None:
        return lm.complete(call)
    streamed_chars = 0

    def forward_delta(delta: str) -> None:
        nonlocal streamed_chars
        streamed_chars += len(delta)
        on_delta(delta)

    completion = lm.complete(replace(call, on_delta=forward_delta))
    if remaining_text := completion.text[streamed_chars:]:
        on_delta(remaining_text)
    return completion


class _TimedTool(ToolWrapper):
    """A tool that adds its seconds to the episode's; a replayed call counts its recorded seconds."""

    def __init__(self, tool: Tool, meter: MeteredLM) -> None:
        super().__init__(tool)
        self._meter = meter

    def __call__(self, **arguments: Any) -> str:
        started = time.perf_counter()
        observation = self.tool(**arguments)
        recorded: float | None = getattr(observation, "seconds", None)
        self._meter.seconds += time.perf_counter() - started if recorded is None else recorded
        return observation


def run_episodes(episodes: Iterable[Episode], *, workers: int = 16) -> Iterator[Trajectory]:
    """Run ``workers`` episodes at a time and yield each Trajectory as it ends; closing the iterator stops them all."""
    waiting = iter(episodes)
    cancelled = threading.Event()
    running: set[Future[Trajectory]] = set()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="episode")
    try:
        while True:
            next_episodes = islice(waiting, workers - len(running))
            running |= {pool.submit(run_episode, episode, cancelled) for episode in next_episodes}
            if not running:
                return
            finished_futures, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished_futures:
                yield future.result()
    finally:
        cancelled.set()
        pool.shutdown(wait=False, cancel_futures=True)


def run_episode(episode: Episode, cancelled: threading.Event | None = None) -> Trajectory:
    """Run one episode to its end and score it.

    Raises ConfigError (also where a task cannot score its question), BudgetError and DiskError: each would end every
    episode in the same way. A refused prompt is the end of its own episode, which is scored without an answer. Any
    other error of a tool, an endpoint or a user's method is stored in the trajectory.
    """
    agent, seed = episode.agent, episode.seed
    meter = MeteredLM(agent, cancelled)
    steps: list[Step] = []
    error: str | None = None
    fault_stop: Stop | None = None
    try:
        tools = meter.timed_tools(f"{episode.task.name}/{episode.example.id}", seed)
        new_steps = agent.method.run(episode.example.question, meter, tools, seed)  # never the gold answer
        for step in islice(new_steps, agent.limits.max_steps):
            steps.append(step)
    except (ConfigError, BudgetError, DiskError):
        raise
    except Exception as fault:
        error = str(redact(f"{type(fault).__name__}: {fault}"))
        fault_stop = "refused" if isinstance(fault, PromptError) else "error"
    trajectory = Trajectory(
        task=episode.task.name,
        example=episode.example,
        method=agent.method.name,
        model=agent.lm.name,
        seed=seed,
        steps=tuple(steps),
        stop=fault_stop or find_stop_reason(steps, agent.limits),
        scores={},
        usage=meter.usage,
        seconds=meter.seconds,
        error=error,
        meta=episode.meta,
    )
    if trajectory.stop == "error":
        return trajectory
    return trajectory.with_scores(score_answer(episode.task, episode.example, trajectory.answer))


def find_stop_reason(steps: Sequence[Step], limits: Limits) -> Stop:
    """Why an episode of these steps ended, where nothing failed."""
    if steps and is_finished(steps[-1]):
        return "finish"
    return "max_steps" if len(steps) >= limits.max_steps else "format"
