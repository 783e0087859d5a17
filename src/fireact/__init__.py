"""FireAct: language agents by fine-tuning (Chen et al. 2023).

``import fireact`` is light: a name loads its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fireact.base.run_directory import read_trajectories
    from fireact.base.verbs import resume
    from fireact.data import Dataset, MixConfig, mix
    from fireact.errors import ConfigError, DataError, FireactError, FormatError, ProviderError, ToolError
    from fireact.evaluation.evaluate import EvalConfig, evaluate
    from fireact.formats.conversion import convert
    from fireact.formats.read import read_any
    from fireact.formats.source import Damage, SourceFile
    from fireact.pipeline.quickstart import QuickstartConfig, quickstart
    from fireact.recording.recorder import RecordConfig, recorder
    from fireact.recording.scores import score
    from fireact.reporting.assembly import ReportConfig, report
    from fireact.rollout.agents import load_tools
    from fireact.rollout.collection import CollectConfig, collect
    from fireact.rollout.episodes import Agent, Episode, run_episodes
    from fireact.training.recipe import Recipe
    from fireact.training.train import TrainConfig, train
    from fireact.types import (
        LM,
        Action,
        Call,
        Completion,
        Example,
        Limits,
        Message,
        Method,
        Step,
        Task,
        Tool,
        Trajectory,
        Usage,
    )

_HOME = {
    "rollout.agents": ("load_tools",),
    "rollout.collection": ("CollectConfig", "collect"),
    "data": ("Dataset", "MixConfig", "mix"),
    "errors": ("ConfigError", "DataError", "FireactError", "FormatError", "ProviderError", "ToolError"),
    "evaluation.evaluate": ("EvalConfig", "evaluate"),
    "formats.conversion": ("convert",),
    "formats.read": ("read_any",),
    "formats.source": ("Damage", "SourceFile"),
    "pipeline.quickstart": ("QuickstartConfig", "quickstart"),
    "recording.recorder": ("RecordConfig", "recorder"),
    "recording.scores": ("score",),
    "reporting.assembly": ("ReportConfig", "report"),
    "rollout.episodes": ("Agent", "Episode", "run_episodes"),
    "base.run_directory": ("read_trajectories",),
    "training.recipe": ("Recipe",),
    "training.train": ("TrainConfig", "train"),
    "types": (
        "LM", "Action", "Call", "Completion", "Example", "Limits", "Message", "Method", "Step", "Task", "Tool",
        "Trajectory", "Usage",
    ),
    "base.verbs": ("resume",),
}  # fmt: skip
_MODULE = {name: module for module, exports in _HOME.items() for name in exports}

__all__ = [
    "LM",
    "Action",
    "Agent",
    "Call",
    "CollectConfig",
    "Completion",
    "ConfigError",
    "Damage",
    "DataError",
    "Dataset",
    "Episode",
    "EvalConfig",
    "Example",
    "FireactError",
    "FormatError",
    "Limits",
    "Message",
    "Method",
    "MixConfig",
    "ProviderError",
    "QuickstartConfig",
    "Recipe",
    "RecordConfig",
    "ReportConfig",
    "SourceFile",
    "Step",
    "Task",
    "Tool",
    "ToolError",
    "TrainConfig",
    "Trajectory",
    "Usage",
    "collect",
    "convert",
    "evaluate",
    "load_tools",
    "mix",
    "quickstart",
    "read_any",
    "read_trajectories",
    "recorder",
    "report",
    "resume",
    "run_episodes",
    "score",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'fireact' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fireact.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
