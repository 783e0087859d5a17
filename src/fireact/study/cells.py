"""The cells of a study: each is one agent under one set of conditions, made from the product of a block's axes.

Invariant: no two cells have the same name; every name that a cell uses (a mixture, a cell to compare with) is there; a
cell knows its axes by their labels. What a cell needs to be run is ``stages``' business.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any, get_type_hints

from fireact import names
from fireact.errors import ConfigError, unknown
from fireact.evaluation.run import EvalConfig
from fireact.study.file import CHOICES, StudyFile
from fireact.study.shape import fit, fit_fields
from fireact.tasks.files import is_file
from fireact.training.recipe import Recipe

EVALUATION = (
    "tasks", "n", "method", "examples", "tools", "split", "order", "temperature", "repairs", "native", "budget", "workers",
)  # fmt: skip
"""Settings that go to ``eval`` as they are."""
RECIPE = tuple(entry.name for entry in fields(Recipe) if entry.name != "seed")
SETTINGS: Mapping[str, Any] = {
    "base": str, "mixture": str, "size": int, "seed": int, "noise": str, "renderer": str, "recipe": str, "few_shot": int,
    **{name: get_type_hints(EvalConfig)[name] for name in EVALUATION},
    **{name: get_type_hints(Recipe)[name] for name in RECIPE},
}  # fmt: skip
"""The settings of a cell with their types. ``base`` is the model; with a ``mixture`` it is fine-tuned on it, ``size``
trajectories of it, with ``recipe`` and what of it is changed (at its provider, which takes ``epochs`` alone, where the base is
KIND:MODEL of one); without, it is prompted by ``method``. ``seed`` draws the
sample and the initial weights; ``noise`` disturbs the tools while it is measured, in the words of the tool ``noise:``. A fine-tuned agent is shown no
examples and chooses its method itself, but where ``few_shot`` is given it is prompted with so many examples of ``method``, as a
model that was not fine-tuned is (paper, Table 14)."""
_BLOCK: Mapping[str, Any] = {
    "name": str, "axes": Sequence[str], "against": str, "exclude": Sequence[Mapping[str, Any]],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One agent: its name, where it stands on each axis (labels), its settings, and the cell that it is compared with.

    ``group`` is the name without the seed, which cells that differ in nothing else share.
    """

    name: str
    group: str
    axes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    against: str = ""

    @property
    def tuned(self) -> bool:
        return bool(self.settings.get("mixture"))

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 0))


def cells(study: StudyFile) -> list[Cell]:
    """All cells of a study in order. Raises ConfigError for a name that nothing stands behind, or a name twice."""
    found = _all(study)
    _refuse_loose(study, [*found, *(cell for other in study.others for cell in _all(other))])
    return found


def _all(study: StudyFile) -> list[Cell]:
    _refuse_misshapen(study)
    found = [cell for block in study.cells for cell in _product(block, study)]
    if not found:
        raise ConfigError(f"the study {study.name} has no cells: its axes are empty, or all is excluded.")
    known = [cell.name for cell in found]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"the study {study.name} has two cells named {twice!r}. Put what differs into name: {{AXIS}}."
        )
    named = [("choice", name) for name in study.choice]
    named += [("chooser", study.chooser)] if study.chooser else []
    named += [(f"what {cell.name} is compared with", cell.against) for cell in found if cell.against]
    for where, name in named:
        if name not in known and name not in {cell.group for cell in found}:
            raise unknown(f"cell ({where})", name, known)
    for plot in study.plots:
        if plot.x and not any(plot.x in cell.axes for cell in found):
            raise unknown("axis of a curve", plot.x, study.axes)
    return found


def _refuse_loose(study: StudyFile, found: Sequence[Cell]) -> None:
    """Raise ConfigError for a figure whose cell there is at no size, or whose task is none of its cell's."""
    choices = CHOICES if study.choice or any(other.choice for other in study.others) else ()
    for figure in study.paper:
        beside = [cell for cell in found if figure.beside(cell.name, cell.group)]
        wanted = [figure.cell] if isinstance(figure.cell, str) else figure.cell
        lacking = [one for one in wanted if not any(fnmatchcase(n, one) for c in found for n in (c.name, c.group))]
        for name in lacking:
            if name and name not in choices:
                raise unknown(f"cell (the figure {figure.label!r})", name, {*choices, *(cell.group for cell in found)})
        tasks = {_task(spec) for cell in beside for spec in cell.settings.get("tasks", EvalConfig("").tasks)}
        if figure.task and "" not in tasks and figure.task not in tasks:
            raise unknown(f"task (the figure {figure.label!r})", figure.task, tasks)


def _task(spec: str) -> str:
    """What the task of a spec is named: as the spec is, or as its file; empty where only the user's own code knows."""
    first, separator, _ = spec.partition(":")
    if separator and first not in names.known("task") and not is_file(spec):
        return ""
    return PurePath(first).stem if is_file(spec) else first


def _refuse_misshapen(study: StudyFile) -> None:
    """Raise ConfigError for a setting that there is not, and for a value of another type than its setting has."""
    where = f"the study {study.name}"
    fit_fields(study.shared, SETTINGS, f"{where}: shared")
    for number, block in enumerate(study.cells, 1):
        fit_fields(block, {**SETTINGS, **_BLOCK}, f"{where}: cells (number {number})")
    for name in dict.fromkeys(name for block in study.cells for name in block.get("axes", ())):
        for number, value in enumerate(study.axes.get(name, ()), 1):
            place = f"{where}: axes.{name} (number {number})"
            fit(_label(value), str | int | float | bool, f"{place}.label" if isinstance(value, Mapping) else place)
            fit_fields(_settings(name, value), SETTINGS, place)


def _product(block: Mapping[str, Any], study: StudyFile) -> Iterator[Cell]:
    settings = {key: value for key, value in block.items() if key not in _BLOCK}
    axes: Sequence[str] = block.get("axes", ())
    for name in axes:
        if name not in study.axes:
            raise unknown(f"axis of the cells {block.get('name', '')!r}", name, study.axes)
    for values in itertools.product(*(study.axes[name] for name in axes)):
        labels = {name: _label(value) for name, value in zip(axes, values, strict=True)}
        if any(all(str(labels.get(key)) == str(one) for key, one in row.items()) for row in block.get("exclude", ())):
            continue
        chosen = dict(study.shared) | settings
        for name, value in zip(axes, values, strict=True):
            chosen |= _settings(name, value)
        yield _cell(block, labels, chosen, study)


def _cell(block: Mapping[str, Any], labels: Mapping[str, Any], settings: dict[str, Any], study: StudyFile) -> Cell:
    mixture = settings.get("mixture", "")
    if mixture and mixture not in study.mixtures:
        raise unknown("mixture", mixture, study.mixtures)
    group = _filled(str(block.get("name", "")), labels)
    seeded = "seed" in labels and "{seed}" not in str(block.get("name", ""))
    name = f"{group}, seed {labels['seed']}" if seeded else group
    if not name:
        raise ConfigError(f"the study {study.name}: a block of [[cells]] has no name.")
    against = _filled(str(block.get("against", study.baseline)), labels)
    return Cell(name, group, labels, settings, "" if against in (name, group) else against)


def _label(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "label" not in value:
            raise ConfigError(f"a value of an axis is {dict(value)}; a table needs a label.")
        return value["label"]
    return value


def _settings(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {key: one for key, one in value.items() if key != "label"}
    return {name: value}


def _filled(text: str, labels: Mapping[str, Any]) -> str:
    for name, label in labels.items():
        text = text.replace(f"{{{name}}}", str(label))
    return text
