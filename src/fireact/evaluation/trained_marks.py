"""Marks the episodes whose questions their agent was trained on: before they run, and in runs of earlier versions.

Invariant: a run of ``eval`` that knows the setting ``allow`` has marked its episodes. For an earlier one the marks come
from the questions of its agent, where that is still here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from fireact.base.run_directory import relative_path
from fireact.errors import ConfigError, DataError
from fireact.evaluation.breakdown import TRAINED
from fireact.rollout.episodes import Episode
from fireact.tasks.question_hash import hash_question
from fireact.training.trained_questions import find_trained_questions
from fireact.types import Trajectory


def mark_trained_episodes(
    episodes: Mapping[str, Sequence[Episode]], agent: str, *, allowed: bool
) -> dict[str, list[Episode]]:
    """The episodes of each task, those on questions that the agent was trained on marked.

    Raises ConfigError that counts them where they are not ``allowed``.
    """
    trained = find_trained_questions(agent)
    marked = {
        name: [
            replace(episode, meta={TRAINED: True}) if hash_question(episode.example.question) in trained else episode
            for episode in task_episodes
        ]
        for name, task_episodes in episodes.items()
    }
    counts = {name: sum(TRAINED in episode.meta for episode in marked[name]) for name in marked}
    if any(counts.values()) and not allowed:
        phrases = [f"{count} of {len(marked[name])} questions of {name}" for name, count in counts.items() if count]
        raise ConfigError(
            f"{relative_path(agent)} was trained on {' and '.join(phrases)}: its answers to these do not show what it "
            "can do. Ask others (--split test, or the holdout.jsonl of 'fireact mix --holdout 0.2'), or ask them too, "
            "each marked: --allow trained."
        )
    return marked


def mark_trained_questions(trajectories: Iterable[Trajectory], config: Mapping[str, Any]) -> list[Trajectory]:
    """The episodes of a run with these settings, each with ``trained`` in its meta where that is so."""
    if config.get("verb") != "eval" or "allow" in config:
        return list(trajectories)
    trained = _find_earlier_questions(str(config.get("agent", "")))
    return [
        replace(trajectory, meta={**trajectory.meta, TRAINED: True})
        if hash_question(trajectory.example.question) in trained
        else trajectory
        for trajectory in trajectories
    ]


@cache
def _find_earlier_questions(agent: str) -> frozenset[str]:
    with suppress(ConfigError, DataError):  # the agent was moved or deleted, or is of another kind now
        return find_trained_questions(agent)
    return frozenset()
