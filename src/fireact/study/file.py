"""A study file: what is asked, which agents are compared, and the figures of the paper that stand beside them.

    title, asks, source, notes      in words
    [given]                         NAME = what ``{NAME}`` in a setting stands for
    [shared]                        settings of every cell (see ``cells.SETTINGS``)
    [collect.NAME]                  settings of ``collect``, as ``CollectConfig`` has them
    [mixtures.NAME]                 ``from`` = names of collections, or files of trajectories; the rest as ``MixConfig`` has it
    [axes]                          NAME = values; a value is a setting of that name, or a table of settings with a ``label``
    [[cells]]                       name = "{AXIS} ...", axes = names, settings, against = name of a cell, exclude = [{AXIS = label}]
    baseline                        the cell that all others are compared with, where they do not say ``against``
    [[paper]]                       label, value, se, unit, source; ``cell`` and ``task`` name the rows of ours it stands beside
    [[plots]]                       kind = "bars", or "curve" with x = an axis of numbers
    choice                          cells of one method each, of which an oracle, or chance, chooses for every question
    chooser                         the cell that chooses among these methods itself
    [prices]                        NAME = {value, source}: machine_hour, teacher_question, search (at SerpAPI), trained_tokens (a million,
                                    at a provider), in US dollars
    [rates]                         measured before: train_tokens, train_examples, prompted_questions, tuned_questions a second
    [right]                         "TASK/METHOD" = share of the teacher's episodes that were right before
    [sizes.SIZE]                    any of the above but ``source`` and [given], laid over: tables are merged, all else is replaced

A price or rate of one base, or of one kind of recipe, has that after a colon: "machine_hour:full". What a machine costs
counts where there is a price of it. ``{NAME}`` in a setting is a value that the user gives (--set NAME=VALUE), or FIREACT_NAME in the environment.
Invariant: a file that was read holds no name that nothing stands behind. Nothing is run, and no data is read, here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from fireact.errors import ConfigError, unknown
from fireact.study.shape import fit

TABLES = ("shared", "axes", "collect", "mixtures", "cells", "paper", "plots", "choice", "chooser", "baseline", "prices", "rates", "right")  # fmt: skip
KEYS = ("title", "asks", "source", "notes", "given", "sizes", *TABLES)
CHOICES = ("random choice", "best single method", "oracle choice")
"""What a figure stands beside that is of no cell: the rows of the table of choices."""
PRICES = ("machine_hour", "teacher_question", "search", "trained_tokens")
RATES = ("train_tokens", "train_examples", "prompted_questions", "tuned_questions")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the paper, ``se`` its standard error; ``cell`` (and ``task``, by default the cell's first) is the row of ours beside which it stands.

    ``cell`` is the name of a cell, or several, with ``*`` for any letters, or one of ``CHOICES``; it may be of another size.
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

    def beside(self, *names: str) -> bool:
        """Whether it stands beside a cell of one of these names."""
        patterns = [self.cell] if isinstance(self.cell, str) else self.cell
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    def about(self, task: str, measured: Iterable[str]) -> bool:
        """Whether it is a figure of ``task``, one of those that a cell ``measured``."""
        return task == (self.task or next(iter(measured), task))


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of each task: bars of all cells, or a curve over an axis of numbers."""

    kind: str = "bars"
    x: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """A price in US dollars, and where it is from."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class StudyFile:
    """What a file says at one size; ``cells`` and ``axes`` are still as written (``cells.cells`` makes the product).

    ``given`` says what each ``{NAME}`` stands for that whoever runs the study has to give.
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
    paper: Sequence[Figure] = ()
    plots: Sequence[Plot] = (Plot(),)
    choice: Sequence[str] = ()
    chooser: str = ""
    prices: Mapping[str, Price] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    right: Mapping[str, float] = field(default_factory=dict)
    others: Sequence[StudyFile] = ()
    """The same file at its other sizes, of whose cells a figure may be."""

    def to_give(self, name: str) -> str:
        """How a ``{NAME}`` is given on the command line, and what it stands for."""
        said = self.given.get(name, "")
        return f"--set {name}=...{said and f', {said}'}"


def shipped() -> list[str]:
    """The studies that come with the package, by name."""
    return sorted(file.name.removesuffix(".toml") for file in _home().iterdir() if file.name.endswith(".toml"))


def read_study(name: str, *, size: str = "small") -> StudyFile:
    """A shipped study by name, or one from a TOML file, at one of its sizes. Raises ConfigError."""
    values = _values(name)
    where = f"the study {name}"
    _known(values, KEYS, f"setting of {where}")
    sizes = values.pop("sizes", {})
    fit(sizes, Mapping[str, Mapping[str, Any]], f"{where}: sizes")
    if size not in (sizes or ("small",)):
        raise unknown(f"size of {where}", size, sizes or ("small",))
    for other, changes in sizes.items():
        _known(changes, (*TABLES, "title", "asks", "notes"), f"setting of the size {other}")
    others = tuple(_at(name, other, _laid_over(values, sizes[other])) for other in sizes if other != size)
    return replace(_at(name, size, _laid_over(values, sizes.get(size, {}))), others=others)


def _at(name: str, size: str, merged: Mapping[str, Any]) -> StudyFile:
    """The study at a size, of whose values everything else is laid over."""
    where, kinds = f"the study {name}", get_type_hints(StudyFile)
    for key, value in merged.items():
        fit(value, kinds[key], f"{where}: {key}")
    if "title" not in merged or not merged.get("cells"):
        raise ConfigError(f"{where} has no title or no [[cells]]. Give both.")
    return StudyFile(**{**merged, "name": Path(name).stem, "size": size, **_built(merged, name)})


def _built(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The tables that have a class of their own."""
    prices, rates = values.get("prices", {}), values.get("rates", {})
    _known([key.partition(":")[0] for key in prices], PRICES, f"price of the study {name}")
    _known([key.partition(":")[0] for key in rates], RATES, f"rate of the study {name}")
    plots = [Plot(**row) for row in values.get("plots", [{}])]
    for plot in plots:
        if plot.kind not in ("bars", "curve") or (plot.kind == "curve") != bool(plot.x):
            raise ConfigError(f'the study {name}: a plot is kind = "bars", or kind = "curve" with x = an axis; {plot}.')
    return {
        "paper": tuple(Figure(**row) for row in values.get("paper", ())),
        "prices": {key: Price(**row) for key, row in prices.items()},
        "plots": tuple(plots),
    }


def _known(values: Iterable[str], known: Iterable[str], what: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            raise unknown(what, key, names)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _laid_over(below[key], value) if both else value
    return merged


def _values(name: str) -> dict[str, Any]:
    path = Path(name)
    try:
        if name in shipped():
            return tomllib.loads(_home().joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        if path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the study {name}: {error}.") from error
    raise unknown("study (a name, or a TOML file)", name, shipped())


def _home() -> Any:
    return files("fireact.study").joinpath("files")
