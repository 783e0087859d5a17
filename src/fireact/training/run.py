"""The verb ``train``: a mixture of trajectories becomes an adapter directory, by way of messages and masked tokens."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fireact.machine import release_memory
from fireact.progress import SILENT, Progress
from fireact.render.react import ReActRenderer
from fireact.store import RunDir, absolute, read_trajectories
from fireact.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``train``: the mixture, the student that is fine-tuned, and the recipe."""

    data: str
    student: str = "smollm2-135m"
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", absolute(self.data))
        if Path(self.student).is_dir():
            object.__setattr__(self, "student", absolute(self.student))


def train(config: TrainConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Fine-tune into ``out/adapter`` and return the manifest; an interrupted run goes on from its last checkpoint."""
    with RunDir(out, verb="train", settings=asdict(config), force=force) as run:
        if run.complete:
            return run.manifest
        from fireact.training.trainer import fine_tune

        trajectories = list(read_trajectories(Path(config.data)))
        renderer = ReActRenderer()
        samples = [renderer.sample(trajectory) for trajectory in trajectories]
        stats = fine_tune(samples, student=config.student, recipe=config.recipe, out=run.path, progress=progress)
        release_memory()
        return run.finish(
            student=config.student,
            adapter_sha256=_hash(run.path / "adapter"),
            trajectories=len(trajectories),
            **asdict(stats),
        )


def _hash(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
