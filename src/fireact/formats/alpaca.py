"""The alpaca format: instruction, input, output in one JSON array, as the released code and others write it.

Invariant: a released file that is read and written again keeps its bytes; any other trajectory is written as the
released code writes it, with its closing line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.formats.react_text import parse_episode
from fireact.formats.released import RowDamage, build_released_trajectory, has_closing_lines, released_facts
from fireact.formats.source import RELEASED, SourceFile, finish_step, import_trajectory
from fireact.render.alpaca import AlpacaRenderer
from fireact.types import Step, Trajectory


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows have an instruction and an output."""
    return bool(rows) and all(isinstance(row, dict) and {"instruction", "output"} <= row.keys() for row in rows)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The samples of an alpaca file; an output without ``Action:`` is an answer."""
    closes = has_closing_lines(source)
    return source.build_each(lambda number, row: [_read_row(source, number, row, closes=closes)])


def alpaca_row(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as an alpaca sample."""
    released = released_facts(trajectory)
    if released.get("form") == "alpaca":
        rebuilt_row = released.get("raw") or _rebuild_row(trajectory.example.question, trajectory.steps, released)
        if _is_same(_read_row(_NOWHERE, 0, rebuilt_row), trajectory):
            return dict(rebuilt_row)
    return AlpacaRenderer().export(trajectory)


_NOWHERE = SourceFile(path=Path("alpaca"), kind="json", head=())


def _read_row(source: SourceFile, number: int, row: Mapping[str, Any], *, closes: bool = False) -> Trajectory:
    instruction, output = (str(row[key] or "") for key in ("instruction", "output"))
    input_text = str(row.get("input") or "")
    question = f"{instruction}\n{input_text}" if input_text else instruction
    system = str(row.get("system") or "")
    episode = parse_episode(output)
    if not episode.steps:
        sample_facts: dict[str, Any] = {"form": "alpaca", "raw": dict(row)}
        return import_trajectory(
            question, [finish_step(output)], task=source.name, meta={"system": system, RELEASED: sample_facts}
        )
    row_damage = RowDamage()
    if episode.closing is not None and not output.endswith("\n"):
        row_damage.add("no-final-newline", output[-60:])
    sample_facts = {"form": "alpaca", "closing": episode.closing, "end": "\n" if output.endswith("\n") else ""}
    trajectory = build_released_trajectory(
        source, number, question=question, episode=episode, row_damage=row_damage, facts=sample_facts,
        closes=closes, system=system,
    )  # fmt: skip
    if _rebuild_row(trajectory.example.question, trajectory.steps, released_facts(trajectory)) == row:
        return trajectory
    return replace(trajectory, meta={**trajectory.meta, RELEASED: {**released_facts(trajectory), "raw": dict(row)}})


def _rebuild_row(question: str, steps: Sequence[Step], released: Mapping[str, Any]) -> dict[str, Any]:
    """The original row from the steps: options go back into the output, turns keep their exact text."""
    options = int(released.get("options", 0))
    instruction = question[: -options - 1] if options else question
    output = f"{question[-options:]}\n" if options else ""
    for step in steps:
        output += f"{step.text}\n" + ("" if step.observation is None else f"Observation: {step.observation}\n")
    if released.get("closing") is not None:
        output += f"Observation: {released['closing']}\n"
    return {
        "instruction": instruction,
        "input": "",
        "output": output.removesuffix("\n") + str(released.get("end", "\n")),
    }


def _is_same(reread: Trajectory, trajectory: Trajectory) -> bool:
    return reread.example.question == trajectory.example.question and reread.steps == trajectory.steps
