"""Checks, before anything is run, for what is bound to fail: unknown names, and more questions than a split has.

Invariant: nothing is trained, asked or bought. A dry run needs no key and no service: questions on the hub, live tools
and hosted models are checked by name only. A real run checks everything that it needs. A setting with a ``{NAME}``
that the user has not given a value for yet is skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.base import names
from fireact.base.keys import without_keys
from fireact.base.run_directory import TRAJECTORIES
from fireact.data.filters import predicate
from fireact.errors import ConfigError, FireactError, unknown_name_error
from fireact.evaluation.evaluate import EvalConfig
from fireact.evaluation.recorded_questions import load_recorded_questions
from fireact.hosted.tune import load_provider
from fireact.models.weights import BUILT_IN
from fireact.rollout.collection import CollectConfig
from fireact.rollout.estimate import PromptProbe
from fireact.rollout.loading import load_task, load_tools
from fireact.rollout.models import Model, load_model
from fireact.study.stages import PLACEHOLDER, Stage, question_groups
from fireact.tasks.order import ORDERS
from fireact.tools.noise import parse_noise
from fireact.types import Task

_FILE_TOOLS = ("search", "snippets")
"""Tools that need at most a file, so that a dry run can build them."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_cells(chains: Mapping[str, Sequence[Stage]], root: Path, *, with_services: bool) -> None:
    """Raise ConfigError for the first cell that cannot be run, and say why.

    ``with_services`` also checks that keys and services are available.
    """
    check_stage, checked_keys = _StageChecker(root, with_services), set[str]()
    for cell, chain in chains.items():
        for stage in chain:
            if stage.key in checked_keys or stage.is_complete(root):
                continue
            checked_keys.add(stage.key)
            try:
                check_stage(stage)
            except FireactError as error:
                raise ConfigError(f"the cell {cell!r} cannot be run ({stage.verb}): {error}") from error


