"""The table of verbs: for each its settings and its function, so that a run directory can be gone on with by its path.

Every function has one shape: ``verb(config, out, *, force, progress) -> manifest``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fireact.errors import DataError
from fireact.progress import SILENT, Progress
from fireact.store import read_config, settings_from

Verb = Callable[..., dict[str, Any]]

VERBS = {
    "collect": "fireact.collection:CollectConfig:collect",
    "record": "fireact.recording.run:RecordConfig:conclude",
    "mix": "fireact.data:MixConfig:mix",
    "doctor": "fireact.data.repair:DoctorConfig:repair",
    "train": "fireact.training.run:TrainConfig:train",
    "tune": "fireact.hosted.run:TuneConfig:tune",
    "prefer": "fireact.training.preference:PreferConfig:prefer",
    "improve": "fireact.improvement:ImproveConfig:improve",
    "eval": "fireact.evaluation.run:EvalConfig:evaluate",
    "report": "fireact.reporting.run:ReportConfig:report",
    "export": "fireact.serving.export:ExportConfig:export",
    "study": "fireact.study.run:StudyConfig:study",
    "quickstart": "fireact.line:QuickstartConfig:quickstart",
}


EXPECTED = {
    "collect": "fireact.collection:expected",
    "eval": "fireact.evaluation.run:expected",
    "tune": "fireact.hosted.run:expected",
    "train": "fireact.training.forecast:expected",
    "prefer": "fireact.training.forecast:expected_preference",
    "improve": "fireact.improvement:expected",
}
"""For a dry run: what a verb would take."""


def expected(verb: str, config: Any) -> dict[str, Any] | None:
    """What a verb would take with these settings; None where it does not say."""
    if verb not in EXPECTED:
        return None
    module_name, _, function = EXPECTED[verb].partition(":")
    found: dict[str, Any] = getattr(importlib.import_module(module_name), function)(config)
    return found


def load(verb: str) -> tuple[type[Any], Verb]:
    """The settings class and the function of a verb."""
    module_name, config, function = VERBS[verb].split(":")
    module = importlib.import_module(module_name)
    return getattr(module, config), getattr(module, function)


def resume(out: Path, *, budget: str | None = None, progress: Progress = SILENT) -> dict[str, Any]:
    """Go on with a run directory by nothing but its path, with another ``budget`` where it was spent.

    Raises DataError when it is none, or its settings are odd.
    """
    settings = read_config(out) | ({} if budget is None else {"budget": budget})
    verb = str(settings.pop("verb", ""))
    if verb not in VERBS:
        raise DataError(f"{out / 'config.toml'} names the verb {verb!r}. Known: {', '.join(VERBS)}.")
    config_class, function = load(verb)
    return function(settings_from(config_class, settings, out), out, progress=progress)
