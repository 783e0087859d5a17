"""The models that wrote a run's trajectories, and the licence or terms under which each of them may be learned from.

``collect`` and ``record`` keep the licence that their user names; ``mix`` hands it on. Invariant: a licence is never
guessed, and a teacher that is a script of this package needs none. A source that is no run has an unknown teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact.base.run_directory import CONFIG, MANIFEST, read_config, read_manifest

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


def find_teachers(source: Path, *, within: frozenset[Path] = frozenset()) -> list[Teacher]:
    """The teachers behind a run: of its own manifest, or of what it was made from; an unknown one for anything else.

    ``within`` are the runs that are made of it, so that one which names itself comes to an end.
    """
    if source.resolve() in within:
        return []
    within |= {source.resolve()}
    manifest = read_manifest(source) if (source / MANIFEST).is_file() else {}
    if manifest.get("teachers"):
        return [Teacher(**teacher) for teacher in manifest["teachers"]]
    if "teacher" in manifest:
        return _find_model_teachers(str(manifest["teacher"]), str(manifest.get("teacher_license") or ""), within)
    if "calls_by_dialect" in manifest:
        return [Teacher("the model of a recorded agent", str(manifest.get("teacher_license") or ""))]
    teachers = join_teachers(_find_source_teachers(source, within)) if (source / CONFIG).is_file() else []
    return teachers or [Teacher(f"the unknown teacher of {source.absolute().name}")]


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


def _find_source_teachers(run: Path, within: frozenset[Path]) -> Iterator[Teacher]:
    """The teachers of what a run of eval, mix, doctor or training was made from, as its settings name it."""
    settings = read_config(run)
    sources = settings.get("sources") or [settings.get(name) for name in ("data", "run", "start")]
    if settings.get("verb") == "quickstart":
        sources = [run / "train"]
    for source in sources:
        if source and isinstance(source, str | Path):  # "start" of collect is a number
            yield from find_teachers(Path(source), within=within)
    if "agent" in settings:
        yield from _find_model_teachers(str(settings["agent"]), "", within)


def _find_model_teachers(spec: str, license: str, within: frozenset[Path]) -> list[Teacher]:
    """A model as the teacher; the teachers of a student of ours, or of a recording, unless a licence is named."""
    path = Path(spec.removeprefix("replay:"))
    if not license and (path / MANIFEST).is_file():
        return find_teachers(path, within=within)
    return [Teacher(path.name if path.is_absolute() else spec, license)]