@dataclass
class _StageChecker:
    """Checks stages, and keeps the tasks that it has loaded."""

    root: Path
    with_services: bool
    _tasks: dict[str, Task] = field(default_factory=dict)
    _split_sizes: dict[tuple[str, str], int | None] = field(default_factory=dict)
    _checked_tools: set[tuple[str, ...]] = field(default_factory=set)

    def __call__(self, stage: Stage) -> None:
        with nullcontext() if self.with_services else without_keys():
            if stage.is_rollout:
                self._check_rollout(stage)
            elif stage.student:
                self._check_training(stage)
            else:
                self._check_mixture(stage)

    def _check_rollout(self, stage: Stage) -> None:
        config: CollectConfig | EvalConfig = stage.config(self.root)
        groups, start, shots = question_groups(config), 0, None
        if isinstance(config, CollectConfig):
            start = config.start
            if not groups or min(config.plan.values()) < 1 or start < 0:
                raise ConfigError(f"plan is {dict(config.plan)} from {start} on; it needs TASK/METHOD = 1 or more.")
        else:
            shots = config.examples
            if not groups:
                raise ConfigError("tasks is empty; give one, such as geo-hop.")
        probe = Model(lm=PromptProbe(), tuned=True, description="")
        model = probe if stage.dependencies else self._find_model(stage.model, config)
        if isinstance(config, EvalConfig) and config.questions_of is not None:
            self._check_tools(config)
            for recorded in load_recorded_questions(config.questions_of, next(iter(config.tasks), None)):
                config.build_agent(model, recorded, config.method, {}, examples=shots)
            return
        for task, method, count in groups:
            self._check_questions(config, task, start + count, model, method, shots)
        task_names = [self._load_task(task).name for task, _, _ in groups if not _has_placeholder(task)]
        if isinstance(config, EvalConfig) and len(set(task_names)) < len(task_names):
            tasks = ", ".join(config.tasks)
            raise ConfigError(f"two of the tasks {tasks} have the same name. Leave one out.")

    def _check_questions(
        self,
        config: CollectConfig | EvalConfig,
        task: str,
        count: int,
        model: Model,
        method: str,
        shots: int | None,
    ) -> None:
        """Check the settings of episodes, and that the split of a task has as many questions."""
        if config.order not in ORDERS:
            raise unknown_name_error("order", config.order, ORDERS)
        self._check_tools(config)
        if _has_placeholder(task) or _has_placeholder(config.split):
            return
        available = self._count_questions(task, config.split)
        if count < 1 or (available is not None and count > available):
            raise ConfigError(
                f"{count} questions of {task} are asked for; its split {config.split} has {available or 'some'}. "
                "Give a number from 1 to that."
            )
        config.build_agent(model, self._load_task(task), method, {}, examples=shots)

    def _check_mixture(self, stage: Stage) -> None:
        for text in stage.values.get("where", ()):
            predicate(text)
        for source in stage.sources:
            if isinstance(source, Stage) or _has_placeholder(source):
                continue
            path = Path(source).expanduser()
            if not path.is_file() and not (path / TRAJECTORIES).is_file():
                raise ConfigError(
                    f"from has {source!r}, which is neither a collection of the study nor a file. Give either."
                )
        if len(stage.dependencies) < len(stage.sources):
            return  # the contents of a file are checked when it is read
        collected_counts = Counter[str]()
        for collection in stage.dependencies:
            for task, method, count in question_groups(collection.config(self.root)):
                collected_counts[f"{task if _has_placeholder(task) else self._load_task(task).name}/{method}"] += count
        total, taken_counts = stage.values.get("n"), stage.values.get("take", {})
        for name, count in {**taken_counts, **stage.values.get("weights", {})}.items():
            if name not in collected_counts and not _has_placeholder(name):
                raise unknown_name_error("source of a mixture (TASK/METHOD)", name, collected_counts)
            if name in taken_counts and total is None and count > collected_counts[name]:
                raise ConfigError(
                    f"{count} of {name} are to be taken; no more than {collected_counts[name]} are collected."
                )
        if total and total > collected_counts.total():
            raise ConfigError(
                f"{total} trajectories are to be taken; no more than {collected_counts.total()} are collected."
            )

    def _check_training(self, stage: Stage) -> None:
        if stage.verb == "tune":
            if self.with_services and not _has_placeholder(stage.student):
                load_provider(stage.student)
            return
        if stage.student.startswith(("scripted:", "replay:")):
            raise ConfigError(
                f"{stage.student!r} cannot be fine-tuned. Give {BUILT_IN}, a model of the hub, a directory, or "
                "KIND:MODEL of a provider."
            )
        self._find_model(stage.student, None)
        names.resolve_plugin("renderer", stage.values.get("renderer", "react"))

    def _find_model(self, spec: str, config: Any) -> Model:
        """The model of a spec; a probe stands in for weights that may be on the hub."""
        probe = Model(lm=PromptProbe(), tuned=False, description=spec)
        prefix, separator, suffix = spec.partition(":")
        if _has_placeholder(spec) or (config is not None and config.calls == "replay"):
            return probe
        name = suffix if prefix == "hf" else spec
        if (separator and prefix != "hf") or Path(spec).is_dir():
            return load_model(spec)
        if name != BUILT_IN and not Path(name).is_dir() and not _HUB_NAME.fullmatch(name):
            known_models = [
                BUILT_IN,
                "OWNER/NAME on the hub",
                "a directory",
                *(f"{kind}:..." for kind in names.known_names("model")),
            ]
            raise unknown_name_error("model", spec, known_models)
        return probe

    def _check_tools(self, config: Any) -> None:
        specs = tuple(config.tools)
        if specs in self._checked_tools:
            return
        for spec in specs:
            _check_tool(spec)
        if self.with_services and config.calls != "replay" and not any(map(_has_placeholder, specs)):
            load_tools(specs)
        self._checked_tools.add(specs)

    def _load_task(self, spec: str) -> Task:
        if spec not in self._tasks:
            self._tasks[spec] = load_task(spec)
        return self._tasks[spec]

    def _count_questions(self, spec: str, split: str) -> int | None:
        """How many questions a split has; None if only the hub knows. Raises ConfigError for an unknown split."""
        if (spec, split) not in self._split_sizes:
            task = self._load_task(spec)
            remote = getattr(task, "folder", "") is None
            splits: Sequence[str] = getattr(task, "splits", (split,))
            if remote and split not in splits:
                raise unknown_name_error(f"split of {spec}", split, splits)
            self._split_sizes[spec, split] = None if remote and not self.with_services else len(task.examples(split))
        return self._split_sizes[spec, split]


def _check_tool(spec: str) -> None:
    """Raise ConfigError for an unknown tool, and for a noise setting that cannot be parsed."""
    name, _, arguments = spec.partition(":")
    if name == "noise":
        noise_text, _, inner_spec = arguments.partition(":")
        if not _has_placeholder(noise_text.partition("queries=")[0]):
            parse_noise(noise_text)
        _check_tool(inner_spec)
    elif _has_placeholder(spec) or name in names.known_names("tool"):
        if name in _FILE_TOOLS and not _has_placeholder(spec):
            load_tools([spec])
    else:
        names.resolve_plugin("tool", spec)


def _has_placeholder(text: str) -> bool:
    """Whether a text has a ``{NAME}`` without a value."""
    return PLACEHOLDER.search(text) is not None
