"""The verb ``collect``: a teacher solves questions of several tasks with several methods; every episode is kept.

Invariant: each finished episode is on disk before the next is counted; a fault of the infrastructure is tried again
when the verb is run again, and the manifest is written only when no episode is missing. Filtering is not done here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.agents import build, load_model, load_task, load_tools, whole_task
from fireact.cache import FILE as CALLS
from fireact.cache import CallCache
from fireact.episodes import Episode, rollout
from fireact.errors import ConfigError, ProviderError
from fireact.estimate import estimate
from fireact.models.keys import unasked
from fireact.models.limits import Amount, Budget, Endpoint
from fireact.progress import SILENT, Progress
from fireact.store import TRAJECTORIES, RunDir, absolute, read_trajectories, typed
from fireact.tasks.order import in_order
from fireact.types import LM, Tool, Trajectory, Usage

PLAN = {
    "geo-hop/react": 190,
    "geo-hop/reflexion": 12,
    "geo-yesno/react": 44,
    "geo-yesno/cot": 5,
    "geo-choice/react": 44,
    "geo-choice/cot": 5,
}
"""Episodes a task and method that ``collect`` runs when it is told nothing: three tasks, three methods (paper, 3.1)."""


FREE = (
    "workers", "budget", "endpoint.rpm", "endpoint.tpm", "endpoint.timeout", "endpoint.prices",
)  # fmt: skip
"""Settings that do not change what is collected."""


@dataclass(frozen=True, slots=True)
class CollectConfig:
    """Settings of ``collect``; ``plan`` maps "task/method" to a number of questions of ``split``, from ``start`` on.

    ``calls`` is record, replay or off; ``cache`` is the file of calls, by default one in the run directory. ``native``
    asks the teacher for tool calls instead of text actions. ``budget`` (5usd, 200000tokens, 1000calls) is what the run
    directory may take in all; ``endpoint`` is how a hosted teacher is used.
    """

    plan: Mapping[str, int] = field(default_factory=lambda: dict(PLAN))
    teacher: str = "scripted:expert"
    tools: Sequence[str] = ("search",)
    split: str = "train"
    order: str = "file"
    start: int = 0
    seed: int = 0
    temperature: float = 0.0
    repairs: int = 5
    native: bool = False
    calls: str = "record"
    cache: str | None = None
    budget: str | None = None
    endpoint: Endpoint = field(default_factory=Endpoint)
    workers: int = 16

    def __post_init__(self) -> None:
        parts = ((name.rpartition("/"), count) for name, count in self.plan.items())
        plan = {f"{whole_task(task)}/{method}": count for (task, _, method), count in parts}
        object.__setattr__(self, "plan", plan)
        if self.cache is not None:
            object.__setattr__(self, "cache", absolute(self.cache))


def collect(config: CollectConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Collect trajectories into ``out`` and return the manifest; an interrupted run goes on where it stopped."""
    cache = CallCache(Path(config.cache or out / CALLS), config.calls)
    episodes = planned(config, cache, spent=Usage() if force else cache.spent())
    with RunDir(out, verb="collect", settings=asdict(config), force=force, free=FREE) as run:
        if run.complete:
            return run.manifest
        try:
            run_missing(run, episodes, workers=config.workers, progress=progress)
        finally:
            close(episodes[0].agent.lm)
        return run.finish(
            teacher=config.teacher,
            tools=fingerprints(episodes[0].agent.tools),
            **tally(read_trajectories(run.path)),
        )


def planned(config: CollectConfig, cache: CallCache | None = None, *, spent: Usage | None = None) -> list[Episode]:
    """The episodes of a plan; ``spent`` counts against its budget.

    Raises ConfigError where a name is unknown or a task has too few questions.
    """
    model = load_model(
        config.teacher,
        slots=config.workers,
        cache=cache,
        endpoint=config.endpoint,
        budget=budget_of(config.budget, spent or Usage()),
    )
    tools = load_tools(config.tools, cache)
    episodes: list[Episode] = []
    for name, count in config.plan.items():
        task_name, _, method = name.rpartition("/")
        task = load_task(task_name)
        agent = build(
            model,
            task,
            method=method,
            tools=tools,
            temperature=config.temperature,
            repairs=config.repairs,
            native=config.native,
        )
        examples = in_order(task.examples(config.split), config.order)
        chosen = examples[config.start : config.start + count]
        if count > len(chosen):
            raise ConfigError(
                f"{task_name} has {len(examples)} {config.split} questions; {count} were asked for, from {config.start} on "
                f"({name})."
            )
        episodes += [Episode(task=task, example=example, agent=agent, seed=config.seed) for example in chosen]
    twice = [key for key, count in Counter(episode.key for episode in episodes).items() if count > 1]
    if twice:
        raise ConfigError(
            f"the plan has the episode {twice[0]} twice: two of its tasks have the same name. Rename a file."
        )
    if not episodes:
        raise ConfigError("the plan has no episodes. Give --task and -n, or --plan TASK/METHOD=N.")
    return episodes


def budget_of(text: str | None, spent: Usage) -> Budget | None:
    """The budget that a text means, some of it spent already."""
    if text is None:
        return None
    amount = Amount.parse(text)
    return Budget(amount, spent=amount.of(spent))


