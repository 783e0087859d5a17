"""The verb ``study``: run what is missing of a matrix of agents, and write what they say beside the paper's figures.

    results.jsonl    a row a cell        tables.md    tables with intervals        plots/    SVG and PNG
    collect/ mix/ train/ eval/           the stages, each in a directory named by its settings (or in ``stages``, to share them)

Invariant: stages are the verbs themselves, so a study can be stopped at any moment and goes on where it was; equal work is
done once, by one of the studies that share ``stages``: the others wait for it. A cell that fails is recorded and the others
go on; the manifest is written only when none has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.collection import collect
from fireact.data import mix
from fireact.errors import BusyError, ConfigError, FireactError, unknown
from fireact.evaluation.run import evaluate
from fireact.hosted.run import tune
from fireact.progress import SILENT, Progress
from fireact.store import CONFIG, MANIFEST, RunDir, absolute, read_config, wait_until_free
from fireact.study.cells import Cell, cells
from fireact.study.economics import economics
from fireact.study.file import StudyFile, read_study
from fireact.study.forecast import ASSUMED, Rates, at_least, distinct, forecast, short
from fireact.study.plots import draw
from fireact.study.preflight import refuse
from fireact.study.results import Measured, baseline, choice, measured, over_seeds, row
from fireact.study.spending import Purse, dollars
from fireact.study.stages import Resolver, Stage, absent, values_of, wanted
from fireact.study.tables import by_fault, tables
from fireact.training.run import train

RESULTS, TABLES, PLOTS = "results.jsonl", "tables.md", "plots"
_VERBS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "collect": collect,
    "mix": mix,
    "train": train,
    "tune": tune,
    "eval": evaluate,
}


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """Settings of ``study``: a shipped study or a TOML file, its size, and values for ``{NAME}`` in it.

    ``stages`` is where stages lie, if several studies shall share them; by default in the study's own directory. ``budget``
    (50usd) is what all of its stages together may take of hosted models, jobs and searches.
    """

    study: str
    size: str = "small"
    values: Mapping[str, str] = field(default_factory=dict)
    stages: str | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            dollars(self.budget)
        if Path(self.study).is_file():
            object.__setattr__(self, "study", absolute(self.study))
        if self.stages is not None:
            object.__setattr__(self, "stages", absolute(self.stages))

    def root(self, out: Path) -> Path:
        """Where the stages lie."""
        return Path(self.stages) if self.stages else out.absolute()


def study(config: StudyConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Run what is missing and return the manifest. Raises FireactError that names the cells which failed."""
    matrix = Matrix.read(config)
    matrix.refuse_absent()
    refuse(matrix.chains, config.root(out), whole=True)
    before = read_config(out).get("values", {}) if (out / CONFIG).is_file() else {}
    free = ("stages", "budget", *(f"values.{name}" for name in {**before, **config.values}))
    with RunDir(out, verb="study", settings=asdict(config), force=force, free=free) as run:
        (out / MANIFEST).unlink(missing_ok=True)  # a file that was changed has other cells
        runner = Runner(matrix, config.root(out), out, progress, budget=config.budget)
        try:
            runner.run()
        finally:
            facts = runner.write()
        if runner.failures:
            failed = "; ".join(f"{', '.join(names)}: {said}" for said, names in by_fault(runner.failures).items())
            others = f"; the others are in {out / TABLES}" if runner.measured else ""
            raise FireactError(
                f"{len(runner.failures)} of {len(matrix.chains)} cells failed: {failed}{others} -- "
                "run it again to try them again."
            )
        return run.finish(**facts)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A study at one size: its cells, each with its stages in the order in which they are run."""

    study: StudyFile
    given: Mapping[str, str]
    cells: Sequence[Cell]
    chains: Mapping[str, Sequence[Stage]]

    @classmethod
    def read(cls, config: StudyConfig) -> Matrix:
        """Raises ConfigError for whatever in the file cannot be used."""
        found = read_study(config.study, size=config.size)
        for name in config.values:
            if name not in wanted(found):
                raise unknown(f"--set of the study {found.name} at the size {found.size}:", name, wanted(found))
        resolver = Resolver(found, config.values)
        product = cells(found)
        chains = {cell.name: list(distinct(resolver.evaluation(cell).chain())) for cell in product}
        return cls(found, config.values, product, chains)

    def refuse_absent(self) -> None:
        missing = absent(self.study, self.given)
        if missing:
            wanted = "; ".join(self.study.to_give(name) for name in missing)
            raise ConfigError(f"the study {self.study.name} needs {wanted} (or FIREACT_{missing[0].upper()}).")

    @property
    def stages(self) -> list[Stage]:
        """All stages, each once."""
        return list(distinct(stage for chain in self.chains.values() for stage in chain))


class Runner:
    """Runs the cells one after the other, and knows how long is left."""

    def __init__(self, matrix: Matrix, root: Path, out: Path, progress: Progress, *, budget: str | None = None) -> None:
        self.matrix, self.root, self.out, self.progress = matrix, root, out, progress
        self.failures: dict[str, str] = {}
        self.measured: dict[str, Measured] = {}
        self.rates = rates(matrix, root)
        self.purse = Purse(dollars(budget) if budget else None, matrix.stages, root, self.rates)
        self._broken: dict[str, str] = {}
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def run(self) -> None:
        """Run every cell; a failure is kept in ``failures`` and the next one begins.

        A cell that needs what another process is making comes after the others; then that is waited for.
        """
        coming = list(enumerate(self.matrix.cells, 1))
        while coming:
            busy = [(one, stage) for one in coming if (stage := self._cell(*one, coming=coming)) is not None]
            if busy:
                stage = busy[0][1]
                self.progress.say(f"study: waiting for {stage.verb}/{stage.key}, which another process is writing")
                wait_until_free(stage.path(self.root))
            coming = [one for one, _ in busy]

    def _cell(self, number: int, cell: Cell, *, coming: Sequence[tuple[int, Cell]]) -> Stage | None:
        """Run a cell; the stage that another process is writing, where the cell has to wait for one."""
        chain, name = self.matrix.chains[cell.name], f"study: cell {number} of {len(self.matrix.cells)}, {cell.name}"
        missing = [stage for stage in chain if not stage.done(self.root)]
        todo = f"{', '.join(stage.verb for stage in missing)}{self._left(number, coming)}" if missing else ""
        self.progress.say(f"{name}: {todo or 'all of it is there'}")
        try:
            for stage in chain:
                try:
                    self._do(stage)
                except BusyError:
                    return stage
            self.measured[cell.name] = measured(cell, chain, self.root)
        except Exception as fault:  # whatever it is, the other cells are worth having
            said = _said(fault)
            again = "for the same reason" if said in self.failures.values() else said
            self.failures[cell.name] = said
            self.progress.say(f"{name}, failed: {again}")
        self._save()
        return None

    def _do(self, stage: Stage) -> None:
        if stage.done(self.root):
            return
        if stage.key in self._broken:
            raise FireactError(self._broken[stage.key])
        try:
            _VERBS[stage.verb](self.purse.config(stage), stage.path(self.root), progress=self.progress)
        except BusyError:
            raise
        except Exception as fault:
            self._broken[stage.key] = f"{stage.verb}/{stage.key}: {_said(fault)}"
            raise FireactError(self._broken[stage.key]) from fault
        self.rates.learn(stage, self.root)

    def _left(self, number: int, coming: Sequence[tuple[int, Cell]]) -> str:
        """How long is left from a cell on, in words; empty where nothing is known of it."""
        cells = [cell for at, cell in coming if at >= number or cell.name not in {*self.measured, *self.failures}]
        stages = distinct(stage for cell in cells for stage in self.matrix.chains[cell.name])
        seconds, whole = at_least(forecast(stage, self.root, self.rates).seconds for stage in stages)
        return f"; {'about' if whole else 'at least'} {max(1, round(seconds / 60))} min left" if seconds else ""

    def _save(self) -> list[dict[str, Any]]:
        """Write the rows of all cells so far, and return them."""
        rows = []
        for cell in self.matrix.cells:
            if cell.name in self.measured:
                rows.append(self._row(self.measured[cell.name]))
            elif cell.name in self.failures:
                rows.append({"cell": cell.name, "axes": dict(cell.axes), "error": self.failures[cell.name]})
        jsonl.write(self.out / RESULTS, rows)
        return rows

    def _row(self, one: Measured) -> dict[str, Any]:
        """The row of a cell, made again only when the cell that it is compared with has come to be there."""
        other = baseline(one.cell, self.measured)
        key = (one.cell.name, "" if other is None else other.cell.name)
        if key not in self._rows:
            self._rows[key] = _named(
                row(one, other, varied=self._varied(one.cell)), values_of(self.matrix.study, self.matrix.given)
            )
        return self._rows[key]

    def _varied(self, cell: Cell) -> set[str]:
        """The settings that a cell's axes set, and which therefore differ on purpose."""
        values = ((name, value) for name in cell.axes for value in self.matrix.study.axes[name])
        return {key for name, value in values for key in (value if isinstance(value, Mapping) else (name,))}

    def write(self) -> dict[str, Any]:
        """Write rows, tables and plots of what is there, and return the facts of the manifest."""
        rows, file = self._save(), self.matrix.study
        group = [self.measured[name] for name in map(self._first, file.choice) if name in self.measured]
        chooser = self.measured.get(self._first(file.chooser)) if file.chooser else None
        facts = {
            "study": file.name,
            "size": file.size,
            "title": file.title,
            "cells": len(self.matrix.cells),
            "stages": len(self.matrix.stages),
            "seeds": over_seeds(self.measured),
            "choice": choice(group, chooser) if len(group) > 1 else {},
            "economics": {name: economics(one, file.prices) for name, one in self.measured.items()}
            if file.prices
            else {},
        }
        jsonl.replace_text(self.out / TABLES, tables(file, self.matrix.cells, rows, facts))
        draw(file, self.matrix.cells, rows, self.out / PLOTS)
        return facts

    def _first(self, name: str) -> str:
        """The cell of a name, or the first seed of those that share it."""
        return next(cell.name for cell in self.matrix.cells if name in (cell.name, cell.group))


