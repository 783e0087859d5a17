"""Dataset: trajectories in memory with their history, for moderate data in Python; ``mix`` does the same over files.

Invariant: a Dataset never changes and its history never lies. The choices are those of ``selection``, so that a
Dataset and ``mix`` take the same trajectories for the same seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from fireact.base.run_directory import MANIFEST, read_manifest, relative_path
from fireact.data import selection
from fireact.data.filters import Filter, Predicate, predicate
from fireact.data.sources import read_any_trajectories
from fireact.data.steps import weigh_bad_steps
from fireact.errors import ConfigError, DataError, unknown_name_error
from fireact.formats.released import repair_trajectory
from fireact.types import Trajectory


@dataclass(frozen=True, slots=True, repr=False)
class Dataset:
    """Trajectories and the history of how they came to be."""

    trajectories: tuple[Trajectory, ...]
    history: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Dataset:
        """Read a run directory, or a file in any known format. Raises DataError if two lines are the same episode."""
        path = Path(path)
        ordered = sorted(map(repair_trajectory, read_any_trajectories(path)), key=selection.episode_identity)
        for previous, current in pairwise(ordered):
            if selection.episode_identity(previous) == selection.episode_identity(current):
                raise DataError(f"{path} holds the episode {previous.key} twice. Delete one of the two lines.")
        return cls(tuple(ordered), (*read_history(path), f"{relative_path(path)}: {len(ordered)}"))

    def __repr__(self) -> str:
        return f"<Dataset of {len(self)} trajectories: {'; '.join(self.history)}>"

    def _repr_html_(self) -> str:
        """The history, as a notebook shows it."""
        items = "".join(f"<li>{escape(line)}</li>" for line in self.history)
        return f"<div>{len(self)} trajectories</div><ul>{items}</ul>"

    def __len__(self) -> int:
        return len(self.trajectories)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def where(self, condition: str | Predicate) -> Dataset:
        """The trajectories that pass a filter: a text (see ``predicate``) or a function."""
        keep = predicate(condition) if isinstance(condition, str) else condition
        matching = tuple(trajectory for trajectory in self.trajectories if keep(trajectory))
        name = keep.name if isinstance(keep, Filter) else getattr(keep, "__name__", "function")
        return Dataset(matching, (*self.history, f"where {name}: {len(self)} -> {len(matching)}"))

    def take(self, n: int, *, seed: int) -> Dataset:
        """``n`` trajectories in random order, without replacement. Raises ConfigError that names the shortfall."""
        if n < 0:
            raise ConfigError(f"{n} trajectories requested; give a number from 0 to {len(self)}.")
        if n > len(self):
            raise ConfigError(
                f"{n} trajectories requested, {len(self)} available ({'; '.join(self.history)}): {n - len(self)} short."
            )
        table = self._build_table()
        drawn = table[selection.sample_rows(table, selection.shuffle_rows(table, seed), n, seed)]
        return self._select_rows(drawn[selection.shuffle_rows(drawn, seed)], f"take {n}, seed {seed}")

    def best_of(self, n: int = 1) -> Dataset:
        """The ``n`` best of each question: successes first, then the shortest, then the least repaired."""
        if n < 1:
            raise ConfigError(f"best_of is {n}; it must be at least 1.")
        table = self._build_table()
        return self._select_rows(table[selection.select_best_rows(table, n)], f"best {n} of each question")

    def balance(self, by: str, *, seed: int, n: int | None = None) -> Dataset:
        """Equally many of each task, method or difficulty: as many as the scarcest has, or ``n`` in all.

        Raises ConfigError for an unknown ``by`` or where there are too few.
        """
        if by not in selection.BALANCED:
            raise unknown_name_error("balance", by, selection.BALANCED)
        table = self._build_table()
        available = {name: len(index) for name, index in table.members(by).items()}
        counts = selection.apportion_rows(dict.fromkeys(available, 1.0), available, n)
        drawn = table[selection.draw_rows(table, counts, by=by, seed=seed, history=self.history)]
        return self._select_rows(drawn[selection.shuffle_rows(drawn, seed)], f"balance {by}, seed {seed}")

    def hold_out(self, share: float, *, seed: int) -> tuple[Dataset, Dataset]:
        """Two sets, rest and held out: the second has all trajectories of that share of each task's questions."""
        if not 0 <= share < 1:
            raise ConfigError(f"the share to hold out is {share}; it must be from 0 to below 1.")
        table = self._build_table()
        is_held_out = selection.select_held_out_rows(table, share, seed)
        description = f"hold out {share:g} of the questions, seed {seed}"
        return self._select_rows(table[~is_held_out], f"{description}, rest"), self._select_rows(
            table[is_held_out], f"{description}, held out"
        )

    def weigh_bad(self, weight: float) -> Dataset:
        """The same with this weight on disturbed, faulty and repeated steps; 0 keeps them as context only."""
        if not 0 <= weight <= 1:
            raise ConfigError(f"the weight of bad steps is {weight}; it must be from 0 to 1.")
        weighted = tuple(weigh_bad_steps(trajectory, weight) for trajectory in self.trajectories)
        changed = sum(new != old for new, old in zip(weighted, self.trajectories, strict=True))
        return Dataset(weighted, (*self.history, f"bad steps weigh {weight:g}: {changed} of {len(self)} trajectories"))

    def shuffled(self, seed: int) -> Dataset:
        """The same trajectories in an order that depends on the seed alone."""
        table = self._build_table()
        return Dataset(self._select_rows(table[selection.shuffle_rows(table, seed)], "").trajectories, self.history)

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
    def concatenate(datasets: Iterable[Dataset]) -> Dataset:
        """All datasets in one, their histories one after another."""
        datasets = list(datasets)
        lines = tuple(dict.fromkeys(line for dataset in datasets for line in dataset.history))
        return Dataset(tuple(trajectory for dataset in datasets for trajectory in dataset), lines)

    def _build_table(self) -> selection.RowTable:
        return selection.build_table((trajectory, index, 0, 0) for index, trajectory in enumerate(self.trajectories))

    def _select_rows(self, table: selection.RowTable, description: str) -> Dataset:
        trajectories = tuple(self.trajectories[index] for index in table.rows["line"].tolist())
        return Dataset(trajectories, (*self.history, f"{description}: {len(self)} -> {len(trajectories)}"))


def read_history(path: Path) -> tuple[str, ...]:
    """The history in the manifest of a run directory; empty where there is none."""
    if not (path / MANIFEST).is_file():
        return ()
    return tuple(map(str, read_manifest(path).get("history", ())))
