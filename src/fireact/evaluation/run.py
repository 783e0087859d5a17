"""The verb ``eval``: an agent answers held-out questions; each episode is kept, each task is summarised with intervals.

It is the very rollout that trajectories are collected with; only the agent and the split differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fireact.agents import Model, build, load_model, load_task, load_tools, whole_task
from fireact.cache import FILE as CALLS
from fireact.cache import CallCache
from fireact.collection import FREE, budget_of, fingerprints, run_missing
from fireact.episodes import Episode, run_episode
from fireact.errors import ConfigError
from fireact.estimate import estimate
from fireact.evaluation.summary import summarise
from fireact.models.keys import unasked
from fireact.models.limits import Endpoint
from fireact.progress import SILENT, Progress
from fireact.store import RunDir, absolute, read_trajectories
from fireact.tasks.order import in_order
from fireact.types import Completion, Message, Task, Usage


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Settings of ``eval``; ``examples`` in the prompt: None means 3 for a prompted LM and 0 for a fine-tuned one.

    The others are as in ``collect``, but an agent is measured as it is: nothing is repaired unless ``repairs`` says so.
    """

    agent: str
    tasks: Sequence[str] = ("geo-hop", "geo-compose")
    n: int = 100
    method: str = "react"
    examples: int | None = None
    tools: Sequence[str] = ("search",)
    split: str = "test"
    order: str = "file"
    seed: int = 0
    temperature: float = 0.0
    repairs: int = 0
    native: bool = False
    calls: str = "record"
    cache: str | None = None
    budget: str | None = None
    endpoint: Endpoint = field(default_factory=Endpoint)
    workers: int = 16

    def __post_init__(self) -> None:
        if Path(self.agent).is_dir():
            object.__setattr__(self, "agent", absolute(self.agent))
        object.__setattr__(self, "tasks", tuple(map(whole_task, self.tasks)))
        if self.cache is not None:
            object.__setattr__(self, "cache", absolute(self.cache))


def evaluate(config: EvalConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Evaluate an agent into ``out`` and return the manifest; ``manifest["results"][task]`` is the task's summary."""
    cache = CallCache(Path(config.cache or out / CALLS), config.calls)
    model = load_model(
        config.agent,
        slots=config.workers,
        cache=cache,
        endpoint=config.endpoint,
        budget=budget_of(config.budget, Usage() if force else cache.spent()),
    )
    tools = load_tools(config.tools, cache)
    episodes = {name: _episodes(task, config, model, tools) for name, task in _tasks(config.tasks).items()}
    with RunDir(out, verb="eval", settings=asdict(config), force=force, free=FREE) as run:
        if run.complete:
            return run.manifest
        everything = [episode for part in episodes.values() for episode in part]
        try:
            wall_share = run_missing(run, everything, workers=config.workers, progress=progress)
        finally:
            model.close()
        kept = list(read_trajectories(run.path))
        results = {}
        for name in episodes:
            own = [trajectory for trajectory in kept if trajectory.task == name]
            wall_seconds = wall_share * sum(trajectory.seconds for trajectory in own)
            results[name] = summarise(own, wall_seconds=wall_seconds).to_dict()
        shots = max(map(_shots, (part[0] for part in episodes.values() if part)), default=0)
        return run.finish(
            agent=_label(model, config, shots),
            description=_description(model, config, shots),
            tuned=model.tuned,
            examples=shots,
            tools=fingerprints(tools),
            limits={name: asdict(part[0].agent.limits) for name, part in episodes.items() if part},
            results=results,
            usage=asdict(sum((trajectory.usage for trajectory in kept), Usage())),
        )


def expected(config: EvalConfig) -> dict[str, Any]:
    """What ``eval`` will take, estimated without a call or a key; raises what else it would raise before the first one."""
    cache = CallCache(Path(CALLS), "off")
    with unasked():
        model, tools = load_model(config.agent, cache=cache, endpoint=config.endpoint), load_tools(config.tools, cache)
    tasks = _tasks(config.tasks).values()
    episodes = [episode for task in tasks for episode in _episodes(task, config, model, tools)]
    return estimate(episodes, price=getattr(model.lm, "price", None))


def _tasks(specs: Sequence[str]) -> dict[str, Task]:
    """The tasks by their own names, which may be shorter than what was typed."""
    found: dict[str, Task] = {}
    for spec in specs:
        task = load_task(spec)
        if task.name in found:
            raise ConfigError(f"two tasks are named {task.name!r}; results tell tasks apart by name. Leave one out.")
        found[task.name] = task
    return found


def _episodes(task: Task, config: EvalConfig, model: Model, tools: Any) -> list[Episode]:
    agent = build(
        model,
        task,
        method=config.method,
        tools=tools,
        examples=config.examples,
        temperature=config.temperature,
        repairs=config.repairs,
        native=config.native,
    )
    examples = in_order(task.examples(config.split), config.order)
    if config.n < 1:
        raise ConfigError(f"-n is {config.n}; at least one question must be asked.")
    if config.n > len(examples):
        raise ConfigError(
            f"{task.name} has {len(examples)} {config.split} questions; {config.n} were asked for. Lower -n."
        )
    return [Episode(task=task, example=example, agent=agent, seed=config.seed) for example in examples[: config.n]]


class _PromptSeenError(Exception):
    """Ends an episode at its first prompt."""


@dataclass
class _Prompt:
    """An LM that keeps the first prompt that it is given, and refuses to answer."""

    name: str = "prompt"
    text: str = ""

    def complete(self, messages: Sequence[Message], **_: Any) -> Completion:
        self.text = "\n".join(message.content for message in messages)
        raise _PromptSeenError


def _shots(episode: Episode) -> int:
    """How many of the examples that its method was given stand in the first prompt of an episode."""
    given = getattr(episode.agent.method, "examples", ())
    prompt = _Prompt()
    if given:
        run_episode(replace(episode, agent=replace(episode.agent, lm=prompt)))
    return sum(question in prompt.text for question, _ in given)


def _label(model: Model, config: EvalConfig, shots: int) -> str:
    """The agent's name in results: the model's, and how it is prompted where it is."""
    return model.lm.name if model.tuned and not shots else f"{model.lm.name} {config.method} {shots}-shot"


def _description(model: Model, config: EvalConfig, shots: int) -> str:
    count = {0: "no examples", 1: "1 example"}.get(shots, f"{shots} examples")
    said = f", {config.method}" if shots or not model.tuned else ""
    return f"{model.description}{'' if model.tuned else ', not fine-tuned'}{said}, {count} in the prompt"
