"""The table of verbs with the settings class and function of each, so that a run directory can be resumed by its path.

Every function has one shape: ``verb(config, out, *, force, progress) -> manifest``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import build_settings, read_config
from fireact.errors import DataError

Verb = Callable[..., dict[str, Any]]

VERBS = {
    "collect": "fireact.rollout.collection:CollectConfig:collect",
    "record": "fireact.recording.recorder:RecordConfig:conclude",
    "mix": "fireact.data:MixConfig:mix",
    "doctor": "fireact.data.repair:DoctorConfig:write_repaired_copy",
    "train": "fireact.training.train:TrainConfig:train",
    "tune": "fireact.hosted.tune:TuneConfig:tune",
    "prefer": "fireact.training.preference:PreferConfig:prefer",
    "improve": "fireact.pipeline.improvement:ImproveConfig:improve",
    "eval": "fireact.evaluation.evaluate:EvalConfig:evaluate",
    "report": "fireact.reporting.assembly:ReportConfig:report",
    "export": "fireact.serving.export:ExportConfig:export",
    "study": "fireact.study.runner:StudyConfig:run_study",
    "quickstart": "fireact.pipeline.quickstart:QuickstartConfig:quickstart",
}


ESTIMATORS = {
    "collect": "fireact.rollout.collection:estimate_collection",
    "eval": "fireact.evaluation.evaluate:estimate_evaluation",
    "tune": "fireact.hosted.tune:estimate_job",
    "train": "fireact.training.forecast:estimate_training",
    "prefer": "fireact.training.forecast:estimate_preference",
    "improve": "fireact.pipeline.improvement:estimate_improvement",
}
"""The function of each verb that estimates its cost for a dry run."""


def estimate_verb(verb: str, config: Any) -> dict[str, Any] | None:
    """The cost estimate of a verb with these settings; None where the verb has none."""
    if verb not in ESTIMATORS:
        return None
    module_name, _, function = ESTIMATORS[verb].partition(":")
    estimate: dict[str, Any] = getattr(importlib.import_module(module_name), function)(config)
    return estimate


def load_verb(verb: str) -> tuple[type[Any], Verb]:
    """The settings class and the function of a verb."""
    module_name, config, function = VERBS[verb].split(":")
    module = importlib.import_module(module_name)
    return getattr(module, config), getattr(module, function)


def resume(out: Path, *, budget: str | None = None, progress: Progress = SILENT) -> dict[str, Any]:
    """Resume a run directory by its path alone, with a new ``budget`` where the old one was spent.

    Raises DataError when the path is no run directory or its settings cannot be used.
    """
    settings = read_config(out) | ({} if budget is None else {"budget": budget})
    verb = str(settings.pop("verb", ""))
    if verb not in VERBS:
        raise DataError(f"{out / 'config.toml'} names the verb {verb!r}. Known: {', '.join(VERBS)}.")
    config_class, function = load_verb(verb)
    return function(build_settings(config_class, settings, out), out, progress=progress)
