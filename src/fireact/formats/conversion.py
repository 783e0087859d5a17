"""The verb ``convert``: episodes from one format to another, and a report of damage, repairs and losses.

Invariant: without ``fix``, a released file keeps its bytes; with it, no known damage is left. Reading and writing are
one pass.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError
from fireact.formats.card import origin_of
from fireact.formats.inspect_log import LISTED_NAME
from fireact.formats.read import find_reader, read_any
from fireact.formats.released import repair_trajectory, repairable_damage
from fireact.formats.source import Damage, open_source_file
from fireact.formats.trainers import build_trainer_config
from fireact.formats.write import find_writer, write_episodes
from fireact.types import Tool, Trajectory

MAX_ROWS = 3
"""Rows that the report lists for each kind of damage."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted, damaged, repaired and dropped.

    ``damage`` counts it by kind, and ``first_damage`` has the first rows of each; ``trainer`` is the entry for a
    trainer's configuration.
    """

    source_format: str
    to: str
    out: Path
    trajectories: int
    rows: int
    counts: Mapping[str, int]
    damage: Mapping[str, int]
    first_damage: Mapping[str, Sequence[Damage]]
    fixed: Mapping[str, int]
    dropped: Mapping[str, int]
    trainer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        first_rows = {
            kind: [{"row": damage.number, "detail": damage.detail} for damage in damages]
            for kind, damages in self.first_damage.items()
        }
        report = {
            "from": self.source_format,
            "to": self.to,
            "out": str(self.out),
            "trajectories": self.trajectories,
            "rows": self.rows,
            "counts": dict(self.counts),
            "damage": {kind: {"n": count, "first": first_rows[kind]} for kind, count in self.damage.items()},
            "fixed": dict(self.fixed),
            "dropped": dict(self.dropped),
        }
        return report if self.trainer is None else report | {"trainer": self.trainer}


@dataclass(slots=True)
class _DamageLog:
    """Damage by kind: its count, and the first rows that have it."""

    count: Counter[str] = field(default_factory=Counter)
    first_rows: dict[str, list[Damage]] = field(default_factory=dict)

    def __call__(self, damage: Damage) -> None:
        self.count[damage.kind] += 1
        rows = self.first_rows.setdefault(damage.kind, [])
        if len(rows) < MAX_ROWS:
            rows.append(damage)


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
) -> Conversion:
    """Convert a file and return what was done. Raises DataError and ConfigError as ``read_any`` and ``write`` do."""
    find_writer(to)
    if to == "inspect" and not LISTED_NAME.fullmatch(out.name):
        example = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H-%M-%S}_{source.stem or 'log'}.json"
        raise ConfigError(f"{out.name}: inspect view lists logs by their name. Give -o a name like {example}.")
    stanza = build_trainer_config(trainer, to, out) if trainer else None
    damages, repairs = _DamageLog(), Counter[str]()
    name = find_reader(open_source_file(source), format).name
    episodes = read_any(source, name, notice=damages, skip=skip)
    episodes = _repair_each(episodes, repairs) if fix else episodes
    summary = write_episodes(
        episodes,
        out,
        to,
        tools=tools,
        trainer=trainer,
        origin=origin_of(source) if to == "dataset" else None,
        force=force,
    )
    return Conversion(
        source_format=name,
        to=to,
        out=out,
        trajectories=summary.trajectories,
        rows=summary.rows,
        counts=summary.counts,
        damage=dict(damages.count.most_common()),
        first_damage=damages.first_rows,
        fixed=dict(repairs.most_common()),
        dropped=summary.dropped,
        trainer=stanza,
    )


def _repair_each(episodes: Iterator[Trajectory], repairs: Counter[str]) -> Iterator[Trajectory]:
    for trajectory in episodes:
        repairs.update(repairable_damage(trajectory))
        yield repair_trajectory(trajectory)
