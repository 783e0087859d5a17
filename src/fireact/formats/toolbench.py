"""ToolBench's answers: a document with a search tree, whose last training path is read.

Invariant: ``Finish`` with an answer is the finish action; giving up is not. Abandoned branches are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fireact.formats.source import SourceFile, import_trajectory
from fireact.render.messages import steps_from_messages
from fireact.types import FINISH, Action, Step, Trajectory
from fireact.wire.schemas import normalise_schemas


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows have an ``answer_generation`` with messages."""
    return bool(rows) and all(
        isinstance(row, dict) and "train_messages" in (row.get("answer_generation") or {}) for row in rows
    )


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The answers of a file."""
    return source.build_each(lambda number, row: [_read_row(source, number, row)])


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any]) -> Trajectory:
    generation = row["answer_generation"]
    paths = generation["train_messages"]
    question, system, steps = steps_from_messages(paths[-1] if paths else [], report=source.reporter(number))
    return import_trajectory(
        str(generation.get("query") or question),
        [_normalise_finish(step) for step in steps],
        task="toolbench",
        id=source.name if source.kind == "json" else "",
        scores={"win": float(bool(row.get("win")))},
        meta={"system": system, "tools": normalise_schemas(_parse_functions(generation.get("function")))},
    )


def _normalise_finish(step: Step) -> Step:
    action = step.action
    if action is None or action.name != "Finish" or "final_answer" not in action.arguments:
        return step
    return replace(step, action=Action(FINISH, {"answer": str(action.arguments["final_answer"])}))


def _parse_functions(functions: Any) -> Any:
    return json.loads(functions) if isinstance(functions, str) and functions.startswith('[{"') else functions
