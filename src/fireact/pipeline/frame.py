"""Trajectories as a pandas DataFrame: a row a trajectory, with flat columns of numbers and texts.

Invariant: nothing that a column holds is nested. Facts about the question are columns ``meta.NAME``; a fact that is a
list or a table is its JSON text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact.base.run_directory import CONFIG, read_config
from fireact.errors import missing_extra_error
from fireact.evaluation.breakdown import TRAINED
from fireact.evaluation.failures import classify_failure, count_searches
from fireact.types import Trajectory

if TYPE_CHECKING:
    import pandas

Source = str | os.PathLike[str] | Iterable[Trajectory]


def frame(*sources: Source) -> pandas.DataFrame:
    """The trajectories of runs, files of any format, or lists of trajectories: a row each, in their order.

    Of a quickstart, a study or the rounds of ``improve``, they are those of the evaluations; ``cell`` is a study's.
    Columns: run, task, id, question, answer (gold), prediction, em, f1, stop, failure, steps, searches, calls, tokens
    and their kinds, cost (US dollars), seconds, model, method, seed, error, trained (the agent was trained on the
    question); then score.NAME and meta.NAME.
    Raises ConfigError where pandas is not installed, DataError for what cannot be read.
    """
    try:
        import pandas
    except ImportError as error:
        raise missing_extra_error("pandas", "hub") from error
    rows = [row for source in sources for row in _list_rows(source)]
    return pandas.DataFrame(rows, columns=_order_columns(rows))


def _list_rows(source: Source) -> Iterator[dict[str, Any]]:
    from fireact.data.sources import read_any_trajectories

    if not isinstance(source, str | os.PathLike):
        yield from map(_flatten_trajectory, source)
        return
    for path, names in _find_evaluations(Path(source)):
        yield from ({"run": str(path), **names, **_flatten_trajectory(entry)} for entry in read_any_trajectories(path))


def _find_evaluations(path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The path itself; for a run made of runs its evaluations, and for a study the cell of each."""
    from fireact.reporting.runs import read_runs

    verb = read_config(path)["verb"] if (path / CONFIG).is_file() else ""
    if verb == "improve":
        yield from ((evaluation, {}) for evaluation in sorted(path.glob("round-*/eval")))
    elif verb in ("quickstart", "study"):
        runs = [run for run in read_runs([str(path)]) if run.verb == "eval"]
        yield from ((run.path, {"cell": run.cell} if run.cell else {}) for run in runs)
    else:
        yield path, {}


def _flatten_trajectory(trajectory: Trajectory) -> dict[str, Any]:
    example, usage = trajectory.example, trajectory.usage
    fields = {
        "task": trajectory.task, "id": example.id, "question": example.question, "answer": example.answer,
        "prediction": trajectory.answer, "em": None, "f1": None, "stop": trajectory.stop,
        "failure": classify_failure(trajectory), "steps": len(trajectory.steps),
        "searches": count_searches(trajectory).total(), "calls": usage.calls,
        "tokens": usage.prompt_tokens + usage.completion_tokens, "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens, "completion_tokens": usage.completion_tokens, "cost": usage.cost,
        "seconds": trajectory.seconds, "model": trajectory.model, "method": trajectory.method, "seed": trajectory.seed,
        "error": trajectory.error, "trained": bool(trajectory.meta.get(TRAINED)),
    }  # fmt: skip
    fields |= {name if name in ("em", "f1") else f"score.{name}": value for name, value in trajectory.scores.items()}
    return fields | {f"meta.{name}": _flatten_fact(value) for name, value in example.meta.items()}


def _flatten_fact(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def _order_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of all rows; further scores and facts about questions, which not all rows have, come last."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return sorted(names, key=lambda name: 2 if name.startswith("meta.") else int(name.startswith("score.")))
