"""The verb ``quickstart``: every stage in turn, each in its own directory, with the defaults of its own verb.

collect/        trajectories of the scripted expert      mix/   those that are right, mixed
train/          the adapter and its learning curve       eval-base/, eval-fireact/   the same questions
report.html     report.md, report.json, plots/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.collection import PLAN, CollectConfig, collect
from fireact.data import MixConfig, mix
from fireact.evaluation.run import EvalConfig, evaluate
from fireact.machine import need_disk, need_memory, peak_memory_gb
from fireact.progress import SILENT, Progress
from fireact.reporting.run import assemble
from fireact.reporting.runs import STAGES, read_runs
from fireact.reporting.write import write
from fireact.store import RunDir, absolute, typed
from fireact.training.recipe import Recipe
from fireact.training.run import TrainConfig, train
from fireact.verbs import Verb


@dataclass(frozen=True, slots=True)
class QuickstartConfig:
    """Settings of ``quickstart``; ``fast`` is a real run at a small size."""

    student: str = "smollm2-135m"
    fast: bool = False

    def __post_init__(self) -> None:
        if Path(self.student).is_dir():
            object.__setattr__(self, "student", absolute(self.student))


def stages(config: QuickstartConfig, out: Path) -> Iterator[tuple[str, Verb, Any]]:
    """Each stage's name, verb and settings, in order."""
    plan = {name: max(2, count // 8) for name, count in PLAN.items()} if config.fast else dict(PLAN)
    n = 4 if config.fast else EvalConfig(agent="").n
    recipe = Recipe(epochs=1) if config.fast else Recipe()
    settings: tuple[tuple[Verb, Any], ...] = (
        (collect, CollectConfig(plan=plan)),
        (mix, MixConfig(sources=(absolute(out / "collect"),))),
        (train, TrainConfig(data=absolute(out / "mix"), student=config.student, recipe=recipe)),
        (evaluate, EvalConfig(agent=config.student, n=n)),
        (evaluate, EvalConfig(agent=absolute(out / "train"), n=n)),
    )
    yield from ((name, verb, stage) for name, (verb, stage) in zip(STAGES, settings, strict=True))


def quickstart(
    config: QuickstartConfig, out: Path, *, force: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Run what is missing of every stage and return the manifest; ``out`` then holds the report too."""
    need_disk(out, gigabytes=2.0)
    need_memory(gigabytes=3.0)
    with RunDir(out, verb="quickstart", settings=asdict(config), force=force) as run:
        if run.complete:
            return run.manifest
        seconds = {
            name: verb(stage, out / name, progress=progress)["seconds"] for name, verb, stage in stages(config, out)
        }
        memory = peak_memory_gb()
        runs = list(read_runs([str(out / name) for name in STAGES]))
        write(assemble(runs, title="FireAct quickstart", commands=[_command(config, out)], peak_memory_gb=memory), out)
        return run.finish(stage_seconds=seconds, peak_memory_gb=memory)


def _command(config: QuickstartConfig, out: Path) -> str:
    return f"fireact quickstart --student {typed(config.student)} -o {typed(out)}{' --fast' if config.fast else ''}"
