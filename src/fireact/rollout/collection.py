"""The verb ``collect``: a teacher solves questions of several tasks with several methods; every episode is stored.

Invariant: each finished episode is on disk before the next is counted. An episode that an infrastructure fault ended
runs again when the verb runs again, and the manifest is written once no episode is missing. Nothing is filtered here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.cost import CostEstimate
from fireact.base.keys import without_keys
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import TRAJECTORIES, RunDir, shell_path
from fireact.base.settings import AGENT, DATA, check_settings, replace_fields, setting
from fireact.base.verbs import Verb
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.models.limits import Budget
from fireact.rollout.agents import choose_defaults
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import CallCache
from fireact.rollout.episode_facts import EpisodeFacts, episode_key, read_episode_facts, summarise_episodes
from fireact.rollout.episode_settings import EpisodeSettings
from fireact.rollout.episodes import Episode
from fireact.rollout.estimate import estimate_episodes
from fireact.rollout.loading import (
    SCRIPT,
    TASK_SPEC,
    absolute_task_spec,
    load_task,
    load_tools,
)
from fireact.rollout.shards import choose_shard, name_shard_directory, take_shard
from fireact.tasks.order import order_examples
from fireact.types import LM, Tool, Trajectory, Usage

PLAN = {
    "geo-hop/react": 190,
    "geo-hop/reflexion": 12,
    "geo-yesno/react": 44,
    "geo-yesno/cot": 5,
    "geo-choice/react": 44,
    "geo-choice/cot": 5,
}
"""The default plan, episodes by task and method: three tasks, three methods (paper, 3.1)."""

_LOGGER = logging.getLogger("fireact")
TASKS_HELP = f"Task: {TASK_SPEC}; repeatable."
NEUTRAL_SETTINGS = (
    "workers", "executor", "budget", "endpoint.rpm", "endpoint.tpm", "endpoint.timeout", "endpoint.prices",
    "endpoint.replicas", "teacher_license",
)  # fmt: skip
"""Settings that do not change what is collected."""


def _absolute_plan(plan: Mapping[str, int]) -> dict[str, int]:
    """A plan whose tasks have absolute paths."""
    parts = ((name.rpartition("/"), count) for name, count in plan.items())
    return {f"{absolute_task_spec(task)}/{method}": count for (task, _, method), count in parts}


@dataclass(frozen=True, slots=True)
class CollectConfig(EpisodeSettings):
    """Settings of ``collect``; ``plan`` maps "task/method" to a number of questions of ``split``, from ``start`` on."""

    plan: Mapping[str, int] = setting(factory=lambda: dict(PLAN), normalise=_absolute_plan, is_option=False)
    """Number of questions by "task/method"."""
    teacher: str = setting(SCRIPT, panel=AGENT)
    """openai:MODEL[@URL,...], scripted:expert (for tasks of the embedded world), hf:NAME, replay:DIR, a run directory
    or module:attribute.
    """
    start: int = setting(0, panel=DATA, low=0)
    """The first question of the split that is taken."""
    _: KW_ONLY
    temperature: float = setting(0.0)
    """Sampling temperature of the teacher; 0 is greedy."""
    repairs: int = setting(5)
    teacher_license: str = setting("", panel=AGENT)
    """Licence or terms of the teacher's answers, such as apache-2.0; the manifest keeps it."""

    def __post_init__(self) -> None:
        check_settings(self, "collect")
        names = [name.rpartition("/") for name in self.plan]
        tasks, methods = ([name[index] for name in names] for index in (0, 2))
        tools, teacher = choose_defaults(tasks, methods, tools=self.tools, teacher=self.teacher, model=self.teacher)
        replace_fields(self, tools=tools, teacher=teacher)
        for name, count in self.plan.items():
            if count < 1:
                raise ConfigError(f"collect: the plan has {count} questions of {name}; it must have at least 1.")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options that make a plan."""

    tasks: Sequence[str] | None = setting(None, flags=("--task", "-t"), panel=DATA, help=TASKS_HELP)
    method: Sequence[str] | None = setting(None, flags=("--method", "-m"), panel=AGENT)
    """io, cot, react, reflexion or module:attribute; repeatable."""
    n: int | None = setting(None, flags=("-n",), panel=DATA)
    """Questions of each task, for each method."""


def _expand_plan(options: PlanOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of some tasks and methods, the default one where none of these options is given; and the shard."""
    given = choose_shard(given)
    if not options.tasks and not options.method and options.n is None:
        return given
    if not options.tasks:
        raise ConfigError("--method and -n need --task. Leave all three out for the default plan.")
    count = 20 if options.n is None else options.n
    plan = {f"{task}/{name}": count for task in options.tasks for name in options.method or ["react"]}
    return {**given, "plan": plan}