def close(lm: LM) -> None:
    """Let an LM go: threads that wait to try a call again give up."""
    closing = getattr(lm, "close", None)
    if closing is not None:
        closing()


def expected(config: CollectConfig) -> dict[str, Any]:
    """What ``collect`` will take, estimated without a call or a key."""
    cache = CallCache(Path(CALLS), "off")
    free = replace(config, budget=None)
    with unasked():
        episodes = planned(free, cache)
    return estimate(episodes, price=getattr(episodes[0].agent.lm, "price", None))


def run_missing(run: RunDir, episodes: Sequence[Episode], *, workers: int, progress: Progress) -> float:
    """Run the episodes that the directory lacks, saving each as it ends, and put the file into the episodes' order.

    Returns the wall time as a share of the episodes' own seconds, which overlap where episodes run side by side. Raises
    ProviderError if any episode ended in a fault.
    """
    file, stand = run.path / TRAJECTORIES, Standing(total=len(episodes))
    done = {trajectory.key for trajectory in map(stand.count, _keep_sound(file))}
    started, before = time.perf_counter(), stand.seconds
    progress.start(str(run.config["verb"]), total=len(episodes), done=stand.ended)
    try:
        with jsonl.Appender(file) as appender:
            for trajectory in rollout((one for one in episodes if one.key not in done), workers=workers):
                appender.append(trajectory.to_dict())
                stand.count(trajectory)
                progress.advance(stand.note())
    finally:
        progress.end()
    if stand.faults:
        raise ProviderError(
            f"{stand.faults.total()} of {len(episodes)} episodes ended in a fault, such as: {stand.fault}. "
            f"They are kept in {run.path} but not scored. Run again to try them again: fireact resume {typed(run.path)}"
        )
    jsonl.arrange(file, {episode.key: at for at, episode in enumerate(episodes)}, episode_key)
    busy = stand.seconds - before
    return (time.perf_counter() - started) / busy if busy else 1 / workers


@dataclass
class Standing:
    """How a run stands: episodes ended and right, usage so far, faults by kind."""

    total: int
    ended: int = 0
    scored: int = 0
    correct: float = 0.0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    faults: Counter[str] = field(default_factory=Counter)
    fault: str = ""

    def count(self, trajectory: Trajectory) -> Trajectory:
        """Count one more episode, and hand it on."""
        self.ended += 1
        self.usage += trajectory.usage
        self.seconds += trajectory.seconds
        if trajectory.error:
            self.faults[trajectory.error.partition(":")[0]] += 1
            self.fault = trajectory.error
        else:
            self.scored += 1
            self.correct += trajectory.scores.get("em", 0.0)
        return trajectory

    def note(self) -> str:
        """A few words: EM so far, tokens, cost, faults by kind."""
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        said = [f"EM {self.correct / self.scored:.0%}"] if self.scored else []
        said.append(f"{tokens / 1000:,.0f}k tokens")
        if self.usage.cost is None:
            said.append("price not known")
        elif self.usage.cost:
            said.append(f"${self.usage.cost:,.2f}")
        return ", ".join(said + [f"{count} {kind}" for kind, count in self.faults.items()])


def _keep_sound(file: Path) -> Iterator[Trajectory]:
    """The episodes that stand; those that ended in a fault are taken out of the file first, to be tried again."""
    if not file.exists():
        return
    jsonl.cut_torn_tail(file)
    if any(trajectory.stop == "error" for trajectory in read_trajectories(file)):
        jsonl.write(file, (one.to_dict() for one in read_trajectories(file) if one.stop != "error"))
    yield from read_trajectories(file)


def episode_key(row: Mapping[str, Any]) -> str:
    """The key of the trajectory that a line holds (``Trajectory.key``), without building it."""
    return f"{row['task']}/{row['example']['id']}/{row['method']}/{row['seed']}"


def tally(trajectories: Iterable[Trajectory]) -> dict[str, Any]:
    """What a manifest says of the episodes: ``counts`` by "task/method", ``repairs`` and ``usage`` in all."""
    usage, repairs = Usage(), 0

    def watched() -> Iterator[Trajectory]:
        nonlocal usage, repairs
        for trajectory in trajectories:
            usage += trajectory.usage
            repairs += sum(step.repairs for step in trajectory.steps)
            yield trajectory

    return {"counts": counts(watched()), "repairs": repairs, "usage": asdict(usage)}


def counts(trajectories: Iterable[Trajectory]) -> dict[str, dict[str, int]]:
    """By "task/method": how many episodes there are, how many finished and how many are right (EM 1)."""
    total, finished, correct = Counter[str](), Counter[str](), Counter[str]()
    for trajectory in trajectories:
        name = f"{trajectory.task}/{trajectory.method}"
        total[name] += 1
        finished[name] += trajectory.stop == "finish"
        correct[name] += trajectory.scores.get("em") == 1.0
    return {name: {"n": total[name], "finished": finished[name], "correct": correct[name]} for name in total}


def fingerprints(tools: Mapping[str, Tool]) -> dict[str, str]:
    """What identifies each tool's behaviour, where it says so; numbers made with different tools do not compare."""
    return {name: str(getattr(tool, "fingerprint", "")) for name, tool in tools.items()}
