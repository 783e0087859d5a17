"""The cells of a study: each is one agent under one set of conditions, made from the product of a block's axes.

Invariant: no two cells have the same name. Every name that a cell uses (a mixture, a cell to compare with) exists. A
cell knows its axes by their labels. The module ``stages`` knows what it takes to run a cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any, get_type_hints

from fireact.base import names
from fireact.base.settings import check_fields, check_type, read_settings
from fireact.errors import ConfigError, unknown_name_error
from fireact.evaluation.evaluate import EvalConfig
from fireact.models.weights import BUILT_IN
from fireact.study.file import CHOICES, StudyFile
from fireact.tasks.files import is_file_spec
from fireact.training.recipe import Recipe

EVAL_SETTINGS = tuple(
    entry.name
    for entry in read_settings(EvalConfig)
    if entry.name not in ("agent", "seed", "calls", "cache", "endpoint", "shard")
)
"""Settings that are passed to ``eval`` unchanged."""
RECIPE_SETTINGS = tuple(entry.name for entry in fields(Recipe) if entry.name != "seed")
SETTINGS: Mapping[str, Any] = {
    "base": str, "mixture": str, "size": int, "seed": int, "noise": str, "renderer": str, "recipe": str,
    "few_shot": int,
    **{name: get_type_hints(EvalConfig)[name] for name in EVAL_SETTINGS},
    **{name: get_type_hints(Recipe)[name] for name in RECIPE_SETTINGS},
}  # fmt: skip
"""The settings of a cell with their types.

``base`` is the model. With a ``mixture`` it is fine-tuned on ``size`` trajectories of that mixture; without one it is
prompted by ``method``. ``recipe``, and single fields of a recipe, set the training. Where ``base`` is the KIND:MODEL of
a provider, the provider trains it and takes only ``epochs``. ``seed`` draws the sample and the initial weights.
``noise`` disturbs the tools during the evaluation; it is written as for the tool ``noise:``. A fine-tuned agent sees no
examples and chooses its method itself. With ``few_shot`` it is instead prompted with that number of examples of
``method``, like a model that was not fine-tuned (paper, Table 14).
"""
_BLOCK_KEYS: Mapping[str, Any] = {
    "name": str, "axes": Sequence[str], "against": str, "exclude": Sequence[Mapping[str, Any]],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One agent: its name, its label on each axis, its settings, and the cell that it is compared with.

    ``group`` is the name without the seed; cells that differ only in their seed share it.
    """

    name: str
    group: str
    axes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    against: str = ""

    @property
    def base(self) -> str:
        """The model, or the one that is fine-tuned."""
        return str(self.settings.get("base", BUILT_IN))

    @property
    def mixture(self) -> str:
        """The mixture that it is fine-tuned on; empty for a prompted cell."""
        return str(self.settings.get("mixture") or "")

    @property
    def is_fine_tuned(self) -> bool:
        return bool(self.mixture)

    @property
    def noise(self) -> str:
        """What disturbs its tools, or empty."""
        return str(self.settings.get("noise", ""))

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 0))


def build_cells(study: StudyFile) -> list[Cell]:
    """All cells of a study in order. Raises ConfigError for a name that does not exist, and for a duplicate name."""
    cells = _cells_of_size(study)
    _check_figures(study, [*cells, *(cell for other_size in study.other_sizes for cell in _cells_of_size(other_size))])
    return cells


def _cells_of_size(study: StudyFile) -> list[Cell]:
    _check_types(study)
    cells = [cell for block in study.cells for cell in _expand_block(block, study)]
    if not cells:
        raise ConfigError(f"the study {study.name} has no cells: its axes are empty, or every combination is excluded.")
    cell_names = [cell.name for cell in cells]
    duplicate = next((name for name in cell_names if cell_names.count(name) > 1), None)
    if duplicate is not None:
        raise ConfigError(
            f"the study {study.name} has two cells named {duplicate!r}. Put what differs into name: {{AXIS}}."
        )
    references = [("choice", name) for name in study.choice]
    references += [("chooser", study.chooser)] if study.chooser else []
    references += [(f"the baseline of {cell.name}", cell.against) for cell in cells if cell.against]
    for role, name in references:
        if name not in cell_names and name not in {cell.group for cell in cells}:
            raise unknown_name_error(f"cell ({role})", name, cell_names)
    for plot in study.plots:
        if plot.x and not any(plot.x in cell.axes for cell in cells):
            raise unknown_name_error("axis of a curve", plot.x, study.axes)
    return cells