def _said(fault: Exception) -> str:
    return str(fault) if isinstance(fault, FireactError) else f"{type(fault).__name__}: {fault}"


def _named(row: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The row with a folder that was given for {NAME} written as that name again, so that it holds no place of this machine."""
    folders = {value: f"{{{name}}}" for name, value in given.items() if "/" in value}

    def named(value: Any) -> Any:
        if isinstance(value, str):
            for folder, name in folders.items():
                value = value.replace(folder, name)
            return value
        if isinstance(value, dict):
            return {key: named(one) for key, one in value.items()}
        return [named(one) for one in value] if isinstance(value, list | tuple) else value

    found: dict[str, Any] = named(row)
    return found


def rates(matrix: Matrix, root: Path) -> Rates:
    """The rates of all complete stages, beside those that the file has."""
    found = Rates(matrix.study)
    for stage in matrix.stages:
        if stage.done(root):
            found.learn(stage, root)
    return found


def plan(config: StudyConfig, out: Path) -> dict[str, Any]:
    """What ``study`` would do: each cell with its stages, what is there already, and what the rest will take."""
    matrix, root = Matrix.read(config), config.root(out)
    refuse(matrix.chains, root, whole=False)
    known = rates(matrix, root)
    expected = {stage.key: forecast(stage, root, known) for stage in matrix.stages}
    seconds, all_seconds = at_least(one.seconds for one in expected.values())
    unpriced = dict.fromkeys(part for one in expected.values() for part in one.unpriced)
    untimed = dict.fromkeys(part for one in expected.values() for part in one.untimed)
    mixtures = [stage for stage in matrix.stages if stage.verb == "mix"]
    tokens, all_tokens = at_least(one.tokens for one in expected.values())
    return {
        "study": matrix.study.name,
        "title": matrix.study.title,
        "size": matrix.study.size,
        "needs": {name: matrix.study.to_give(name) for name in absent(matrix.study, config.values)},
        "cells": [
            {"cell": name, "axes": dict(cell.axes), "stages": [expected[stage.key].to_dict() for stage in chain]}
            for cell, (name, chain) in zip(matrix.cells, matrix.chains.items(), strict=True)
        ],
        "stages": len(expected),
        "there": sum(one.done for one in expected.values()),
        "episodes": sum(one.episodes for one in expected.values()),
        "training_tokens": {"known": tokens, "whole": all_tokens},
        "searches": sum(one.searches for one in expected.values()),
        "usd": {
            "known": round(sum(one.dollars for one in expected.values()), 2),
            "whole": not unpriced,
            "unknown": list(unpriced),
        },
        "seconds": {"known": round(seconds), "whole": all_seconds, "unknown": list(untimed)},
        "short": list(dict.fromkeys(said for one in mixtures for said in short(one, root, matrix.study.right))),
        "assumed": ASSUMED,
    }
