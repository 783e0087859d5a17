"""Marks the episodes of a run whose questions its agent was trained on, where the run did not mark them itself.

Invariant: a run of ``eval`` that knows the setting ``allow`` has marked its episodes. For an earlier one the marks come
from the questions of its agent, where that is still here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from fireact.errors import ConfigError, DataError
from fireact.evaluation.breakdown import TRAINED
from fireact.tasks.question_hash import hash_question
from fireact.training.trained_questions import find_trained_questions
from fireact.types import Trajectory


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
