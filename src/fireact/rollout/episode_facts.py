"""What a run needs of its stored episodes to go on and to count them: a few facts of each, read without its steps.

Reading the facts of an episode takes a third of the time of reading the trajectory, and they are read for every episode
whenever a run is resumed. Invariant: a line that holds no trajectory is refused with its number, as far as these facts
show it; readers of whole trajectories check the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.field_types import check_field_types
from fireact.base.redact import redact
from fireact.base.run_directory import parse_trajectory, trajectory_file
from fireact.errors import DataError, FormatError
from fireact.types import Trajectory, Usage, name_episode


@dataclass(frozen=True, slots=True)
class EpisodeFacts:
    """An episode without its question and steps; ``em`` is None where it is not scored."""

    task: str
    id: str
    method: str
    seed: int
    stop: str
    seconds: float
    em: float | None
    usage: Usage
    repairs: int
    error: str | None

    @property
    def key(self) -> str:
        """The key of its trajectory."""
        return name_episode(self.task, self.id, self.method, self.seed)

    @classmethod
    def of(cls, trajectory: Trajectory) -> EpisodeFacts:
        """The facts of a trajectory."""
        return cls(
            trajectory.task, trajectory.example.id, trajectory.method, trajectory.seed, trajectory.stop,
            trajectory.seconds, trajectory.scores.get("em"), trajectory.usage,
            sum(step.repairs for step in trajectory.steps), trajectory.error,
        )  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EpisodeFacts:
        """The facts in parsed JSON. Raises KeyError, TypeError or ValueError where one is missing or wrong."""
        facts = cls(
            row["task"], row["example"]["id"], row["method"], row["seed"], row["stop"], row["seconds"],
            row["scores"].get("em"), Usage(**row["usage"]), sum(step.get("repairs", 0) for step in row["steps"]),
            row["error"],
        )  # fmt: skip
        check_field_types(facts)
        return facts


def read_episode_facts(path: Path) -> Iterator[EpisodeFacts]:
    """The facts of the episodes of a run directory or a JSONL file. Raises DataError with the number of a bad line."""
    file = trajectory_file(path)
    for number, line in jsonl.read_numbered_lines(file):
        try:
            yield EpisodeFacts.from_row(jsonl.loads(line))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{file}, line {number}: {_describe_error(line, error)}. Repair or delete that line."
            ) from error


def _describe_error(line: bytes, error: Exception) -> str:
    """Why a line holds no trajectory, in the words of its reader."""
    try:
        parse_trajectory(line)
    except FormatError as reason:
        return str(reason)
    return f"not a trajectory ({redact(repr(error))})"


def episode_key(row: Mapping[str, Any]) -> str:
    """The key of the trajectory in a row (``Trajectory.key``), without building the trajectory."""
    return name_episode(row["task"], row["example"]["id"], row["method"], row["seed"])


def summarise_episodes(episodes: Iterable[EpisodeFacts]) -> dict[str, Any]:
    """The part of a manifest about episodes: ``counts`` by "task/method", total ``repairs`` and ``usage``."""
    usage, repairs = Usage(), 0

    def add_to_totals() -> Iterator[EpisodeFacts]:
        nonlocal usage, repairs
        for facts in episodes:
            usage += facts.usage
            repairs += facts.repairs
            yield facts

    return {"counts": count_episodes(add_to_totals()), "repairs": repairs, "usage": asdict(usage)}


def count_episodes(episodes: Iterable[EpisodeFacts]) -> dict[str, dict[str, int]]:
    """By "task/method": how many episodes there are, how many finished and how many are right (EM 1)."""
    total, finished, correct = Counter[str](), Counter[str](), Counter[str]()
    for facts in episodes:
        name = f"{facts.task}/{facts.method}"
        total[name] += 1
        finished[name] += facts.stop == "finish"
        correct[name] += facts.em == 1.0
    return {name: {"n": total[name], "finished": finished[name], "correct": correct[name]} for name in total}
