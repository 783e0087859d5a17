"""A study file: the question of the study, the agents that are compared, and the paper's figures to show beside them.

    title, asks, source, notes   texts: ``asks`` is the question
    [given]                      NAME = what ``{NAME}`` in a setting stands for
    [shared]                     settings of every cell (see ``cells.SETTINGS``)
    [collect.NAME]               settings of ``collect`` (fields of ``CollectConfig``)
    [mixtures.NAME]              ``from`` = names of collections, or files of trajectories; else fields of ``MixConfig``
    [axes]                       NAME = values; a value is a setting of that name, or a table of settings with a label
    [[cells]]                    name = "{AXIS} ...", axes = names, settings, against = name of a cell,
                                 exclude = [{AXIS = label}]
    baseline                     the cell that all cells without ``against`` are compared with
    [[paper]]                    label, value, se, unit, source; ``cell`` and ``task`` name the rows to show it beside
    [[plots]]                    kind = "bars", or "curve" with x = an axis of numbers
    choice                       cells of one method each; an oracle, or chance, chooses one of them for every question
    chooser                      the cell that chooses among these methods itself
    [prices]                     NAME = {value, source}, in US dollars: machine_hour, teacher_question,
                                 search (at SerpAPI), trained_tokens (a million, at a provider)
    [rates]                      measured before, a second: train_tokens, train_examples, prompted_questions,
                                 tuned_questions
    [right]                      "TASK/METHOD" = share of the teacher's episodes that were right before
    [sizes.SIZE]                 overrides of any of the above but ``source`` and [given]: tables are merged, all other
                                 values are replaced

A price or rate of one base, or of one kind of recipe, names it after a colon: "machine_hour:full". A machine counts as
a cost only if it has a price. ``{NAME}`` in a setting stands for a value of the user: --set NAME=VALUE, or
FIREACT_NAME in the environment.
Invariant: a file that was read holds no unknown setting. Nothing is run, and no data is read, here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from fireact.base.names import list_shipped_files, read_shipped_file
from fireact.base.settings import check_type
from fireact.errors import ConfigError, unknown_name_error

TABLES = (
    "shared", "axes", "collect", "mixtures", "cells", "paper", "plots", "choice", "chooser", "baseline", "prices",
    "rates", "right",
)  # fmt: skip
KEYS = ("title", "asks", "source", "notes", "given", "sizes", *TABLES)
CHOICES = ("random choice", "best single method", "oracle choice")
"""The rows of the table of choices: a figure can be shown beside one of them instead of a cell."""
PRICES = ("machine_hour", "teacher_question", "search", "trained_tokens")
RATES = ("train_tokens", "train_examples", "prompted_questions", "tuned_questions")


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure of the paper, with ``se`` as its standard error, and the row of ours that it is shown beside.

    That row is the one of ``cell`` and ``task``, by default the cell's first task. ``cell`` is one name or several, of
    cells or of ``CHOICES``; ``*`` stands for any characters. The cell may belong to another size of the study.
    """

    label: str
    value: float
    unit: str = "EM"
    se: float | None = None
    source: str = ""
    cell: str | Sequence[str] = ()
    task: str = ""

    def __str__(self) -> str:
        return f"{self.value:g}{'' if self.se is None else f' ± {self.se:g}'} {self.unit}"

    def matches(self, *names: str) -> bool:
        """Whether it is shown beside a cell of one of these names."""
        patterns = [self.cell] if isinstance(self.cell, str) else self.cell
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    def is_about(self, task: str, measured: Iterable[str]) -> bool:
        """Whether it is a figure of ``task``, which is one of the tasks that a cell ``measured``."""
        return task == (self.task or next(iter(measured), task))


@dataclass(frozen=True, slots=True)
class PlotSpec:
    """A plot of each task: bars of all cells, or a curve over an axis of numbers."""

    kind: str = "bars"
    x: str = ""


