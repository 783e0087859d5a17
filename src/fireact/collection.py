"""The verb ``collect``: a teacher solves questions of several tasks with several methods; every episode is kept.

Invariant: each finished episode is on disk before the next is counted; a fault of the infrastructure is tried again
when the verb is run again, and the manifest is written only when no episode is missing. Filtering is not done here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.agents import build, load_model, load_task, load_tools
from fireact.episodes import Episode, rollout
from fireact.errors import ConfigError, ProviderError
from fireact.progress import SILENT, Progress
from fireact.store import TRAJECTORIES, RunDir, read_trajectories
from fireact.types import Tool, Trajectory, Usage

PLAN = {
    "geo-hop/react": 190,
    "geo-hop/reflexion": 12,
    "geo-yesno/react": 44,
    "geo-yesno/cot": 5,
    "geo-choice/react": 44,
    "geo-choice/cot": 5,
}
"""Episodes a task and method that ``collect`` runs when it is told nothing: three tasks, three methods (paper, 3.1)."""


@dataclass(frozen=True, slots=True)
class CollectConfig:
    """Settings of ``collect``; ``plan`` maps "task/method" to a number of questions of ``split``."""

    plan: Mapping[str, int] = field(default_factory=lambda: dict(PLAN))
    teacher: str = "scripted:expert"
    tools: Sequence[str] = ("search",)
    split: str = "train"
    seed: int = 0
    temperature: float = 0.0
    workers: int = 16


def collect(config: CollectConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Collect trajectories into ``out`` and return the manifest; an interrupted run goes on where it stopped."""
    episodes = planned(config)
    with RunDir(out, verb="collect", settings=asdict(config), force=force) as run:
        if run.complete:
            return run.manifest
        run_missing(run, episodes, workers=config.workers, progress=progress)
        kept = list(read_trajectories(run.path))
        return run.finish(
            teacher=config.teacher,
            tools=fingerprints(episodes[0].agent.tools),
            counts=counts(kept),
            usage=asdict(sum((trajectory.usage for trajectory in kept), Usage())),
        )


def planned(config: CollectConfig) -> list[Episode]:
    """The episodes of a plan. Raises ConfigError where a name is unknown or a task has too few questions."""
    model = load_model(config.teacher, slots=config.workers)
    tools = load_tools(config.tools)
    episodes: list[Episode] = []
    for name, count in config.plan.items():
        task_name, _, method = name.rpartition("/")
        task = load_task(task_name)
        agent = build(model, task, method=method, tools=tools, temperature=config.temperature)
        examples = task.examples(config.split)
        if count > len(examples):
            raise ConfigError(
                f"{task_name} has {len(examples)} {config.split} questions; {count} were asked for ({name})."
            )
        episodes += [Episode(task=task, example=example, agent=agent, seed=config.seed) for example in examples[:count]]
    if not episodes:
        raise ConfigError("the plan has no episodes. Give --task and -n, or --plan TASK/METHOD=N.")
    return episodes


def run_missing(run: RunDir, episodes: Sequence[Episode], *, workers: int, progress: Progress) -> float:
    """Run the episodes that the directory lacks, saving each as it ends. Raises ProviderError if any ended in a fault.

    Returns the wall time as a share of the episodes' own seconds, which overlap where episodes run side by side.
    """
    done = _keep_sound(run.path)
    missing = [episode for episode in episodes if episode.key not in done]
    correct, finished, faults = sum(done.values()), len(done), []
    started, busy = time.perf_counter(), 0.0
    progress.start(str(run.config["verb"]), total=len(episodes), done=finished)
    try:
        with jsonl.Appender(run.path / TRAJECTORIES) as file:
            for trajectory in rollout(missing, workers=workers):
                file.append(trajectory.to_dict())
                faults += [trajectory.error] if trajectory.error else []
                correct += trajectory.scores.get("em", 0.0)
                finished += 1
                busy += trajectory.seconds
                progress.advance(f"EM {correct / finished:.0%}" + (f", faults {len(faults)}" if faults else ""))
    finally:
        progress.end()
    if faults:
        raise ProviderError(
            f"{len(faults)} of {len(episodes)} episodes ended in a fault, such as: {faults[0]}. "
            f"They are kept in {run.path} but not scored. Run again to try them again: fireact resume {run.path}"
        )
    return (time.perf_counter() - started) / busy if busy else 1 / workers


def _keep_sound(path: Path) -> dict[str, float]:
    """EM by key of the episodes that stand; those that ended in a fault are taken out of the file, to be tried again."""
    file = path / TRAJECTORIES
    if not file.exists():
        return {}
    jsonl.cut_torn_tail(file)
    kept = list(read_trajectories(file))
    sound = [trajectory for trajectory in kept if trajectory.stop != "error"]
    if len(sound) < len(kept):
        jsonl.write(file, (trajectory.to_dict() for trajectory in sound))
    return {trajectory.key: trajectory.scores.get("em", 0.0) for trajectory in sound}


def counts(trajectories: Sequence[Trajectory]) -> dict[str, dict[str, int]]:
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