def _check_figures(study: StudyFile, cells: Sequence[Cell]) -> None:
    """Raise ConfigError for a figure whose cell exists at no size, or whose task its cell does not measure."""
    choices = CHOICES if study.choice or any(other_size.choice for other_size in study.other_sizes) else ()
    for figure in study.paper:
        matching_cells = [cell for cell in cells if figure.matches(cell.name, cell.group)]
        patterns = [figure.cell] if isinstance(figure.cell, str) else figure.cell
        unmatched_patterns = [
            pattern
            for pattern in patterns
            if not any(fnmatchcase(cell_name, pattern) for cell in cells for cell_name in (cell.name, cell.group))
        ]
        for name in unmatched_patterns:
            if name and name not in choices:
                raise unknown_name_error(
                    f"cell (the figure {figure.label!r})", name, {*choices, *(cell.group for cell in cells)}
                )
        tasks = {
            _task_name(task_spec)
            for cell in matching_cells
            for task_spec in cell.settings.get("tasks", EvalConfig("").tasks)
        }
        if figure.task and "" not in tasks and figure.task not in tasks:
            raise unknown_name_error(f"task (the figure {figure.label!r})", figure.task, tasks)


def _task_name(spec: str) -> str:
    """The name of the task of a spec: the spec's own name, or its file's; empty if only the user's code knows it."""
    first, separator, _ = spec.partition(":")
    if separator and first not in names.known_names("task") and not is_file_spec(spec):
        return ""
    return PurePath(first).stem if is_file_spec(spec) else first


def _check_types(study: StudyFile) -> None:
    """Raise ConfigError for an unknown setting, and for a value of the wrong type."""
    location = f"the study {study.name}"
    check_fields(study.shared, SETTINGS, f"{location}: shared")
    for number, block in enumerate(study.cells, 1):
        check_fields(block, {**SETTINGS, **_BLOCK_KEYS}, f"{location}: cells (number {number})")
    for name in dict.fromkeys(name for block in study.cells for name in block.get("axes", ())):
        for number, value in enumerate(study.axes.get(name, ()), 1):
            value_location = f"{location}: axes.{name} (number {number})"
            check_type(
                _axis_label(value),
                str | int | float | bool,
                f"{value_location}.label" if isinstance(value, Mapping) else value_location,
            )
            check_fields(_axis_settings(name, value), SETTINGS, value_location)


def _expand_block(block: Mapping[str, Any], study: StudyFile) -> Iterator[Cell]:
    settings = {key: value for key, value in block.items() if key not in _BLOCK_KEYS}
    axes: Sequence[str] = block.get("axes", ())
    for name in axes:
        if name not in study.axes:
            raise unknown_name_error(f"axis of the cells {block.get('name', '')!r}", name, study.axes)
    for values in itertools.product(*(study.axes[name] for name in axes)):
        labels = {name: _axis_label(value) for name, value in zip(axes, values, strict=True)}
        if any(
            all(str(labels.get(key)) == str(excluded_label) for key, excluded_label in exclusion.items())
            for exclusion in block.get("exclude", ())
        ):
            continue
        cell_settings = dict(study.shared) | settings
        for name, value in zip(axes, values, strict=True):
            cell_settings |= _axis_settings(name, value)
        yield _build_cell(block, labels, cell_settings, study)


def _build_cell(
    block: Mapping[str, Any], labels: Mapping[str, Any], settings: dict[str, Any], study: StudyFile
) -> Cell:
    mixture = settings.get("mixture", "")
    if mixture and mixture not in study.mixtures:
        raise unknown_name_error("mixture", mixture, study.mixtures)
    group = _fill_labels(str(block.get("name", "")), labels)
    seeded = "seed" in labels and "{seed}" not in str(block.get("name", ""))
    name = f"{group}, seed {labels['seed']}" if seeded else group
    if not name:
        raise ConfigError(f"the study {study.name}: a block of [[cells]] has no name.")
    against = _fill_labels(str(block.get("against", study.baseline)), labels)
    return Cell(name, group, labels, settings, "" if against in (name, group) else against)


def _axis_label(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "label" not in value:
            raise ConfigError(f"a value of an axis is {dict(value)}; a table needs a label.")
        return value["label"]
    return value


def _axis_settings(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {key: setting for key, setting in value.items() if key != "label"}
    return {name: value}


def _fill_labels(text: str, labels: Mapping[str, Any]) -> str:
    for name, label in labels.items():
        text = text.replace(f"{{{name}}}", str(label))
    return text
