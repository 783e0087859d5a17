"""What a verb returns in Python: a ``Run`` (a run directory), or a ``Result`` (any other object, and how it looks).

Invariant: a run knows nothing that its directory does not hold, so ``Run(PATH)`` is what the verb returned. Its
``manifest`` is the file, and what ``--json`` prints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from fireact.base.run_directory import MANIFEST, TRAJECTORIES, read_config, read_manifest, read_trajectories
from fireact.errors import DataError
from fireact.evaluation.statistics import Estimate
from fireact.evaluation.summary import Summary, read_summaries
from fireact.reporting.rows import to_plain
from fireact.reporting.table import Row, Table, TableCell, write_html_table
from fireact.reporting.wording import interval, percent
from fireact.rollout.collection import EpisodeCounts, read_counts
from fireact.types import Trajectory, Usage

REPORT = "report.json"
STUDY_ROWS = "results.jsonl"
STYLE = ".fireact small { display: block; opacity: 0.7 } .fireact .left { text-align: left }"
"""How tables look in a notebook, where the style of the report's page is absent; they are legible without it."""


class Run:
    """A run directory: its settings, manifest, results and trajectories, each read when it is first used.

    The fields of the manifest are attributes and items too. ``run["geo-hop"]`` is the summary of a task; ``em``,
    ``f1``, ``accuracy`` and ``finished`` are those of the only task. A run stands for its path in every other call.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        read_config(self.path)  # raises DataError for a path that is no run

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def verb(self) -> str:
        """The verb that made the run."""
        return str(read_config(self.path)["verb"])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the verb, as ``config.toml`` holds them."""
        return {name: value for name, value in read_config(self.path).items() if name != "verb"}

    @property
    def is_complete(self) -> bool:
        """Whether the manifest is written; ``fireact.resume(run)`` finishes a run without one."""
        return (self.path / MANIFEST).is_file()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is written about the finished run. Raises DataError where it is not complete."""
        return read_manifest(self.path)

    @cached_property
    def results(self) -> dict[str, Summary]:
        """Task -> its summary; empty where the verb measures nothing."""
        return read_summaries(self.manifest)

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """The episodes of the run; empty where the verb stores none."""
        return list(read_trajectories(self.path)) if (self.path / TRAJECTORIES).is_file() else []

    @cached_property
    def stages(self) -> dict[str, Run]:
        """The runs inside this one, by their path below it: those of a quickstart, the rounds of improve, ..."""
        paths = sorted(file.parent for file in self.path.rglob("config.toml") if file.parent != self.path)
        return {str(path.relative_to(self.path)): Run(path) for path in paths}

    @property
    def usage(self) -> Usage:
        """Calls, tokens and cost of all episodes."""
        return Usage(**self._field("usage"))

    @property
    def em(self) -> Estimate:
        """Exact match on the only task, with its interval."""
        return self._only_summary.em

    @property
    def f1(self) -> Estimate:
        """F1 on the only task, with its interval."""
        return self._only_summary.f1

    @property
    def accuracy(self) -> Estimate:
        """Accuracy on the only task, with its interval."""
        return self._only_summary.accuracy

    @property
    def finished(self) -> Estimate:
        """The share of episodes of the only task that ended in an answer, with its interval."""
        return self._only_summary.finished

    @property
    def _only_summary(self) -> Summary:
        tasks = list(self.results)
        if len(tasks) == 1:
            return self.results[tasks[0]]
        if not tasks:
            raise DataError(f"{self.path} is a run of {self.verb}, which measures no task. Evaluate an agent first.")
        raise DataError(f"{self.path} has {len(tasks)} tasks: {', '.join(tasks)}. Name one, such as run[{tasks[0]!r}].")

    def __getitem__(self, name: str) -> Any:
        if name in self.results:
            return self.results[name]
        if name not in self.manifest:
            tasks, fields = ", ".join(self.results) or "none", ", ".join(self.manifest)
            raise KeyError(f"{self.path} has no {name!r}. Its tasks: {tasks}; fields of its manifest: {fields}.")
        return self.manifest[name]

    def __getattr__(self, name: str) -> Any:
        # Called for names that are no attribute. A private one is asked for by libraries that only look what this is.
        if name.startswith("_"):
            raise AttributeError(name)
        return self._field(name)

    def _field(self, name: str) -> Any:
        if name not in self.manifest:
            raise AttributeError(f"a run of {self.verb} has no {name!r}. Its manifest has: {', '.join(self.manifest)}.")
        return self.manifest[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(self.manifest if self.is_complete else ())})

    def to_dict(self) -> dict[str, Any]:
        """The manifest, in the shape that ``--json`` prints."""
        return dict(self.manifest)

    @property
    def tables(self) -> list[Table]:
        """The tables that the command line prints."""
        return list_run_tables(self)

    def __repr__(self) -> str:
        return f"<Run {self.path}: {', '.join(self._describe())}>"

    def _describe(self) -> Iterator[str]:
        """The verb, the state, and the scores or the number of episodes."""
        yield self.verb
        if not self.is_complete:
            yield "not complete"
            return
        manifest = self.manifest
        yield from (f"{task} EM {summary.em:.1%}, n {summary.n}" for task, summary in self.results.items())
        if "rounds" in manifest:
            yield f"EM by round {', '.join(format(entry['em'], '.0%') for entry in manifest['rounds'])}"
        elif "final_loss" in manifest:
            yield f"loss {manifest['final_loss']:.3g} after {manifest['steps']} steps"
        elif not self.results and (counts := read_counts(manifest)):
            total = sum(counts.values(), EpisodeCounts())
            yield f"{total.n} trajectories, {total.correct} right"

    def _repr_html_(self) -> str:
        return write_page(repr(self), self.tables if self.is_complete else ())


def list_run_tables(run: Run) -> list[Table]:
    """The tables of a complete run: its results as the command line prints them, else the facts of its manifest."""
    from fireact.reporting.report_tables import read_headline_table
    from fireact.terminal.evaluation import list_evaluation_tables
    from fireact.terminal.study import tabulate_study
    from fireact.terminal.training import tabulate_counts

    if (run.path / REPORT).is_file():
        return [read_headline_table(json.loads((run.path / REPORT).read_text(encoding="utf-8")))]
    if (run.path / STUDY_ROWS).is_file():
        return [tabulate_study(run.manifest, run.path)]
    if run.results:
        return list_evaluation_tables(run.results)[::-1]
    if "rounds" not in run.manifest and (counts := read_counts(run.manifest)):
        return [tabulate_counts(counts)]
    facts = tabulate_facts(run.manifest)
    return [*([tabulate_rounds(run.manifest["rounds"])] if "rounds" in run.manifest else []), facts]


def tabulate_rounds(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """The exact match of each round of ``improve``, over all tasks and by task."""
    rows: list[Row] = [
        [str(number), percent(entry["em"]),
         *(TableCell(percent(task["em"]), [interval(task["em_interval"], 0)]) for task in entry["tasks"].values())]
        for number, entry in enumerate(rounds)
    ]  # fmt: skip
    return Table("", ["round", "EM", *(rounds[0]["tasks"] if rounds else ())], rows)


def tabulate_facts(values: Mapping[str, Any]) -> Table:
    """The numbers and texts of a mapping, a row each; tables and lists inside it are left to its reader."""
    rows = [
        [name, f"{value:,.6g}" if isinstance(value, float) else str(value)]
        for name, value in values.items()
        if isinstance(value, str | int | float)
    ]
    return Table("", ["", ""], rows, names=2)


def write_page(heading: str, parts: Sequence[Any]) -> str:
    """HTML for a notebook: a heading, then tables, and objects that have a form of their own. Text is escaped."""
    pieces = [f"<style>{STYLE}</style>", f"<p><code>{escape(heading)}</code></p>"]
    for part in parts:
        pieces.append(
            write_html_table(part).replace("<small", " <small") if isinstance(part, Table) else part._repr_html_()
        )
        pieces += [f"<p>{escape(note)}</p>" for note in (part.notes if isinstance(part, Table) else ())]
    return "\n".join(['<div class="fireact">', *pieces, "</div>"])


class Result:
    """An object that a verb returns, with a short text, and tables for a notebook; its attributes are the object's.

    ``value`` is the object itself, ``to_dict`` what ``--json`` prints.
    """

    def __init__(self, value: Any, text: str, parts: Sequence[Any] = ()) -> None:
        self.value = value
        self._text, self._parts = text, tuple(parts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "value":  # libraries look what this is, also before there is a value
            raise AttributeError(name)
        if isinstance(self.value, Mapping) and name in self.value:
            return self.value[name]
        return getattr(self.value, name)

    def __getitem__(self, key: Any) -> Any:
        return self.value[key] if isinstance(self.value, Mapping | Sequence) else self.to_dict()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        fields = self.value if isinstance(self.value, Mapping) else dir(self.value)
        return sorted({*super().__dir__(), *(str(name) for name in fields)})

    def to_dict(self) -> Any:
        """Plain values for JSON."""
        return to_plain(self.value)

    def __repr__(self) -> str:
        return f"<{self._text}>"

    def _repr_html_(self) -> str:
        return write_page(self._text, self._parts)


class MarkedText:
    """A sample for a notebook: its text, with what is trained on marked."""

    def __init__(self, key: str, spans: Sequence[tuple[str, bool]]) -> None:
        self._key, self._spans = key, spans

    def _repr_html_(self) -> str:
        from fireact.terminal.notebook import write_marked_text

        return write_marked_text(self._key, self._spans)
