"""The verb ``quickstart``: every stage in turn, each in its own directory, with the defaults of its own verb.

collect/        trajectories of the scripted expert      mix/   the correct ones, mixed
train/          the adapter and its learning curve       eval-base/, eval-fireact/   the same questions twice
report.html     report.md, report.json, plots/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.machine import peak_memory_gb, require_disk, require_memory
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import RunDir, absolute_if_path, absolute_path, shell_path
from fireact.base.settings import CheckedSettings, setting
from fireact.base.verbs import Verb
from fireact.data import MixConfig, mix
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.reporting.assembly import assemble_report, write_report
from fireact.reporting.runs import STAGES, read_runs
from fireact.rollout.collection import PLAN, CollectConfig, collect
from fireact.rollout.loading import STUDENT_HELP
from fireact.training.recipe import Recipe
from fireact.training.train import TrainConfig, train

FAST_TASK, FAST_QUESTIONS = "geo-hop", 12
FAST_PLAN = {f"{FAST_TASK}/react": 80}
"""A run of ``--fast``: what is asked, and the episodes that are collected for it."""


@dataclass(frozen=True, slots=True)
class QuickstartConfig(CheckedSettings):
    """Settings of ``quickstart``."""

    student: str = setting("smollm2-135m", normalise=absolute_if_path, help=STUDENT_HELP)
    fast: bool = False
    """A real but small run on one task: about two minutes."""


def quickstart_stages(config: QuickstartConfig, out: Path) -> Iterator[tuple[str, Callable[..., dict[str, Any]], Any]]:
    """Each stage's name, verb and settings, in order."""
    plan = dict(FAST_PLAN if config.fast else PLAN)
    asked: dict[str, Any] = {"n": FAST_QUESTIONS, "tasks": (FAST_TASK,)} if config.fast else {}
    recipe = Recipe(epochs=1) if config.fast else Recipe()
    settings: tuple[tuple[Callable[..., dict[str, Any]], Any], ...] = (
        (collect, CollectConfig(plan=plan)),
        (mix, MixConfig(sources=(absolute_path(out / "collect"),))),
        (train, TrainConfig(data=absolute_path(out / "mix"), student=config.student, recipe=recipe)),
        (evaluate, EvalConfig(agent=config.student, **asked)),
        (evaluate, EvalConfig(agent=absolute_path(out / "train"), **asked)),
    )
    yield from ((name, verb, stage) for name, (verb, stage) in zip(STAGES, settings, strict=True))


def quickstart(
    config: QuickstartConfig, out: Path, *, force: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Run every stage that is not complete and return the manifest; ``out`` then holds the report too."""
    require_disk(out, gigabytes=2.0)
    require_memory(gigabytes=3.0)
    with RunDir(out, verb="quickstart", settings=config, force=force) as run:
        if run.complete:
            return run.manifest
        seconds = {
            name: verb(stage, out / name, progress=progress)["seconds"]
            for name, verb, stage in quickstart_stages(config, out)
        }
        memory = peak_memory_gb()
        runs = list(read_runs([str(out / name) for name in STAGES]))
        write_report(
            assemble_report(
                runs, title="FireAct quickstart", commands=[_shell_command(config, out)], peak_memory_gb=memory
            ),
            out,
        )
        return run.finish(stage_seconds=seconds, peak_memory_gb=memory)


def _shell_command(config: QuickstartConfig, out: Path) -> str:
    fast = " --fast" if config.fast else ""
    return f"fireact quickstart --student {shell_path(config.student)} -o {shell_path(out)}{fast}"


QUICKSTART = Verb(
    "quickstart", QuickstartConfig, quickstart, out="runs/quickstart",
    example='`fireact quickstart`, then `fireact ask "QUESTION" --agent runs/quickstart`',
    command_line="fireact.cli.running:quickstart_command",
)  # fmt: skip
