"""Episodes that no evaluation measured (a file of them, what was collected or mixed), as a report can show them.

Invariant: a task has results where each of its episodes that no fault ended has EM and F1; what the episodes do not tell
(time and tokens, in files of other tools) is None and never 0. Nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.evaluation.breakdown import group
from fireact.evaluation.comparison import read_episodes
from fireact.evaluation.summary import summarise
from fireact.types import Trajectory

SPENT = ("prompt_tokens", "cached_tokens", "completion_tokens", "tokens_per_question", "cost_per_question")
TIMED = ("latency_mean", "latency_p50", "latency_p95")


def described(path: Path) -> tuple[dict[str, Any], Sequence[Trajectory]]:
    """Whose episodes a file or a directory holds and their results by task, as a manifest has them, and the episodes.

    Raises DataError where it cannot be read.
    """
    found = read_episodes(path)
    tasks: dict[str, list[Trajectory]] = {}
    for one in found.trajectories:
        tasks.setdefault(one.task, []).append(one)
    results = {task: _summary(own) for task, own in tasks.items() if _scored(own)}
    return {"agent": found.agent, "description": found.description, "results": results}, found.trajectories


def _scored(episodes: Sequence[Trajectory]) -> bool:
    sound = [one for one in episodes if one.stop != "error"]
    return bool(sound) and all({"em", "f1"} <= one.scores.keys() for one in sound)


def _summary(episodes: Sequence[Trajectory]) -> Mapping[str, Any]:
    summary = summarise(episodes).to_dict()
    methods: dict[str, list[Trajectory]] = {}
    for one in episodes:
        if one.stop != "error":
            methods.setdefault(one.method, []).append(one)
    if len(methods) > 1:
        summary["by"] = {"method": {name: group(own) for name, own in methods.items()}, **summary["by"]}
    untold = [
        "seconds_per_question",  # how many episodes ran side by side is not told
        *(SPENT if not any(one.usage.calls for one in episodes) else ()),
        *(TIMED if not any(one.seconds for one in episodes) else ()),
    ]
    return summary | dict.fromkeys(untold)
