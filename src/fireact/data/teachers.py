"""The models that wrote a run's trajectories, and the licence or terms under which each of them may be learned from.

``collect`` and ``record`` keep the licence that their user names; ``mix`` hands it on. Invariant: a licence is never
guessed, and a teacher that is a script of this package needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.base.run_directory import MANIFEST, read_config, read_manifest

SCRIPTED = "scripted:"


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that wrote trajectories, and the licence of its answers; empty where nobody named it."""

    name: str
    license: str = ""

    @property
    def needs_licence(self) -> bool:
        """Whether its licence has to be named and is not."""
        return not self.license and not self.name.startswith(SCRIPTED)


def find_teachers(run: Path) -> list[Teacher]:
    """The teachers behind a run: of its own manifest, or of the runs that it was made from, where they are found."""
    manifest = read_manifest(run) if (run / MANIFEST).is_file() else {}
    if "teachers" in manifest:
        return [Teacher(**teacher) for teacher in manifest["teachers"]]
    if "teacher" in manifest:
        return [Teacher(str(manifest["teacher"]), str(manifest.get("teacher_license") or ""))]
    if "calls_by_dialect" in manifest:
        return [Teacher("the model of a recorded agent", str(manifest.get("teacher_license") or ""))]
    sources = [source for source in map(Path, _list_sources(run)) if (source / MANIFEST).is_file()]
    return join_teachers(teacher for source in sources for teacher in find_teachers(source))


def join_teachers(teachers: Iterable[Teacher]) -> list[Teacher]:
    """Each teacher once; a licence that is named anywhere counts."""
    by_name: dict[str, Teacher] = {}
    for teacher in teachers:
        if not by_name.get(teacher.name, Teacher("")).license:
            by_name[teacher.name] = teacher
    return list(by_name.values())


def teachers_to_dicts(teachers: Sequence[Teacher]) -> list[dict[str, Any]]:
    """Plain values for a manifest."""
    return [asdict(teacher) for teacher in teachers]


def _list_sources(run: Path) -> list[str]:
    """What a run of mix or train was made from, as its settings name it."""
    settings: Mapping[str, Any] = read_config(run) if (run / "config.toml").is_file() else {}
    sources = settings.get("sources") or [settings.get("data"), settings.get("run")]
    return [str(source) for source in sources if source]
