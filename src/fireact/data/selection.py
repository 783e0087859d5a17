"""Which trajectories are taken, decided over light rows: some 50 bytes each, however long the trajectory is.

Invariant: every choice depends on the seed and on the set of rows, never on their order; nothing is taken twice; what
is asked for beyond what is there is an error that names the shortfall. A smaller sample is part of a larger one of the
same seed. Nothing here reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from fireact.data.filters import difficulty, is_right
from fireact.data.steps import faults
from fireact.errors import ConfigError
from fireact.formats.source import RELEASED
from fireact.render.react import turn
from fireact.types import Trajectory

Rows = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
ROW = np.dtype(
    [
        ("key", "u8"), ("example", "u8"), ("content", "u8"), ("offset", "u8"), ("length", "u4"), ("line", "u4"), ("source", "u2"),
        ("group", "u4"), ("level", "u4"), ("steps", "u4"), ("repairs", "u4"), ("bad", "u4"),
        ("em", "?"), ("finished", "?"), ("damaged", "?"),
    ]
)  # fmt: skip
"""Digests of the episode and of its question, where the line lies, and what choices depend on."""
BALANCED = ("task", "method", "difficulty")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, and the names behind their codes: "task/method" of ``group``, the difficulty of ``level``."""

    rows: Rows
    groups: tuple[str, ...]
    levels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Table:
        return Table(self.rows[index], self.groups, self.levels)

    def values(self, by: str) -> list[str]:
        """For each code the value of "group", "task", "method" or "difficulty"."""
        if by == "difficulty":
            return list(self.levels)
        part = {"task": 0, "method": 2}.get(by)
        return list(self.groups) if part is None else [name.rpartition("/")[part] for name in self.groups]

    def members(self, by: str) -> dict[str, Index]:
        """The rows of each value, in order of the values; values with no row are left out."""
        codes = self.rows["level" if by == "difficulty" else "group"]
        names = np.array(self.values(by) or [""])
        values, place = np.unique(names, return_inverse=True)
        own = place[codes] if len(codes) else codes
        return {str(value): found for at, value in enumerate(values) if len(found := np.flatnonzero(own == at))}


