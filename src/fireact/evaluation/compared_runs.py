"""Reading the runs of a comparison: run directories, recordings, and files of episodes in any format.

Invariant: of two runs, a question has one task and id, whatever each of them calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.base.run_directory import CONFIG, read_config, read_manifest, read_trajectories, relative_path
from fireact.errors import ConfigError, DataError
from fireact.evaluation.conditions import Conditions, conditions_of
from fireact.evaluation.pairing import match_by_question
from fireact.evaluation.trained_marks import mark_trained_questions
from fireact.formats.read import read_any
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run to compare: its episodes, their agent and their conditions."""

    name: str
    agent: str
    description: str
    trajectories: Sequence[Trajectory]
    conditions: Conditions
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)


def read_scored_runs(before: Path, after: Path) -> tuple[ComparedRun, ComparedRun]:
    """Read two runs to compare; questions that both have under other tasks or ids get those of the first run.

    Raises DataError where one cannot be read, is not complete or has no scores.
    """
    first, second = read_scored_run(before), read_scored_run(after)
    trajectories = match_by_question(first.trajectories, second.trajectories)
    return first, _build_run(second.name, trajectories, second.config, second.manifest)


def read_scored_run(path: Path) -> ComparedRun:
    """Read a run to compare. Raises DataError where ``read_compared_run`` does, or where no episode has scores."""
    run = read_compared_run(path)
    if not any(trajectory.scores for trajectory in run.trajectories):
        raise DataError(f"no episode in {path} has scores, so there is nothing to compare. Score it: fireact score.")
    return run


def read_compared_run(path: Path) -> ComparedRun:
    """Read a directory of ``eval`` or ``collect``, or any file that ``convert`` reads, with or without scores.

    Raises DataError where it cannot be read or is not complete.
    """
    config, manifest = (read_config(path), read_manifest(path)) if (path / CONFIG).is_file() else ({}, {})
    if config.get("verb") == "quickstart":
        raise ConfigError(f"{path} is a directory of quickstart. Compare {path}/eval-base with {path}/eval-fireact.")
    if config.get("verb") in ("study", "report"):
        raise ConfigError(
            f"{path} is a directory of {config['verb']} and contains several runs. "
            "Give two of them, or see all: fireact report."
        )
    trajectories = mark_trained_questions(read_trajectories(path) if config else read_any(path), config)
    return _build_run(relative_path(path), trajectories, config, manifest)


def _build_run(
    name: str, trajectories: Sequence[Trajectory], config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> ComparedRun:
    models = ", ".join(dict.fromkeys(trajectory.model or "unnamed" for trajectory in trajectories))
    return ComparedRun(
        name=name,
        agent=str(manifest.get("agent", models)),
        description=str(manifest.get("description", models)),
        trajectories=trajectories,
        conditions=conditions_of(name, trajectories, config=config, manifest=manifest),
        config=config,
        manifest=manifest,
    )
