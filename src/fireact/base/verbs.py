"""A verb is one record beside its code; this module lists the records, and resumes a run directory by its path.

Every verb has one shape: ``run(config, out, *, force, progress) -> manifest``. A record's module is imported only when
its verb is used. The command line, ``resume``, dry runs and studies read this list alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.cost import CostEstimate
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import build_settings, read_config
from fireact.errors import DataError

VERBS = {
    "quickstart": "fireact.pipeline.quickstart:QUICKSTART",
    "collect": "fireact.rollout.collection:COLLECT",
    "record": "fireact.recording.recorder:RECORD",
    "mix": "fireact.data.mixture:MIX",
    "doctor": "fireact.data.repair:DOCTOR",
    "train": "fireact.training.train:TRAIN",
    "prefer": "fireact.training.preference:PREFER",
    "tune": "fireact.hosted.tune:TUNE",
    "improve": "fireact.pipeline.improvement:IMPROVE",
    "export": "fireact.serving.export:EXPORT",
    "eval": "fireact.evaluation.evaluate:EVAL",
    "study": "fireact.study.runner:STUDY",
    "report": "fireact.reporting.assembly:REPORT",
}
"""Where the record of each verb is."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: its settings class, the function that runs it, and what the command line needs to know.

    ``neutral`` settings do not change the result. ``estimate``, a function or its module:function, tells the cost for a
    dry run. ``out`` is the default directory, or a function of the given options, described by ``out_help``.
    ``shorthand`` is a dataclass of options that are no settings; ``expand`` makes settings of them and of the options
    that were given.
    """

    name: str
    config: Any
    run: Callable[..., dict[str, Any]]
    example: str
    out: str | Callable[[Mapping[str, Any]], str]
    out_help: str = "Run directory to write."
    neutral: Sequence[str] = ()
    estimate: Callable[[Any], CostEstimate] | str | None = None
    shorthand: Any = None
    expand: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None = None
    show_defaults: bool = True
    has_dry_run: bool = True

    def estimate_cost(self, config: Any) -> CostEstimate | None:
        """The cost estimate of a run with these settings; None where the verb has none."""
        estimate = _import_object(self.estimate) if isinstance(self.estimate, str) else self.estimate
        return None if estimate is None else estimate(config)


def _import_object(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module_name), attribute)


def load_verb(name: str) -> Verb:
    """The record of a verb."""
    verb: Verb = _import_object(VERBS[name])
    return verb


def resume(out: Path, *, budget: str | None = None, progress: Progress = SILENT) -> dict[str, Any]:
    """Resume a run directory by its path alone, with a new ``budget`` where the old one was spent.

    Raises DataError when the path is no run directory or its settings cannot be used.
    """
    settings = read_config(out) | ({} if budget is None else {"budget": budget})
    name = str(settings.pop("verb", ""))
    if name not in VERBS:
        raise DataError(f"{out / 'config.toml'} names the verb {name!r}. Known: {', '.join(VERBS)}.")
    verb = load_verb(name)
    return verb.run(build_settings(verb.config, settings, out), out, progress=progress)
