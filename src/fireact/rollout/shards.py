"""Shards: the episodes of one run dealt out to several machines, each of which runs one shard as a run of its own.

Invariant: shard i of n (i from 1) has the episodes at the positions i - 1, i - 1 + n, ... of the run. So the shards of
a run have no episode in common, miss none, and each has some of every task. ``fireact join`` makes one run of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fireact.errors import ConfigError

T = TypeVar("T")
SHARDS = "FIREACT_SHARDS"
"""The variable that tells how many shards there are, where the scheduler does not."""
_OPTION = "Give --shard I/N (I from 1 to N), or --shard 1/1 for all episodes."


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One shard of ``count``; ``index`` counts from 1."""

    count: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``3/16``. Raises ConfigError that shows the form."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard {text!r} is not of the form I/N, with I from 1 to N, such as 3/16.")
        return cls(int(match[2]), int(match[1]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def take(self, items: Sequence[T]) -> list[T]:
        """The items of this shard."""
        return list(items[self.index - 1 :: self.count])


def normalise_shard(text: str) -> str | None:
    """A shard as settings hold it: None where the one shard has every episode. Raises ConfigError."""
    shard = Shard.parse(text)
    return str(shard) if shard.count > 1 else None


def take_shard(text: str | None, items: Sequence[T]) -> list[T]:
    """The items of a shard, all without one. Raises ConfigError where there are more shards than items."""
    if text is None:
        return list(items)
    shard = Shard.parse(text)
    if shard.count > len(items):
        raise ConfigError(f"shard {shard}: there are only {len(items)} episodes. Give at most {len(items)} shards.")
    return shard.take(items)


def name_shard_directory(path: str, given: Mapping[str, Any]) -> str:
    """The default directory of a run, which for a shard ends in its number, such as ``-3-of-16``."""
    text = given.get("shard") or find_shard(os.environ)
    shard = None if text is None else normalise_shard(text)
    return path if shard is None else f"{path}-{shard.replace('/', '-of-')}"


def choose_shard(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the shard that a scheduler's variables name, where no shard is given."""
    shard = None if settings.get("shard") else find_shard(os.environ)
    return dict(settings) if shard is None else {**settings, "shard": shard}


def find_shard(variables: Mapping[str, str]) -> str | None:
    """The shard that the variables of an array job of Slurm or an indexed Job of Kubernetes name; None outside of one.

    Slurm counts from the least number of the array, Kubernetes from 0. Raises ConfigError where the number of shards is
    not known, or the numbers of the array have gaps.
    """
    if "SLURM_ARRAY_TASK_ID" in variables:
        return _find_slurm_shard(variables)
    if "JOB_COMPLETION_INDEX" not in variables:
        return None
    index, count = _read_number(variables, "JOB_COMPLETION_INDEX"), _read_number(variables, SHARDS)
    if index is None or count is None or index >= count:
        raise ConfigError(
            f"this is number {variables['JOB_COMPLETION_INDEX']} (from 0) of an indexed Job of "
            f"{variables.get(SHARDS, 'an unknown number of')} shards. Set {SHARDS} to the completions of the Job. "
            f"{_OPTION}"
        )
    return f"{index + 1}/{count}"


def _find_slurm_shard(variables: Mapping[str, str]) -> str:
    number, low, high, count = (
        _read_number(variables, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "MAX", "COUNT")
    )
    step = _read_number(variables, "SLURM_ARRAY_TASK_STEP") or 1
    if None not in (number, low, high, count):
        assert number is not None and low is not None and high is not None and count is not None
        if high - low == step * (count - 1) and (number - low) % step == 0 and low <= number <= high:
            return f"{(number - low) // step + 1}/{count}"
    names = ("ID", "MIN", "MAX", "COUNT", "STEP")
    shown = ", ".join(f"{name} {variables.get(f'SLURM_ARRAY_TASK_{name}', 'not set')}" for name in names)
    raise ConfigError(
        f"the array of this Slurm task does not tell which shard it is (SLURM_ARRAY_TASK_: {shown}). {_OPTION}"
    )


def _read_number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None