def digest(text: str) -> int:
    """64 bits that stand for a text. Whoever finds two alike looks at the texts."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def identity(trajectory: Trajectory) -> str:
    """What makes an episode the same episode: its key and its model."""
    return f"{trajectory.key}\0{trajectory.model}"


def question(trajectory: Trajectory) -> str:
    """Names a question over all methods, models and seeds that answered it, and over files that give it other ids."""
    return " ".join(trajectory.example.question.casefold().split()) or f"{trajectory.task}/{trajectory.example.id}"


def written(trajectory: Trajectory) -> str:
    """The question and all that the agent wrote: what makes two samples alike."""
    return " ".join([trajectory.example.question, *map(turn, trajectory.steps)])


def content(trajectory: Trajectory) -> int:
    """64 bits that stand for all that was asked, written and observed."""
    hashed = blake2b(digest_size=8)
    for text in (trajectory.task, written(trajectory), *(step.observation or "" for step in trajectory.steps)):
        hashed.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(hashed.digest(), "little")


def table(entries: Iterable[tuple[Trajectory, int, int, int]]) -> Table:
    """The rows of trajectories, each with its line number, offset and length."""
    groups: dict[str, int] = {}
    levels: dict[str, int] = {}
    rows = [
        (
            digest(identity(one)),
            digest(question(one)),
            content(one),
            offset,
            length,
            line,
            0,
            groups.setdefault(f"{one.task}/{one.method}", len(groups)),
            levels.setdefault(difficulty(one), len(levels)),
            len(one.steps),
            sum(step.repairs for step in one.steps),
            sum(fault is not None for fault in faults(one.steps)),
            is_right(one),
            one.stop == "finish",
            RELEASED in one.meta,
        )
        for one, line, offset, length in entries
    ]
    return Table(np.array(rows, dtype=ROW), tuple(groups), tuple(levels))


def concatenate(tables: Iterable[Table]) -> Table:
    """All rows in one table, under common codes."""
    groups: dict[str, int] = {}
    levels: dict[str, int] = {}
    parts: list[Rows] = [np.empty(0, ROW)]
    for one in tables:
        rows = one.rows.copy()
        for column, names, codes in (("group", one.groups, groups), ("level", one.levels, levels)):
            code = np.array([codes.setdefault(name, len(codes)) for name in names], dtype="u4")
            rows[column] = code[rows[column]] if len(rows) else rows[column]
        parts.append(rows)
    return Table(np.concatenate(parts), tuple(groups), tuple(levels))


def ranks(digests: npt.NDArray[Any], seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A number for each digest, as if drawn by the seed; draws for other purposes are independent of it."""
    mixed = digests.astype(np.uint64) ^ np.uint64(digest(f"{seed} {purpose}"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finalizer of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def shuffled(found: Table, seed: int) -> Index:
    """All rows in an order that the seed alone decides."""
    return np.argsort(ranks(found.rows["key"], seed, "order"))


def sample(found: Table, within: Index, n: int, seed: int) -> Index:
    """``n`` of the rows of ``within``, which has as many."""
    drawn = ranks(found.rows["key"][within], seed, "take")
    return within[np.argsort(drawn)[:n]]


def best(found: Table, n: int) -> Index:
    """The ``n`` best of each question: successes before failures, shorter first, fewer repairs first."""
    rows = found.rows
    order = np.lexsort((rows["key"], rows["repairs"], rows["steps"], ~rows["em"], rows["example"]))
    if not len(order):
        return order
    same = rows["example"][order]
    starts = np.flatnonzero(np.r_[True, same[1:] != same[:-1]])
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[place < n])


def draw(found: Table, wanted: Mapping[str, int], *, by: str, seed: int, history: Sequence[str]) -> Index:
    """So many rows of each value of ``by``. Raises ConfigError that names everything that there is too little of."""
    members = found.members(by)
    there = {name: len(members.get(name, ())) for name in wanted}
    short = [f"{name}: {shortfall(n, there[name])}" for name, n in wanted.items() if n > there[name]]
    if short and any(there.values()):
        raise ConfigError(f"{'; '.join(short)} ({'; '.join(history)}). Ask for fewer (n scales all), or collect more.")
    refuse_absent(wanted, members)
    return np.concatenate(
        [np.empty(0, np.int64), *(sample(found, members[name], n, seed) for name, n in wanted.items())]
    )


def refuse_absent(wanted: Iterable[str], there: Iterable[str]) -> None:
    """Raise ConfigError where something is asked for that there is nothing of."""
    absent = [name for name in wanted if name not in there]
    if absent:
        raise ConfigError(f"no trajectories of {', '.join(absent)} are left. There are: {', '.join(there) or 'none'}.")


def shortfall(wanted: int, there: int) -> str:
    """How much is missing, in words."""
    return f"{wanted} trajectories asked for, {there} there, {wanted - there} short"


def shares(weights: Mapping[str, float], there: Mapping[str, int], n: int | None) -> dict[str, int]:
    """How many of each value make ``n`` in these proportions; without ``n`` as many as there are of the scarcest."""
    total = math.fsum(weights.values())
    if n is not None:
        return _apportioned(weights, total, n)
    most = min((int(there.get(name, 0) * total / weight) for name, weight in weights.items()), default=0)
    for fitting in range(most, 0, -1):
        parts = _apportioned(weights, total, fitting)
        if all(count <= there.get(name, 0) for name, count in parts.items()):
            return parts
    return dict.fromkeys(weights, 0)


def _apportioned(weights: Mapping[str, float], total: float, n: int) -> dict[str, int]:
    """Whole numbers that add up to ``n``: the largest remainders are rounded up."""
    exact = {name: n * weight / total for name, weight in weights.items()}
    parts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (parts[name] - exact[name], name))[: n - sum(parts.values())]:
        parts[name] += 1
    return parts


def held_out(found: Table, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are held out: all those of a share of each task's questions, at least one question where it has two."""
    chosen = [np.empty(0, "u8")]
    for within in found.members("task").values():
        examples = np.unique(found.rows["example"][within])
        count = min(max(1, round(share * len(examples))), len(examples) - 1)
        chosen.append(examples[np.argsort(ranks(examples, seed, "hold out"))[:count]])
    held: npt.NDArray[np.bool_] = np.isin(found.rows["example"], np.concatenate(chosen))
    return held
