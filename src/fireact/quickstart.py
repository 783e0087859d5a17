"""The verb ``quickstart``: every stage in turn, each in its own directory, with the defaults of its own verb.

    collect/        trajectories of the scripted expert      mix/   those that are right, mixed
    train/          the adapter and its learning curve       eval-base/, eval-fireact/   the same questions
    report.html     report.md, report.json
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.collect import PLAN, CollectConfig, collect
from fireact.data import MixConfig, mix
from fireact.evaluate.run import EvalConfig, evaluate
from fireact.machine import need_disk, need_memory, peak_memory_gb
from fireact.progress import SILENT, Progress
from fireact.report.run import ReportConfig, report
from fireact.store import RunDir
from fireact.train.run import TrainConfig, train
from fireact.verbs import Verb

STAGES = ("collect", "mix", "train", "eval-base", "eval-fireact", "report")


@dataclass(frozen=True, slots=True)
class QuickstartConfig:
    """Settings of ``quickstart``; ``fast`` is a real run at a small size."""

    student: str = "smollm2-135m"
    fast: bool = False


def stages(config: QuickstartConfig, out: Path) -> Iterator[tuple[str, Verb, Any]]:
    """Each stage's name, verb and settings, in order."""
    plan = {name: max(2, count // 8) for name, count in PLAN.items()} if config.fast else dict(PLAN)
    n = 4 if config.fast else EvalConfig.n
    yield "collect", collect, CollectConfig(plan=plan)
    yield "mix", mix, MixConfig(sources=(str(out / "collect"),))
    yield "train", train, TrainConfig(data=str(out / "mix"), student=config.student)
    yield "eval-base", evaluate, EvalConfig(agent=config.student, n=n)
    yield "eval-fireact", evaluate, EvalConfig(agent=str(out / "train"), n=n)
    yield "report", report, ReportConfig(runs=tuple(str(out / name) for name in STAGES[:-1]))


def quickstart(
    config: QuickstartConfig, out: Path, *, force: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Run what is missing of every stage and return the manifest; ``out`` then holds the report."""
    need_disk(out, gigabytes=2.0)
    need_memory(gigabytes=3.0)
    with RunDir(out, verb="quickstart", settings=asdict(config), force=force) as run:
        if run.complete:
            return run.manifest
        seconds = {}
        for name, verb, stage in stages(config, out):
            manifest = verb(stage, out / name, progress=progress)
            seconds[name] = manifest["seconds"]
        return run.finish(stage_seconds=seconds, peak_memory_gb=peak_memory_gb())
