"""Which trajectories are selected, decided over light rows of about 50 bytes, however long the trajectory is.

Invariant: every choice depends on the seed and on the set of rows, never on their order; no row is taken twice. A
request for more rows than there are is an error that names the shortfall. A smaller sample is part of a larger one of
the same seed. Nothing here reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from fireact.data.filters import difficulty, has_full_score
from fireact.data.steps import find_faults
from fireact.errors import ConfigError
from fireact.formats.source import RELEASED
from fireact.render.react import render_turn
from fireact.tasks.question_hash import normalise_question
from fireact.types import Trajectory

Rows = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
ROW = np.dtype(
    [
        ("key", "u8"), ("example", "u8"), ("content", "u8"),
        ("offset", "u8"), ("length", "u4"), ("line", "u4"), ("source", "u2"),
        ("group", "u4"), ("level", "u4"), ("steps", "u4"), ("repairs", "u4"), ("bad", "u4"),
        ("em", "?"), ("finished", "?"), ("damaged", "?"),
    ]
)  # fmt: skip
"""Hashes of the episode, its question and content, the place of its line, and what choices depend on."""
BALANCED = ("task", "method", "difficulty")


@dataclass(frozen=True, slots=True)
class RowTable:
    """Rows, and the names behind their codes: "task/method" of ``group``, the difficulty of ``level``."""

    rows: Rows
    groups: tuple[str, ...]
    levels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> RowTable:
        return RowTable(self.rows[index], self.groups, self.levels)

    def values(self, by: str) -> list[str]:
        """For each code its value of "group", "task", "method" or "difficulty"."""
        if by == "difficulty":
            return list(self.levels)
        position = {"task": 0, "method": 2}.get(by)
        return list(self.groups) if position is None else [name.rpartition("/")[position] for name in self.groups]

    def members(self, by: str) -> dict[str, Index]:
        """The rows of each value, in order of the values; values with no row are left out."""
        codes = self.rows["level" if by == "difficulty" else "group"]
        names = np.array(self.values(by) or [""])
        values, value_codes = np.unique(names, return_inverse=True)
        row_codes = value_codes[codes] if len(codes) else codes
        return {
            str(value): indices
            for code, value in enumerate(values)
            if len(indices := np.flatnonzero(row_codes == code))
        }


def hash_text(text: str) -> int:
    """A 64-bit hash of a text. Equal hashes must be confirmed by the texts."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def episode_identity(trajectory: Trajectory) -> str:
    """What identifies an episode: its key and its model."""
    return f"{trajectory.key}\0{trajectory.model}"


def question_key(trajectory: Trajectory) -> str:
    """Identifies a question across methods, models and seeds, and across files that give it other ids."""
    return normalise_question(trajectory.example.question) or f"{trajectory.task}/{trajectory.example.id}"


def agent_text(trajectory: Trajectory) -> str:
    """The question and all that the agent wrote: near duplicates are compared by this text."""
    return " ".join([trajectory.example.question, *map(render_turn, trajectory.steps)])


def hash_content(trajectory: Trajectory) -> int:
    """A 64-bit hash of the task, the question, the agent's text and the observations."""
    hashed = blake2b(digest_size=8)
    for text in (trajectory.task, agent_text(trajectory), *(step.observation or "" for step in trajectory.steps)):
        hashed.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(hashed.digest(), "little")


def build_table(entries: Iterable[tuple[Trajectory, int, int, int]]) -> RowTable:
    """The rows of (trajectory, line number, byte offset, length)."""
    groups: dict[str, int] = {}
    levels: dict[str, int] = {}
    rows = [
        (
            hash_text(episode_identity(trajectory)),
            hash_text(question_key(trajectory)),
            hash_content(trajectory),
            offset,
            length,
            line,
            0,
            groups.setdefault(f"{trajectory.task}/{trajectory.method}", len(groups)),
            levels.setdefault(difficulty(trajectory), len(levels)),
            len(trajectory.steps),
            sum(step.repairs for step in trajectory.steps),
            sum(fault is not None for fault in find_faults(trajectory.steps)),
            has_full_score(trajectory),
            trajectory.stop == "finish",
            RELEASED in trajectory.meta,
        )
        for trajectory, line, offset, length in entries
    ]
    return RowTable(np.array(rows, dtype=ROW), tuple(groups), tuple(levels))


