"""The verb ``convert``: episodes from one format to another, and a report of damage, repairs and losses.

Invariant: without ``fix``, a released file comes out as the same bytes; with it, no damage is left that is known. It
reads and writes in one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.formats.card import origin_of
from fireact.formats.read import read_any, reader_of
from fireact.formats.released import repaired, reparable
from fireact.formats.source import Damage, open_source
from fireact.formats.trainers import recipe
from fireact.formats.write import write, writer_of
from fireact.types import Tool, Trajectory

SHOWN = 3
"""Rows named for each kind of damage."""


@dataclass(slots=True)
class _Heard:
    """Damage by kind: how often, and the first rows."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __call__(self, damage: Damage) -> None:
        self.count[damage.kind] += 1
        rows = self.first.setdefault(damage.kind, [])
        if len(rows) < SHOWN:
            rows.append({"row": damage.number, "detail": damage.detail})


def convert(
    source: Path,
    out: Path,
    *,
    to: str,
    format: str | None = None,
    fix: bool = False,
    tools: Sequence[Tool] = (),
    trainer: str | None = None,
    skip: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Convert a file and return the report. Raises DataError and ConfigError as ``read_any`` and ``write`` do."""
    writer_of(to)
    stanza = recipe(trainer, to, out) if trainer else None
    heard, fixed = _Heard(), Counter[str]()
    name = reader_of(open_source(source), format).name
    episodes = read_any(source, name, notice=heard, skip=skip)
    episodes = _fixed(episodes, fixed) if fix else episodes
    written = write(
        episodes,
        out,
        to,
        tools=tools,
        trainer=trainer,
        origin=origin_of(source) if to == "dataset" else None,
        force=force,
    )
    report = {
        "from": name,
        "to": to,
        "out": str(out),
        "trajectories": written.trajectories,
        "rows": written.rows,
        "counts": written.counts,
        "damage": {kind: {"n": count, "first": heard.first[kind]} for kind, count in heard.count.most_common()},
        "fixed": dict(fixed.most_common()),
        "dropped": written.dropped,
    }
    return report if stanza is None else {**report, "trainer": stanza}


def _fixed(episodes: Iterator[Trajectory], fixed: Counter[str]) -> Iterator[Trajectory]:
    for trajectory in episodes:
        fixed.update(reparable(trajectory))
        yield repaired(trajectory)