def collect(config: CollectConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Collect trajectories into ``out`` and return the manifest; an interrupted run is resumed."""
    cache = config.open_cache(out)
    budget = config.open_budget(cache, force=force)
    episodes = plan_episodes(config, cache, budget)
    execute = config.choose_executor(plan_episodes, cache, budget, spec=config.teacher)
    with RunDir(out, verb="collect", settings=config, force=force, neutral=NEUTRAL_SETTINGS) as run:
        if run.complete:
            return run.manifest
        say_shard(config.shard, episodes, progress)
        try:
            run_missing_episodes(run, episodes, execute, workers=config.workers, progress=progress)
        finally:
            close_lm(episodes[0].agent.lm)
        return run.finish(
            teacher=config.teacher,
            **({"teacher_license": config.teacher_license} if config.teacher_license else {}),
            tools=tool_fingerprints(episodes[0].agent.tools),
            **summarise_episodes(read_episode_facts(run.path)),
        )


def plan_episodes(config: CollectConfig, cache: CallCache | None = None, budget: Budget | None = None) -> list[Episode]:
    """The episodes of a plan, or of its shard.

    Raises ConfigError where a name is unknown or a task has too few questions.
    """
    model = config.load_model(config.teacher, cache=cache, budget=budget)
    tools = load_tools(config.tools, cache)
    episodes: list[Episode] = []
    for name, count in config.plan.items():
        task_name, _, method = name.rpartition("/")
        task = load_task(task_name)
        agent = config.build_agent(model, task, method, tools)
        examples = order_examples(task.examples(config.split), config.order)
        chosen = examples[config.start : config.start + count]
        if count > len(chosen):
            raise ConfigError(
                f"{task_name} has {len(examples)} {config.split} questions; {count} were asked for, "
                f"from {config.start} on ({name})."
            )
        episodes += [Episode(task=task, example=example, agent=agent, seed=config.seed) for example in chosen]
    repeated_keys = [key for key, count in Counter(episode.key for episode in episodes).items() if count > 1]
    if repeated_keys:
        raise ConfigError(
            f"the plan has the episode {repeated_keys[0]} twice: two of its tasks have the same name. Rename a file."
        )
    if not episodes:
        raise ConfigError("the plan has no episodes. Give --task and -n, or --plan TASK/METHOD=N.")
    return take_shard(config.shard, episodes)


def say_shard(shard: str | None, episodes: Sequence[Episode], progress: Progress) -> None:
    """Say which shard of a run this is: a scheduler's variables may have named it."""
    if shard is not None:
        progress.say(f"shard {shard}: {len(episodes)} episodes (--shard 1/1 runs all)")


def close_lm(lm: LM) -> None:
    """Close an LM, where it can be closed: threads that wait to retry a call then give up."""
    closing = getattr(lm, "close", None)
    if closing is not None:
        closing()


def estimate_collection(config: CollectConfig) -> CostEstimate:
    """The cost estimate of ``collect``, made without a call or an API key."""
    cache = CallCache(Path(CALLS), "off")
    unbudgeted_config = replace(config, budget=None)
    with without_keys():
        episodes = plan_episodes(unbudgeted_config, cache)
    return estimate_episodes(episodes, price=getattr(episodes[0].agent.lm, "price", None))


def run_missing_episodes(
    run: RunDir,
    episodes: Sequence[Episode],
    execute: Callable[[Iterable[Episode]], Iterator[Trajectory]],
    *,
    workers: int,
    progress: Progress,
) -> float:
    """Run the episodes that the directory lacks, save each as it ends, then sort the file into the episodes' order.

    Returns the wall time divided by the sum of the episodes' seconds (below 1 where episodes run in parallel). Raises
    ProviderError if any episode ended in a fault.
    """
    file, run_progress = run.path / TRAJECTORIES, RunProgress(total=len(episodes))
    keys = [facts.key for facts in map(run_progress.count, _keep_sound_episodes(file))]  # in the order of the file
    finished_keys = set(keys)
    if foreign_keys := finished_keys - {episode.key for episode in episodes}:
        raise DataError(f"{file} holds the episode {min(foreign_keys)}, which is not of this run. Delete its line.")
    started, earlier_seconds = time.perf_counter(), run_progress.seconds
    progress.start(str(run.config["verb"]), total=len(episodes), done=run_progress.ended)
    try:
        with jsonl.Appender(file) as appender:
            for trajectory in execute(episode for episode in episodes if episode.key not in finished_keys):
                appender.append(trajectory.to_dict())
                keys.append(trajectory.key)
                run_progress.count(EpisodeFacts.of(trajectory))
                progress.advance(run_progress.note())
    finally:
        progress.end()
    if run_progress.refused:
        _LOGGER.warning(
            "%d of %d episodes ended with a prompt that was refused, and count as unanswered, such as: %s",
            run_progress.refused, len(episodes), run_progress.refusal,
        )  # fmt: skip
    if run_progress.faults:
        raise ProviderError(
            f"{run_progress.faults.total()} of {len(episodes)} episodes ended in a fault, such as: "
            f"{run_progress.fault}. They are kept in {run.path} but not scored. Run again to try them again: "
            f"fireact resume {shell_path(run.path)}"
        )
    positions = {episode.key: position for position, episode in enumerate(episodes)}
    jsonl.sort_lines(file, (positions[key] for key in keys))
    busy = run_progress.seconds - earlier_seconds
    return (time.perf_counter() - started) / busy if busy else 1 / workers


@dataclass
class RunProgress:
    """The state of a run: episodes that ended, how many are correct, usage so far, faults by kind."""

    total: int
    ended: int = 0
    scored: int = 0
    correct: float = 0.0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    faults: Counter[str] = field(default_factory=Counter)
    fault: str = ""
    refused: int = 0
    refusal: str = ""

    def count(self, facts: EpisodeFacts) -> EpisodeFacts:
        """Count one more episode and return it."""
        self.ended += 1
        self.usage += facts.usage
        self.seconds += facts.seconds
        if facts.stop == "error":
            self.fault = facts.error or "an unknown fault"
            self.faults[self.fault.partition(":")[0]] += 1
        else:
            if facts.stop == "refused":
                self.refused, self.refusal = self.refused + 1, facts.error or ""
            self.scored += 1
            self.correct += facts.em or 0.0
        return facts

    def note(self) -> str:
        """A short text for the progress line: EM so far, tokens, cost, faults by kind."""
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        phrases = [f"EM {self.correct / self.scored:.0%}"] if self.scored else []
        phrases.append(f"{tokens / 1000:,.0f}k tokens")
        if self.usage.cost is None:
            phrases.append("price not known")
        elif self.usage.cost:
            phrases.append(f"${self.usage.cost:,.2f}")
        phrases += [f"{self.refused} refused"] if self.refused else []
        return ", ".join(phrases + [f"{count} {kind}" for kind, count in self.faults.items()])


def _keep_sound_episodes(file: Path) -> Iterator[EpisodeFacts]:
    """The sound episodes of a file, read once. Others are removed at the end: after a fault they run again."""
    if not file.exists():
        return
    jsonl.cut_torn_tail(file)
    keys: set[str] = set()
    repeated = faults = 0
    for facts in read_episode_facts(file):
        if facts.stop == "error":
            faults += 1
        elif facts.key in keys:
            repeated += 1
        else:
            keys.add(facts.key)
            yield facts
    if repeated:
        _LOGGER.warning("%s holds %d episodes a second time; the first line of each stays", file, repeated)
    if repeated or faults:
        jsonl.write_objects(file, _take_first(file, keys))


def _take_first(file: Path, unwritten_keys: set[str]) -> Iterator[dict[str, Any]]:
    """The first sound row of each key."""
    for row in jsonl.read_objects(file):
        key = episode_key(row)
        if row["stop"] != "error" and key in unwritten_keys:
            unwritten_keys.remove(key)
            yield row


@dataclass(frozen=True, slots=True)
class EpisodeCounts:
    """How many episodes there are, how many finished, and how many are right (EM 1)."""

    n: int = 0
    finished: int = 0
    correct: int = 0

    def __add__(self, added: EpisodeCounts) -> EpisodeCounts:
        return EpisodeCounts(self.n + added.n, self.finished + added.finished, self.correct + added.correct)


def read_counts(manifest: Mapping[str, Any]) -> dict[str, EpisodeCounts]:
    """The counts of a manifest by "task/method"; none where its verb counts no episodes."""
    return {name: EpisodeCounts(**counts) for name, counts in manifest.get("counts", {}).items()}


def tool_fingerprints(tools: Mapping[str, Tool]) -> dict[str, str]:
    """The fingerprint of each tool, empty where it has none; results made with different tools do not compare."""
    return {name: str(getattr(tool, "fingerprint", "")) for name, tool in tools.items()}


def join_counts(manifests: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """What the manifest of joined shards tells of their episodes."""
    return summarise_episodes(read_episode_facts(path))


COLLECT = Verb(
    "collect", CollectConfig, collect, out=partial(name_shard_directory, "runs/collect"),
    out_help="Run directory to write. Default: runs/collect; for a shard runs/collect-I-of-N.", join=join_counts,
    neutral=NEUTRAL_SETTINGS, estimate=estimate_collection,
    example="`fireact collect -t geo-hop -m react -m reflexion -n 50 -o runs/collect`",
    shorthand=PlanOptions, expand=_expand_plan,
)  # fmt: skip