@dataclass(frozen=True, slots=True)
class StudyPrice:
    """A price in US dollars, and its source."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study file at one size; ``cells`` and ``axes`` are as in the file (``cells.build_cells`` makes the product).

    ``given`` describes each ``{NAME}`` whose value the user has to give.
    """

    name: str
    size: str
    title: str
    asks: str = ""
    source: str = ""
    notes: Sequence[str] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    shared: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    collect: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mixtures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cells: Sequence[Mapping[str, Any]] = ()
    paper: Sequence[PaperFigure] = ()
    plots: Sequence[PlotSpec] = (PlotSpec(),)
    choice: Sequence[str] = ()
    chooser: str = ""
    prices: Mapping[str, StudyPrice] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    right: Mapping[str, float] = field(default_factory=dict)
    other_sizes: Sequence[StudyFile] = ()
    """The same file at its other sizes; a figure may name a cell of one of these."""

    def describe_option(self, name: str) -> str:
        """The option that gives a value for ``{NAME}``, and what the name stands for."""
        meaning = self.given.get(name, "")
        return f"--set {name}=...{meaning and f', {meaning}'}"


def list_shipped_studies() -> list[str]:
    """The names of the studies that come with the package."""
    return list_shipped_files(_shipped_folder())


def read_study(name: str, *, size: str = "small") -> StudyFile:
    """A shipped study by name, or one from a TOML file, at one of its sizes. Raises ConfigError."""
    values = read_shipped_file("study", name, _shipped_folder())
    study_label = f"the study {name}"
    _check_names(values, KEYS, f"setting of {study_label}")
    sizes = values.pop("sizes", {})
    check_type(sizes, Mapping[str, Mapping[str, Any]], f"{study_label}: sizes")
    if size not in (sizes or ("small",)):
        raise unknown_name_error(f"size of {study_label}", size, sizes or ("small",))
    for other_size, overrides in sizes.items():
        _check_names(overrides, (*TABLES, "title", "asks", "notes"), f"setting of the size {other_size}")
    other_sizes = tuple(
        _build_study(name, other_size, _merge_tables(values, sizes[other_size]))
        for other_size in sizes
        if other_size != size
    )
    return replace(_build_study(name, size, _merge_tables(values, sizes.get(size, {}))), other_sizes=other_sizes)


def _build_study(name: str, size: str, merged: Mapping[str, Any]) -> StudyFile:
    """The study at one size, from the file's values with those of the size merged in."""
    study_label, field_types = f"the study {name}", get_type_hints(StudyFile)
    for key, value in merged.items():
        check_type(value, field_types[key], f"{study_label}: {key}")
    if "title" not in merged or not merged.get("cells"):
        raise ConfigError(f"{study_label} has no title or no [[cells]]. Give both.")
    return StudyFile(**{**merged, "name": Path(name).stem, "size": size, **_build_tables(merged, name)})


def _build_tables(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values of the tables that have a class of their own."""
    prices, rates = values.get("prices", {}), values.get("rates", {})
    _check_names([key.partition(":")[0] for key in prices], PRICES, f"price of the study {name}")
    _check_names([key.partition(":")[0] for key in rates], RATES, f"rate of the study {name}")
    plots = [PlotSpec(**row) for row in values.get("plots", [{}])]
    for plot in plots:
        if plot.kind not in ("bars", "curve") or (plot.kind == "curve") != bool(plot.x):
            raise ConfigError(f'the study {name}: a plot is kind = "bars", or kind = "curve" with x = an axis; {plot}.')
    return {
        "paper": tuple(PaperFigure(**row) for row in values.get("paper", ())),
        "prices": {key: StudyPrice(**row) for key, row in prices.items()},
        "plots": tuple(plots),
    }


def _check_names(values: Iterable[str], allowed: Iterable[str], description: str) -> None:
    allowed_names = list(allowed)
    for key in values:
        if key not in allowed_names:
            raise unknown_name_error(description, key, allowed_names)


def _merge_tables(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        are_tables = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _merge_tables(below[key], value) if are_tables else value
    return merged


def _shipped_folder() -> Any:
    return files("fireact.study").joinpath("files")
