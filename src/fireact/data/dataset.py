"""Dataset: trajectories in memory with their history, for moderate data in Python; ``mix`` does the same over files.

Invariant: a Dataset never changes and its history never lies. The choices are those of ``selection``, so that a
Dataset and ``mix`` take the same trajectories for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fireact.data import selection
from fireact.data.filters import Filter, Predicate, predicate
from fireact.data.sources import is_own
from fireact.data.steps import weighed
from fireact.errors import ConfigError, DataError, unknown
from fireact.formats.read import read_any
from fireact.formats.released import repaired
from fireact.store import MANIFEST, read_manifest, read_trajectories, shown
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True)
class Dataset:
    """Trajectories and the history of how they came to be."""

    trajectories: tuple[Trajectory, ...]
    history: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Dataset:
        """Read a run directory, or a file in any known format. Raises DataError where two lines are the same episode."""
        found = read_trajectories(path) if is_own(path) else read_any(path)
        read = sorted(map(repaired, found), key=selection.identity)
        for one, other in pairwise(read):
            if selection.identity(one) == selection.identity(other):
                raise DataError(f"{path} holds the episode {one.key} twice. Delete one of the two lines.")
        return cls(tuple(read), (*past(path), f"{shown(path)}: {len(read)}"))

    def __len__(self) -> int:
        return len(self.trajectories)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def where(self, wanted: str | Predicate) -> Dataset:
        """Those that a filter keeps, given by text (see ``predicate``) or as a function."""
        keep = predicate(wanted) if isinstance(wanted, str) else wanted
        kept = tuple(trajectory for trajectory in self.trajectories if keep(trajectory))
        name = keep.name if isinstance(keep, Filter) else getattr(keep, "__name__", "function")
        return Dataset(kept, (*self.history, f"where {name}: {len(self)} -> {len(kept)}"))

    def take(self, n: int, *, seed: int) -> Dataset:
        """``n`` of them in random order, without replacement. Raises ConfigError naming the shortfall."""
        if n < 0:
            raise ConfigError(f"{n} trajectories asked for; give a number from 0 to {len(self)}.")
        if n > len(self):
            raise ConfigError(
                f"{n} trajectories asked for, {len(self)} there ({'; '.join(self.history)}): {n - len(self)} short."
            )
        table = self._table()
        drawn = table[selection.sample(table, selection.shuffled(table, seed), n, seed)]
        return self._chosen(drawn[selection.shuffled(drawn, seed)], f"take {n}, seed {seed}")

    def best_of(self, n: int = 1) -> Dataset:
        """The ``n`` best of each question: successes first, then the shortest, then the least repaired."""
        if n < 1:
            raise ConfigError(f"best_of is {n}; it must be at least 1.")
        table = self._table()
        return self._chosen(table[selection.best(table, n)], f"best {n} of each question")

    def balance(self, by: str, *, seed: int, n: int | None = None) -> Dataset:
        """As many of each task, method or difficulty: those of the scarcest, or ``n`` in all. Raises ConfigError."""
        if by not in selection.BALANCED:
            raise unknown("balance", by, selection.BALANCED)
        table = self._table()
        there = {name: len(index) for name, index in table.members(by).items()}
        wanted = selection.shares(dict.fromkeys(there, 1.0), there, n)
        drawn = table[selection.draw(table, wanted, by=by, seed=seed, history=self.history)]
        return self._chosen(drawn[selection.shuffled(drawn, seed)], f"balance {by}, seed {seed}")

    def hold_out(self, share: float, *, seed: int) -> tuple[Dataset, Dataset]:
        """What is left, and what is held out: all trajectories of that share of each task's questions."""
        if not 0 <= share < 1:
            raise ConfigError(f"the share to hold out is {share}; it must be from 0 to below 1.")
        table = self._table()
        held = selection.held_out(table, share, seed)
        what = f"hold out {share:g} of the questions, seed {seed}"
        return self._chosen(table[~held], f"{what}, rest"), self._chosen(table[held], f"{what}, held out")

    def weigh_bad(self, weight: float) -> Dataset:
        """The same with that weight on disturbed, faulty and repeated steps; 0 keeps them as context only."""
        if not 0 <= weight <= 1:
            raise ConfigError(f"the weight of bad steps is {weight}; it must be from 0 to 1.")
        found = tuple(weighed(trajectory, weight) for trajectory in self.trajectories)
        changed = sum(one != other for one, other in zip(found, self.trajectories, strict=True))
        return Dataset(found, (*self.history, f"bad steps weigh {weight:g}: {changed} of {len(self)} trajectories"))

    def shuffled(self, seed: int) -> Dataset:
        """The same trajectories in an order that depends on the seed alone."""
        table = self._table()
        return Dataset(self._chosen(table[selection.shuffled(table, seed)], "").trajectories, self.history)

    def group(self, key: Callable[[Trajectory], str]) -> dict[str, Dataset]:
        """One Dataset for each value of ``key``, in order of the values."""
        groups: dict[str, list[Trajectory]] = {}
        for trajectory in self.trajectories:
            groups.setdefault(key(trajectory), []).append(trajectory)
        return {
            name: Dataset(tuple(groups[name]), (*self.history, f"group {name}: {len(self)} -> {len(groups[name])}"))
            for name in sorted(groups)
        }

    @staticmethod
    def concatenate(parts: Iterable[Dataset]) -> Dataset:
        """All parts in one, their histories after each other."""
        parts = list(parts)
        lines = tuple(dict.fromkeys(line for part in parts for line in part.history))
        return Dataset(tuple(trajectory for part in parts for trajectory in part), lines)

    def _table(self) -> selection.Table:
        return selection.table((trajectory, at, 0, 0) for at, trajectory in enumerate(self.trajectories))

    def _chosen(self, table: selection.Table, what: str) -> Dataset:
        found = tuple(self.trajectories[at] for at in table.rows["line"].tolist())
        return Dataset(found, (*self.history, f"{what}: {len(self)} -> {len(found)}"))


def past(path: Path) -> tuple[str, ...]:
    """The history that a run directory carries, or nothing."""
    if not (path / MANIFEST).is_file():
        return ()
    return tuple(map(str, read_manifest(path).get("history", ())))
