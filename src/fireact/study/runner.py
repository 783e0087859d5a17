"""The verb ``study``: run the missing stages of a matrix of agents, and write their results beside the paper's figures.

    results.jsonl                a row a cell
    tables.md, plots/            tables with intervals; plots as SVG and PNG
    collect/ mix/ train/ eval/   the stages, each in a directory named by its settings (or in ``stages``)

Invariant: stages are runs of the verbs themselves, so a study can be stopped and resumed at any moment. Equal work is
done once: of several studies that share ``stages`` one does it, and the others wait. A failed cell is recorded and the
next one begins; the manifest is written only when no cell has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.cost import CostEstimate
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import (
    CONFIG,
    MANIFEST,
    RunDir,
    absolute_if_path,
    absolute_path,
    read_config,
    wait_until_free,
)
from fireact.base.settings import check_settings, setting
from fireact.base.verbs import Verb, load_verb
from fireact.errors import BusyError, ConfigError, FireactError, unknown_name_error
from fireact.reporting.rows import RESULTS, StudyResults, StudyRow, to_plain
from fireact.rollout.episode_settings import EXECUTOR_HELP, check_executor
from fireact.study.cells import Cell, build_cells
from fireact.study.cost import StudyBudget, compute_cell_cost, parse_usd_budget
from fireact.study.file import StudyFile, read_study
from fireact.study.forecast import PlannedStage, Rates, StudyPlan, describe_shortages, estimate_stage
from fireact.study.plots import draw_plots
from fireact.study.preflight import check_cells
from fireact.study.results import CellResult, build_row, find_baseline, pool_seeds, read_cell_result, summarise_choice
from fireact.study.stages import (
    Stage,
    StageResolver,
    missing_placeholders,
    placeholder_names,
    placeholder_values,
    unique_stages,
)
from fireact.study.tables import format_tables, group_by_error

TABLES, PLOTS = "tables.md", "plots"


def _parse_value(item: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator:
        raise ConfigError(f"--set {item!r} is not of the form NAME=VALUE, such as data=DIR.")
    return name, absolute_if_path(value)


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """Settings of ``study``."""

    study: str = setting(
        flags=("file",), normalise=lambda study: absolute_path(study) if Path(study).is_file() else study
    )
    """A study that ships (see --list), or the path of a TOML file."""
    size: str = "small"
    """small, for two cores; paper, for GPUs and hosted models; or what FILE has."""
    values: Mapping[str, str] = setting(factory=dict, flags=("--set",), parse=_parse_value)
    """NAME=VALUE for {NAME} in the file, such as data=DIR; repeatable."""
    stages: str | None = setting(None, is_path=True, normalise=absolute_path, panel="Output")
    """Where stages lie, so that several studies share them. Default: the -o directory."""
    budget: str | None = None
    """What all stages together may take of hosted models, jobs and searches (at the file's price): 50usd."""

    executor: str = setting("threads", help=EXECUTOR_HELP, normalise=check_executor)

    def __post_init__(self) -> None:
        check_settings(self, "study")
        if self.budget is not None:
            parse_usd_budget(self.budget)

    def root(self, out: Path) -> Path:
        """The directory of the stages."""
        return Path(self.stages) if self.stages else out.absolute()


def run_study(config: StudyConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Run the missing stages and return the manifest. Raises FireactError that names the cells that failed."""
    matrix = StudyMatrix.read(config)
    matrix.check_values_given()
    check_cells(matrix.chains, config.root(out), with_services=True)
    earlier_values = read_config(out).get("values", {}) if (out / CONFIG).is_file() else {}
    neutral = ("stages", "budget", "executor", *(f"values.{name}" for name in {**earlier_values, **config.values}))
    with RunDir(out, verb="study", settings=config, force=force, neutral=neutral) as run:
        (out / MANIFEST).unlink(missing_ok=True)  # a changed study file has other cells
        runner = StudyRunner(matrix, config.root(out), out, progress, budget=config.budget, executor=config.executor)
        try:
            runner.run()
        finally:
            facts = runner.write_results()
        if runner.failures:
            failed = "; ".join(
                f"{', '.join(names)}: {error_text}" for error_text, names in group_by_error(runner.failures).items()
            )
            other_cells = f"; the others are in {out / TABLES}" if runner.results else ""
            raise FireactError(
                f"{len(runner.failures)} of {len(matrix.chains)} cells failed: {failed}{other_cells} -- "
                "run it again to try them again."
            )
        return run.finish(**facts)


@dataclass(frozen=True, slots=True)
class StudyMatrix:
    """A study at one size: its cells, each with its stages in the order in which they are run."""

    study: StudyFile
    user_values: Mapping[str, str]
    cells: Sequence[Cell]
    chains: Mapping[str, Sequence[Stage]]

    @classmethod
    def read(cls, config: StudyConfig) -> StudyMatrix:
        """Read a study file and build its cells and stages. Raises ConfigError for what cannot be used."""
        study_file = read_study(config.study, size=config.size)
        for name in config.values:
            if name not in placeholder_names(study_file):
                raise unknown_name_error(
                    f"--set of the study {study_file.name} at the size {study_file.size}:",
                    name,
                    placeholder_names(study_file),
                )
        resolver = StageResolver(study_file, config.values)
        product = build_cells(study_file)
        chains = {cell.name: list(unique_stages(resolver.evaluation_stage(cell).chain())) for cell in product}
        return cls(study_file, config.values, product, chains)

    def check_values_given(self) -> None:
        """Raise ConfigError if the study uses a ``{NAME}`` without a value."""
        missing = missing_placeholders(self.study, self.user_values)
        if missing:
            options = "; ".join(self.study.describe_option(name) for name in missing)
            raise ConfigError(f"the study {self.study.name} needs {options} (or FIREACT_{missing[0].upper()}).")

    @property
    def stages(self) -> list[Stage]:
        """All stages, each once."""
        return list(unique_stages(stage for chain in self.chains.values() for stage in chain))


class StudyRunner:
    """Runs the cells one after the other, and estimates the time left."""

    def __init__(
        self,
        matrix: StudyMatrix,
        root: Path,
        out: Path,
        progress: Progress,
        *,
        budget: str | None = None,
        executor: str = "threads",
    ) -> None:
        self.matrix, self.root, self.out, self.progress, self.executor = matrix, root, out, progress, executor
        self.failures: dict[str, str] = {}
        self.results: dict[str, CellResult] = {}
        self.rates = load_rates(matrix, root)
        self.budget = StudyBudget(parse_usd_budget(budget) if budget else None, matrix.stages, root, self.rates)
        self._failed_stages: dict[str, str] = {}
        self._rows: dict[tuple[str, str], StudyRow] = {}

    def run(self) -> None:
        """Run every cell; a failure is recorded in ``failures`` and the next cell begins.

        A cell that needs a stage that another process is writing is put off until the other cells have run.
        """
        pending = list(enumerate(self.matrix.cells, 1))
        while pending:
            waiting = [
                (numbered_cell, stage)
                for numbered_cell in pending
                if (stage := self._run_cell(*numbered_cell, pending=pending)) is not None
            ]
            if waiting:
                stage = waiting[0][1]
                self.progress.say(f"study: waiting for {stage.verb}/{stage.key}, which another process is writing")
                wait_until_free(stage.path(self.root))
            pending = [numbered_cell for numbered_cell, _ in waiting]

    def _run_cell(self, number: int, cell: Cell, *, pending: Sequence[tuple[int, Cell]]) -> Stage | None:
        """Run a cell. Returns the stage that the cell has to wait for, which another process is writing, or None."""
        chain, name = self.matrix.chains[cell.name], f"study: cell {number} of {len(self.matrix.cells)}, {cell.name}"
        missing = [stage for stage in chain if not stage.is_complete(self.root)]
        todo = (
            f"{', '.join(stage.verb for stage in missing)}{self._describe_time_left(number, pending)}"
            if missing
            else ""
        )
        self.progress.say(f"{name}: {todo or 'all stages are complete'}")
        try:
            for stage in chain:
                try:
                    self._run_stage(stage)
                except BusyError:
                    return stage
            self.results[cell.name] = read_cell_result(cell, chain, self.root)
        except Exception as error:  # whatever the error is, the other cells are worth having
            error_text = _error_text(error)
            message = "for the same reason" if error_text in self.failures.values() else error_text
            self.failures[cell.name] = error_text
            self.progress.say(f"{name}, failed: {message}")
        self._write_rows()
        return None

    def _run_stage(self, stage: Stage) -> None:
        if stage.is_complete(self.root):
            return
        if stage.key in self._failed_stages:
            raise FireactError(self._failed_stages[stage.key])
        try:
            config = self.budget.config_within_budget(stage)
            if stage.is_rollout and self.executor != "threads":
                config = replace(config, executor=self.executor)
            load_verb(stage.verb).run(config, stage.path(self.root), progress=self.progress)
        except BusyError:
            raise
        except Exception as error:
            self._failed_stages[stage.key] = f"{stage.verb}/{stage.key}: {_error_text(error)}"
            raise FireactError(self._failed_stages[stage.key]) from error
        self.rates.add_stage(stage, self.root)

    def _describe_time_left(self, number: int, pending: Sequence[tuple[int, Cell]]) -> str:
        """The time left from a cell on, in words; empty if no rate is known."""
        remaining_cells = [
            cell
            for cell_number, cell in pending
            if cell_number >= number or cell.name not in {*self.results, *self.failures}
        ]
        stages = unique_stages(stage for cell in remaining_cells for stage in self.matrix.chains[cell.name])
        cost = sum((estimate_stage(stage, self.root, self.rates) for stage in stages), CostEstimate())
        least = "at least" if cost.untimed else "about"
        return f"; {least} {max(1, round(cost.seconds / 60))} min left" if cost.seconds else ""

    def _write_rows(self) -> list[StudyRow]:
        """Write the rows of all cells so far, and return those of the complete ones."""
        complete_rows = {name: self._cached_row(cell_result) for name, cell_result in self.results.items()}
        rows = []
        for cell in self.matrix.cells:
            if cell.name in complete_rows:
                rows.append(complete_rows[cell.name].to_dict())
            elif cell.name in self.failures:
                rows.append({"cell": cell.name, "axes": dict(cell.axes), "error": self.failures[cell.name]})
        jsonl.write_objects(self.out / RESULTS, rows)
        return [complete_rows[cell.name] for cell in self.matrix.cells if cell.name in complete_rows]

    def _cached_row(self, cell_result: CellResult) -> StudyRow:
        """The row of a cell; it is made again only when the cell's baseline has become complete."""
        baseline_result = find_baseline(cell_result.cell, self.results)
        key = (cell_result.cell.name, "" if baseline_result is None else baseline_result.cell.name)
        if key not in self._rows:
            axes = {name: self.matrix.study.axes[name] for name in cell_result.cell.axes}
            pairs = [(name, value) for name, values in axes.items() for value in values]
            varied = {key for name, value in pairs for key in (value if isinstance(value, Mapping) else (name,))}
            row = build_row(cell_result, baseline_result, varied=varied)
            values = placeholder_values(self.matrix.study, self.matrix.user_values)
            self._rows[key] = StudyRow.from_dict(_restore_placeholders(row.to_dict(), values))
        return self._rows[key]

    def write_results(self) -> dict[str, Any]:
        """Write rows, tables and plots of the complete cells, and return the facts of the manifest."""
        rows, study_file = self._write_rows(), self.matrix.study
        method_results = [
            self.results[name] for name in map(self._first_cell_name, study_file.choice) if name in self.results
        ]
        chooser = self.results.get(self._first_cell_name(study_file.chooser)) if study_file.chooser else None
        prices = study_file.prices
        costs = {name: compute_cell_cost(cell, prices) for name, cell in self.results.items()} if prices else {}
        results = StudyResults(
            rows=rows,
            failures=self.failures,
            seeds=pool_seeds(self.results),
            choices=summarise_choice(method_results, chooser) if len(method_results) > 1 else {},
            costs=costs,
        )
        jsonl.replace_text(self.out / TABLES, format_tables(study_file, self.matrix.cells, results))
        draw_plots(study_file, self.matrix.cells, rows, self.out / PLOTS)
        return {
            "study": study_file.name,
            "size": study_file.size,
            "title": study_file.title,
            "cells": len(self.matrix.cells),
            "stages": len(self.matrix.stages),
            "seeds": to_plain(results.seeds),
            "choice": to_plain(results.choices),
            "economics": to_plain(results.costs),
        }

    def _first_cell_name(self, name: str) -> str:
        """The name of the first cell that has this name, or this name and a seed."""
        return next(cell.name for cell in self.matrix.cells if name in (cell.name, cell.group))


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, FireactError) else f"{type(error).__name__}: {error}"


def _restore_placeholders(row: dict[str, Any], user_values: Mapping[str, str]) -> dict[str, Any]:
    """The row with ``{NAME}`` in place of the folder that was given for it, so that no path of this machine stays."""
    folders = {value: f"{{{name}}}" for name, value in user_values.items() if "/" in value}

    def restore(value: Any) -> Any:
        if isinstance(value, str):
            for folder, name in folders.items():
                value = value.replace(folder, name)
            return value
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return [restore(item) for item in value] if isinstance(value, list | tuple) else value

    restored: dict[str, Any] = restore(row)
    return restored


def load_rates(matrix: StudyMatrix, root: Path) -> Rates:
    """The rates of all complete stages, and those of the study file."""
    rates = Rates(matrix.study)
    for stage in matrix.stages:
        if stage.is_complete(root):
            rates.add_stage(stage, root)
    return rates


def plan_study(config: StudyConfig, out: Path) -> StudyPlan:
    """What ``study`` would do: each cell with its stages, which are complete, and what the others will take."""
    matrix, root = StudyMatrix.read(config), config.root(out)
    check_cells(matrix.chains, root, with_services=False)
    rates = load_rates(matrix, root)
    stages = {
        stage.key: PlannedStage(stage, stage.is_complete(root), estimate_stage(stage, root, rates))
        for stage in matrix.stages
    }
    shortages = [
        shortage
        for stage in matrix.stages
        if stage.verb == "mix"
        for shortage in describe_shortages(stage, root, matrix.study.right)
    ]
    return StudyPlan(
        study=matrix.study,
        cells={cell.name: (cell, [stages[stage.key] for stage in matrix.chains[cell.name]]) for cell in matrix.cells},
        stages=list(stages.values()),
        needs={name: matrix.study.describe_option(name) for name in missing_placeholders(matrix.study, config.values)},
        shortages=list(dict.fromkeys(shortages)),
    )


@dataclass(frozen=True, slots=True)
class ListOption:
    """The option that shows the studies there are."""

    list: bool = False
    """List the studies that ship."""


def _name_directory(given: Mapping[str, Any]) -> str:
    return f"runs/study-{Path(given.get('file', '')).stem}-{given.get('size', 'small')}"


STUDY = Verb(
    "study", StudyConfig, run_study, out=_name_directory, out_help="Run directory. Default: runs/study-NAME-SIZE.",
    example="`fireact study scaling --dry-run`, then `fireact study scaling`, or `fireact study mine.toml -o runs/x`",
    shorthand=ListOption,
    command_line="fireact.cli.running:study_command",
)  # fmt: skip
