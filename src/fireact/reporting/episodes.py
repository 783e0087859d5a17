"""Results for episodes that no evaluation measured: a file of episodes, a collection or a mixture.

Invariant: a task has results only where every episode without a fault has EM and F1. A quantity that the episodes do
not record (time and tokens, in files of other tools) is None and never 0. Nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.evaluation.comparison import read_compared_run
from fireact.evaluation.measures import summarise_group
from fireact.evaluation.summary import summarise_trajectories
from fireact.types import Trajectory

SPENT = ("prompt_tokens", "cached_tokens", "completion_tokens", "tokens_per_question", "cost_per_question")
TIMED = ("latency_mean", "latency_p50", "latency_p95")


def describe_episodes(path: Path) -> tuple[dict[str, Any], Sequence[Trajectory]]:
    """The fields that a manifest of these episodes would have (agent, description, results by task), and the episodes.

    Raises DataError where the file or directory cannot be read.
    """
    episode_set = read_compared_run(path)
    tasks: dict[str, list[Trajectory]] = {}
    for trajectory in episode_set.trajectories:
        tasks.setdefault(trajectory.task, []).append(trajectory)
    results = {task: _summarise(trajectories) for task, trajectories in tasks.items() if _is_scored(trajectories)}
    return {
        "agent": episode_set.agent,
        "description": episode_set.description,
        "results": results,
    }, episode_set.trajectories


def _is_scored(episodes: Sequence[Trajectory]) -> bool:
    without_faults = [episode for episode in episodes if episode.stop != "error"]
    return bool(without_faults) and all({"em", "f1"} <= episode.scores.keys() for episode in without_faults)


def _summarise(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    summary = summarise_trajectories(episodes)
    trajectories_by_method: dict[str, list[Trajectory]] = {}
    for episode in episodes:
        if episode.stop != "error":
            trajectories_by_method.setdefault(episode.method, []).append(episode)
    by_method = {name: summarise_group(trajectories) for name, trajectories in trajectories_by_method.items()}
    unknown_amounts: dict[str, Any] = dict.fromkeys(
        [
            *(SPENT if not any(episode.usage.calls for episode in episodes) else ()),
            *(TIMED if not any(episode.seconds for episode in episodes) else ()),
        ]
    )
    return replace(
        summary,
        measures=replace(summary.measures, **unknown_amounts),
        seconds_per_question=None,  # it depends on how many episodes ran at once, which episodes do not record
        by={"method": by_method, **summary.by} if len(by_method) > 1 else summary.by,
    ).to_dict()
