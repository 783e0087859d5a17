"""The complete run directories and files that a report is made from: a quickstart and a study stand for their stages.

Invariant: a directory is read once, whichever paths lead to it, and nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import DataError
from fireact.evaluation.conditions import disturbances
from fireact.reporting.episodes import described
from fireact.store import read_config, read_manifest, read_trajectories
from fireact.types import Trajectory

NOISE = "noise:"
FILE = "file"
"""The verb of a run that is only a file of episodes."""
GATHERED = ("collect", "record")
"""The verbs of runs in which episodes are gathered to learn from."""
STAGES = ("collect", "mix", "train", "eval-base", "eval-fireact")
"""What a quickstart directory holds, in order."""


@dataclass(frozen=True, slots=True)
class Run:
    """A complete run directory: its path, settings and manifest.

    A stage of a study has the title of the study, the name of its cell, its place on the axes but size and seed, and, by
    task, the evaluation that the study compares it with. ``episodes`` are there where they were read already.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    study: str = ""
    cell: str = ""
    line: str = ""
    against: Mapping[str, Path] = field(default_factory=dict)
    episodes: Sequence[Trajectory] | None = None

    @property
    def verb(self) -> str:
        return str(self.config["verb"])

    @property
    def noise(self) -> str:
        """What was done to the tools of an evaluation, as it was typed, or the kinds that a file's episodes show; empty where nothing was."""
        if self.verb == FILE:
            return ", ".join(sorted(disturbances(self.episodes or ())))
        specs = [spec.partition(":")[2] for spec in self.config.get("tools", ()) if spec.startswith(NOISE)]
        return "; ".join(dict.fromkeys(spec.partition(":")[0] for spec in specs))

    def read(self) -> Sequence[Trajectory]:
        """The episodes of the run."""
        return list(read_trajectories(self.path)) if self.episodes is None else self.episodes


def read_runs(paths: Sequence[str]) -> Iterator[Run]:
    """The complete runs behind the paths, each of them once.

    Raises DataError for any other path.
    """
    seen: set[Path] = set()
    for run in (run for path in map(Path, paths) for run in _behind(path)):
        if run.path.resolve() not in seen:
            seen.add(run.path.resolve())
            yield run


def measuring(runs: Sequence[Run]) -> list[Run]:
    """The runs whose results a report shows: evaluations and files, without any those in which episodes were gathered.

    Of these, mixes stand only where what they were mixed from does not.
    """
    found = [run for run in runs if run.verb in ("eval", FILE)]
    gathered = [run for run in runs if run.verb in GATHERED] or [run for run in runs if run.verb == "mix"]
    return found or [_described(run) for run in gathered]


def _described(run: Run) -> Run:
    manifest, episodes = described(run.path)
    return replace(run, manifest={**run.manifest, **manifest}, episodes=episodes)


def _behind(path: Path) -> Iterator[Run]:
    if path.is_file():
        manifest, episodes = described(path)
        yield Run(path, {"verb": FILE}, manifest, episodes=episodes)
        return
    config = read_config(path)
    if config["verb"] == "quickstart":
        yield from (Run(path / name, *_read(path / name)) for name in STAGES)
    elif config["verb"] == "study":
        yield from _stages(path, Path(config.get("stages") or path))
    elif config["verb"] == "report":
        raise DataError(f"{path} is a report; give the runs that it was made from.")
    else:
        yield Run(path, *_read(path))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_config(path), read_manifest(path)


def _stages(study: Path, root: Path) -> Iterator[Run]:
    """The stages of a study, each under the first of its cells; the last stage of a cell is its evaluation."""
    title = str(read_manifest(study)["title"])  # says how to go on where it is not complete
    rows = [row for row in jsonl.read(study / "results.jsonl") if "error" not in row]
    measured = {str(row["cell"]): root / row["stages"][-1] for row in rows}
    first = {stage: row for row in reversed(rows) for stage in row["stages"]}
    for stage in dict.fromkeys(stage for row in rows for stage in row["stages"]):
        row, path = first[stage], root / stage
        more = sum(stage in one["stages"] for one in rows) - 1 if stage.startswith("mix/") else 0
        cell = f"{row['cell']} and {more} more" if more else str(row["cell"])
        found = {task: measured[one["cell"]] for task, one in row["against"].items() if one and one["cell"] in measured}
        own = {task: other for task, other in found.items() if path == measured[row["cell"]] and other != path}
        line = ", ".join(str(value) for name, value in row["axes"].items() if name not in ("size", "seed"))
        yield Run(path, *_read(path), study=title, cell=cell, line=line, against=own)


def labels(paths: Sequence[Path]) -> dict[Path, str]:
    """A short name for each directory: its own, with as many of its parents as tell it from the others."""
    found = {path: path.name for path in paths}
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        counts = Counter(found.values())
        found = {path: "/".join(path.parts[-depth:]) if counts[name] > 1 else name for path, name in found.items()}
    return found