def concatenate_tables(tables: Iterable[RowTable]) -> RowTable:
    """All rows in one table, with common codes."""
    groups: dict[str, int] = {}
    levels: dict[str, int] = {}
    all_rows: list[Rows] = [np.empty(0, ROW)]
    for table in tables:
        rows = table.rows.copy()
        for column, names, codes in (("group", table.groups, groups), ("level", table.levels, levels)):
            code = np.array([codes.setdefault(name, len(codes)) for name in names], dtype="u4")
            rows[column] = code[rows[column]] if len(rows) else rows[column]
        all_rows.append(rows)
    return RowTable(np.concatenate(all_rows), tuple(groups), tuple(levels))


def random_ranks(digests: npt.NDArray[Any], seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A pseudo-random number for each hash, from ``seed`` and ``purpose``: draws for two purposes are independent."""
    # Sorting by these numbers shuffles the rows without regard to their order in the file.
    mixed = digests.astype(np.uint64) ^ np.uint64(hash_text(f"{seed} {purpose}"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finalizer of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def shuffle_rows(table: RowTable, seed: int) -> Index:
    """All rows in an order that only the seed decides."""
    return np.argsort(random_ranks(table.rows["key"], seed, "order"))


def sample_rows(table: RowTable, within: Index, n: int, seed: int) -> Index:
    """``n`` of the rows ``within``, which must hold at least ``n``."""
    drawn = random_ranks(table.rows["key"][within], seed, "take")
    return within[np.argsort(drawn)[:n]]


def select_best_rows(table: RowTable, n: int) -> Index:
    """The ``n`` best of each question: successes before failures, shorter first, fewer repairs first."""
    rows = table.rows
    order = np.lexsort((rows["key"], rows["repairs"], rows["steps"], ~rows["em"], rows["example"]))
    if not len(order):
        return order
    examples = rows["example"][order]  # sorted by question, so that each question is one run of equal values
    starts = np.flatnonzero(np.r_[True, examples[1:] != examples[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[rank < n])


def draw_rows(table: RowTable, counts: Mapping[str, int], *, by: str, seed: int, history: Sequence[str]) -> Index:
    """``counts`` rows of each value of ``by``. Raises ConfigError that names each value with too few rows."""
    members = table.members(by)
    available = {name: len(members.get(name, ())) for name in counts}
    short = [f"{name}: {describe_shortfall(n, available[name])}" for name, n in counts.items() if n > available[name]]
    if short and any(available.values()):
        raise ConfigError(f"{'; '.join(short)} ({'; '.join(history)}). Ask for fewer (n scales all), or collect more.")
    refuse_absent_groups(counts, members)
    return np.concatenate(
        [np.empty(0, np.int64), *(sample_rows(table, members[name], n, seed) for name, n in counts.items())]
    )


def refuse_absent_groups(names: Iterable[str], available: Iterable[str]) -> None:
    """Raise ConfigError that lists the requested groups without any row."""
    absent = [name for name in names if name not in available]
    if absent:
        raise ConfigError(
            f"no trajectories of {', '.join(absent)} are left. There are: {', '.join(available) or 'none'}."
        )


def describe_shortfall(requested: int, available: int) -> str:
    """The shortfall in words."""
    return f"{requested} trajectories requested, {available} available, {requested - available} short"


def apportion_rows(weights: Mapping[str, float], available: Mapping[str, int], n: int | None) -> dict[str, int]:
    """How many of each value make ``n`` in these proportions; without ``n``, the most that the rows allow."""
    total = math.fsum(weights.values())
    if n is not None:
        return _round_shares(weights, total, n)
    most = min((int(available.get(name, 0) * total / weight) for name, weight in weights.items()), default=0)
    for size in range(most, 0, -1):
        counts = _round_shares(weights, total, size)
        if all(count <= available.get(name, 0) for name, count in counts.items()):
            return counts
    return dict.fromkeys(weights, 0)


def _round_shares(weights: Mapping[str, float], total: float, n: int) -> dict[str, int]:
    """Whole numbers that sum to ``n``: the largest remainders are rounded up."""
    exact = {name: n * weight / total for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[: n - sum(counts.values())]:
        counts[name] += 1
    return counts


def select_held_out_rows(table: RowTable, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are held out: all rows of a share of each task's questions.

    A task with at least two questions holds out at least one and keeps at least one.
    """
    held_examples = [np.empty(0, "u8")]
    for within in table.members("task").values():
        examples = np.unique(table.rows["example"][within])
        count = min(max(1, round(share * len(examples))), len(examples) - 1)
        held_examples.append(examples[np.argsort(random_ranks(examples, seed, "hold out"))[:count]])
    is_held_out: npt.NDArray[np.bool_] = np.isin(table.rows["example"], np.concatenate(held_examples))
    return is_held_out
