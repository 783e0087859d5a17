"""FireAct: language agents by fine-tuning (Chen et al. 2023).

``import fireact`` is light: a name loads its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fireact.base.commands import FUNCTIONS as _FUNCTIONS

if TYPE_CHECKING:
    from fireact.base.progress import Progress
    from fireact.base.run_directory import read_trajectories
    from fireact.data import Dataset, MixConfig
    from fireact.errors import ConfigError, DataError, FireactError, FormatError, ProviderError, ToolError
    from fireact.evaluation.evaluate import EvalConfig
    from fireact.formats.read import read_any
    from fireact.formats.source import Damage, SourceFile
    from fireact.pipeline.frame import frame
    from fireact.pipeline.functions import CommandFunction, VerbFunction
    from fireact.pipeline.quickstart import QuickstartConfig
    from fireact.pipeline.result import Result, Run
    from fireact.recording.recorder import RecordConfig
    from fireact.reporting.assembly import ReportConfig
    from fireact.rollout.collection import CollectConfig
    from fireact.rollout.episodes import Agent, Episode, run_episodes
    from fireact.rollout.loading import load_tools
    from fireact.training.recipe import Recipe
    from fireact.training.train import TrainConfig
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

    ask: CommandFunction
    cancel: CommandFunction
    collect: VerbFunction
    compare: CommandFunction
    convert: CommandFunction
    doctor: VerbFunction
    evaluate: VerbFunction
    export: VerbFunction
    improve: VerbFunction
    join: CommandFunction
    launch: CommandFunction
    mix: VerbFunction
    prefer: VerbFunction
    publish: CommandFunction
    quickstart: VerbFunction
    record: VerbFunction
    report: VerbFunction
    resume: CommandFunction
    score: CommandFunction
    serve: CommandFunction
    show: CommandFunction
    train: VerbFunction
    tune: VerbFunction
    validate: CommandFunction
    view: CommandFunction

_HOME = {
    "base.progress": ("Progress",),
    "base.run_directory": ("read_trajectories",),
    "data": ("Dataset", "MixConfig"),
    "errors": ("ConfigError", "DataError", "FireactError", "FormatError", "ProviderError", "ToolError"),
    "evaluation.evaluate": ("EvalConfig",),
    "formats.read": ("read_any",),
    "formats.source": ("Damage", "SourceFile"),
    "pipeline.frame": ("frame",),
    "pipeline.quickstart": ("QuickstartConfig",),
    "pipeline.result": ("Result", "Run"),
    "recording.recorder": ("RecordConfig",),
    "reporting.assembly": ("ReportConfig",),
    "rollout.loading": ("load_tools",),
    "rollout.collection": ("CollectConfig",),
    "rollout.episodes": ("Agent", "Episode", "run_episodes"),
    "training.recipe": ("Recipe",),
    "training.train": ("TrainConfig",),
    "types": (
        "LM", "Action", "Call", "Completion", "Example", "Limits", "Message", "Method", "Step", "Task", "Tool",
        "Trajectory", "Usage",
    ),
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
    "Progress",
    "ProviderError",
    "QuickstartConfig",
    "Recipe",
    "RecordConfig",
    "ReportConfig",
    "Result",
    "Run",
    "SourceFile",
    "Step",
    "Task",
    "Tool",
    "ToolError",
    "TrainConfig",
    "Trajectory",
    "Usage",
    "ask",
    "cancel",
    "collect",
    "compare",
    "convert",
    "doctor",
    "evaluate",
    "export",
    "frame",
    "improve",
    "join",
    "launch",
    "load_tools",
    "mix",
    "prefer",
    "publish",
    "quickstart",
    "read_any",
    "read_trajectories",
    "record",
    "render",
    "report",
    "resume",
    "run_episodes",
    "score",
    "serve",
    "show",
    "study",
    "train",
    "tune",
    "validate",
    "view",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(importlib.import_module(f"fireact.{_MODULE[name]}"), name)
    if name in ("render", "study"):
        return importlib.import_module(f"fireact.{name}")
    if name in _FUNCTIONS:
        return importlib.import_module("fireact.pipeline.functions").load_function(name)
    raise AttributeError(f"module 'fireact' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
