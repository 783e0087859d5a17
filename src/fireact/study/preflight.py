"""What can be known to fail before anything is run: names that nothing stands behind, more of a thing than there is.

Invariant: nothing is trained, asked or bought. Of a dry run no key and no service is needed, so that what lies behind
them (questions on the hub, live tools, hosted models) is checked by its name alone; a run is asked for all it needs. What a
user has not given yet for ``{NAME}`` is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact import names
from fireact.agents import Model, build, load_model, load_task, load_tools
from fireact.collection import CollectConfig, budget_of
from fireact.data.filters import predicate
from fireact.errors import ConfigError, FireactError, unknown
from fireact.estimate import Probe
from fireact.evaluation.run import EvalConfig
from fireact.hosted.run import TuneConfig, from_spec
from fireact.models.keys import unasked
from fireact.models.weights import BUILT_IN
from fireact.store import TRAJECTORIES
from fireact.study.stages import PLACEHOLDER, Stage
from fireact.tasks.order import ORDERS
from fireact.tools.noise import parse
from fireact.types import Task, Usage

_OF_FILES = ("search", "snippets")
"""Tools that need a file at most, so that a dry run can build them."""
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def refuse(chains: Mapping[str, Sequence[Stage]], root: Path, *, whole: bool) -> None:
    """Raise ConfigError for the first cell that cannot be run, and why; ``whole``: keys and services must be there too."""
    check, seen = _Check(root, whole), set[str]()
    for cell, chain in chains.items():
        for stage in chain:
            if stage.key in seen or stage.done(root):
                continue
            seen.add(stage.key)
            try:
                check(stage)
            except FireactError as error:
                raise ConfigError(f"the cell {cell!r} cannot be run ({stage.verb}): {error}") from error


@dataclass
class _Check:
    """Checks stages, and remembers the tasks that it has read."""

    root: Path
    whole: bool
    _tasks: dict[str, Task] = field(default_factory=dict)
    _sizes: dict[tuple[str, str], int | None] = field(default_factory=dict)
    _tools: set[tuple[str, ...]] = field(default_factory=set)

    def __call__(self, stage: Stage) -> None:
        checks = {
            "collect": self._collect,
            "mix": self._mix,
            "train": self._train,
            "tune": self._tune,
            "eval": self._eval,
        }
        with nullcontext() if self.whole else unasked():
            checks[stage.verb](stage)

    def _collect(self, stage: Stage) -> None:
        config: CollectConfig = stage.config(self.root)
        model = self._model(config.teacher, config)
        asked = {name.rpartition("/")[::2]: config.start + count for name, count in config.plan.items()}
        if not asked or min(config.plan.values()) < 1 or config.start < 0:
            raise ConfigError(f"plan is {dict(config.plan)} from {config.start} on; it needs TASK/METHOD = 1 or more.")
        for (task, method), count in asked.items():
            self._asked(config, [task], count, model, method)

    def _eval(self, stage: Stage) -> None:
        config: EvalConfig = stage.config(self.root)
        if not config.tasks:
            raise ConfigError("tasks is empty; give one, such as geo-hop.")
        probe = Model(lm=Probe(), tuned=True, description="")
        model = probe if stage.needs else self._model(config.agent, config)
        self._asked(config, config.tasks, config.n, model, config.method, config.examples)
        found = Counter(self._task(task).name for task in config.tasks if not _open(task))
        if found and max(found.values()) > 1:
            raise ConfigError(f"two of the tasks {', '.join(config.tasks)} have the same name. Leave one out.")

    def _asked(
        self, config: Any, tasks: Iterable[str], count: int, model: Model, method: str, shots: int | None = None
    ) -> None:
        """What collections and evaluations share."""
        if config.order not in ORDERS:
            raise unknown("order", config.order, ORDERS)
        budget_of(config.budget, Usage())
        self._toolbox(config)
        for spec in tasks:
            if _open(spec) or _open(config.split):
                continue
            there = self._questions(spec, config.split)
            if count < 1 or (there is not None and count > there):
                raise ConfigError(
                    f"{count} questions of {spec} are asked for; its split {config.split} has {there or 'some'}. "
                    "Give a number from 1 to that."
                )
            build(
                model, self._task(spec), method=method, tools={}, examples=shots,
                temperature=config.temperature, repairs=config.repairs, native=config.native,
            )  # fmt: skip

    def _mix(self, stage: Stage) -> None:
        for text in stage.values.get("where", ()):
            predicate(text)
        sources = stage.inputs["sources"]
        collections = [one for one in sources if isinstance(one, Stage)]
        for one in sources:
            if isinstance(one, str) and not _open(one) and not _holds(Path(one).expanduser()):
                raise ConfigError(
                    f"from has {one!r}, which is neither a collection of the study nor a file. Give either."
                )
        wanted = {**stage.values.get("take", {}), **stage.values.get("weights", {})}
        if len(collections) < len(sources):
            return  # what a file holds is said when it is read
        there = Counter[str]()
        for one in collections:
            for name, count in one.values["plan"].items():
                task, _, method = name.rpartition("/")
                there[f"{task if _open(task) else self._task(task).name}/{method}"] += count
        for name, count in wanted.items():
            if name not in there and not _open(name):
                raise unknown("part of a mixture", name, there)
            if name in stage.values.get("take", {}) and "n" not in stage.values and count > there[name]:
                raise ConfigError(f"{count} of {name} are to be taken; no more than {there[name]} are collected.")
        if stage.values.get("n") and stage.values["n"] > there.total():
            raise ConfigError(
                f"{stage.values['n']} trajectories are to be taken; no more than {there.total()} are collected."
            )

    def _train(self, stage: Stage) -> None:
        student = stage.student
        if student.startswith(("scripted:", "replay:")):
            raise ConfigError(
                f"{student!r} cannot be fine-tuned. Give {BUILT_IN}, a model of the hub, a directory or KIND:MODEL of a provider."
            )
        self._model(student, None)
        names.resolve("renderer", stage.values.get("renderer", "react"))

    def _tune(self, stage: Stage) -> None:
        config: TuneConfig = stage.config(self.root)
        if self.whole and not _open(config.model):
            from_spec(config.model)

    def _model(self, spec: str, config: Any) -> Model:
        """The model behind a name; weights are not looked for where there is a hub to ask."""
        probe = Model(lm=Probe(), tuned=False, description=spec)
        prefix, separator, rest = spec.partition(":")
        if _open(spec) or (config is not None and config.calls == "replay"):
            return probe
        name = rest if prefix == "hf" else spec
        if (separator and prefix != "hf") or Path(spec).is_dir():
            return load_model(spec)
        if name != BUILT_IN and not Path(name).is_dir() and not _ON_HUB.fullmatch(name):
            known = [BUILT_IN, "OWNER/NAME on the hub", "a directory", *(f"{one}:..." for one in names.known("model"))]
            raise unknown("model", spec, known)
        return probe

    def _toolbox(self, config: Any) -> None:
        specs = tuple(config.tools)
        if specs in self._tools:
            return
        for spec in specs:
            _check_tool(spec)
        if self.whole and config.calls != "replay" and not any(map(_open, specs)):
            load_tools(specs)
        self._tools.add(specs)

    def _task(self, spec: str) -> Task:
        if spec not in self._tasks:
            self._tasks[spec] = load_task(spec)
        return self._tasks[spec]

    def _questions(self, spec: str, split: str) -> int | None:
        """How many questions a split has; None where only the hub could tell. Raises ConfigError for an unknown split."""
        if (spec, split) not in self._sizes:
            task = self._task(spec)
            remote = getattr(task, "folder", "") is None
            splits: Sequence[str] = getattr(task, "splits", (split,))
            if remote and split not in splits:
                raise unknown(f"split of {spec}", split, splits)
            self._sizes[spec, split] = None if remote and not self.whole else len(task.examples(split))
        return self._sizes[spec, split]


def _check_tool(spec: str) -> None:
    """Raise ConfigError for a tool that there is not, and for noise that there is not."""
    name, _, rest = spec.partition(":")
    if name == "noise":
        text, _, inner = rest.partition(":")
        if not _open(text.partition("queries=")[0]):
            parse(text)
        _check_tool(inner)
    elif _open(spec) or name in names.known("tool"):
        if name in _OF_FILES and not _open(spec):
            load_tools([spec])
    else:
        names.resolve("tool", spec)


def _holds(path: Path) -> bool:
    """Whether a path is a file, or a run directory with trajectories."""
    return path.is_file() or (path / TRAJECTORIES).is_file()


def _open(text: str) -> bool:
    """Whether a text has a ``{NAME}`` that nobody gave a value for."""
    return PLACEHOLDER.search(text) is not None
