"""The alpaca form: instruction, input, output in one JSON array; of the released code, and of anyone.

Invariant: a released file that is read and written again is the same bytes; any other trajectory is written as the
released code would have written it, closing line and all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fireact.formats.react_text import read_episode
from fireact.formats.released import Findings, closes_episodes, facts, sample
from fireact.formats.source import RELEASED, Source, finish, imported
from fireact.render.alpaca import AlpacaRenderer
from fireact.types import Step, Trajectory


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows have an instruction and an output."""
    return bool(rows) and all(isinstance(row, dict) and {"instruction", "output"} <= row.keys() for row in rows)


def read(source: Source) -> Iterator[Trajectory]:
    """The samples of an alpaca file; an output without ``Action:`` is an answer."""
    closes = closes_episodes(source)
    return source.each(lambda number, row: [_read(source, number, row, closes=closes)])


def row(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as an alpaca sample."""
    kept = facts(trajectory)
    if kept.get("form") == "alpaca":
        again = kept.get("raw") or _rebuilt(trajectory.example.question, trajectory.steps, kept)
        if _same(_read(_NOWHERE, 0, again), trajectory):
            return dict(again)
    return AlpacaRenderer().export(trajectory)


_NOWHERE = Source(path=Path("alpaca"), kind="json", head=())


def _read(source: Source, number: int, row: Mapping[str, Any], *, closes: bool = False) -> Trajectory:
    instruction, output = (str(row[key] or "") for key in ("instruction", "output"))
    given = str(row.get("input") or "")
    question = f"{instruction}\n{given}" if given else instruction
    system = str(row.get("system") or "")
    episode = read_episode(output)
    if not episode.steps:
        kept: dict[str, Any] = {"form": "alpaca", "raw": dict(row)}
        return imported(question, [finish(output)], task=source.name, meta={"system": system, RELEASED: kept})
    findings = Findings()
    if episode.closing is not None and not output.endswith("\n"):
        findings.add("no-final-newline", output[-60:])
    kept = {"form": "alpaca", "closing": episode.closing, "end": "\n" if output.endswith("\n") else ""}
    trajectory = sample(
        source, number, question=question, episode=episode, findings=findings, facts=kept, closes=closes, system=system
    )  # fmt: skip
    if _rebuilt(trajectory.example.question, trajectory.steps, facts(trajectory)) == row:
        return trajectory
    return replace(trajectory, meta={**trajectory.meta, RELEASED: {**facts(trajectory), "raw": dict(row)}})


def _rebuilt(question: str, steps: Sequence[Step], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The sample as it was, from its steps: options back in the output, turns in their own words."""
    options = int(kept.get("options", 0))
    instruction = question[: -options - 1] if options else question
    output = f"{question[-options:]}\n" if options else ""
    for step in steps:
        output += f"{step.text}\n" + ("" if step.observation is None else f"Observation: {step.observation}\n")
    if kept.get("closing") is not None:
        output += f"Observation: {kept['closing']}\n"
    return {"instruction": instruction, "input": "", "output": output.removesuffix("\n") + str(kept.get("end", "\n"))}


def _same(again: Trajectory, trajectory: Trajectory) -> bool:
    return again.example.question == trajectory.example.question and again.steps == trajectory.steps
