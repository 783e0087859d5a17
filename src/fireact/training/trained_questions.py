"""Which questions a student was trained on, so that no result on these passes for one on new questions.

    questions.jsonl   beside the weights: one row a question, {"sha256": the hash of ``tasks.question_hash``}

Invariant: the file has the questions of the trained trajectories and of the runs before them, not those held out for
validation. Only the same words are recognised, whatever their case and white space; near duplicates are found by
``doctor --against``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fireact.base import jsonl
from fireact.base.run_directory import CONFIG, read_config
from fireact.data.sources import read_any_trajectories
from fireact.errors import FireactError
from fireact.rollout.students import tuned_directory
from fireact.tasks.question_hash import hash_question
from fireact.types import Trajectory

QUESTIONS = "questions.jsonl"
"""The file of the hashes in a run directory."""


def hash_trained_questions(trajectories: Iterable[Trajectory]) -> list[str]:
    """The hashes of the questions of trajectories, sorted; an empty question has none."""
    hashes = {hash_question(trajectory.example.question) for trajectory in trajectories}
    return sorted(hashes - {""})


def write_trained_questions(out: Path, hashes: Iterable[str]) -> None:
    """Write the file of the hashes into a run directory."""
    jsonl.write_objects(out / QUESTIONS, ({"sha256": question_hash} for question_hash in sorted(set(hashes))))


def read_trained_questions(directory: Path) -> frozenset[str]:
    """The hashes of the questions that a run of training learned; for a run of an earlier version, those of its data.

    They are none where that data is gone.
    """
    file = directory / QUESTIONS
    if file.is_file():
        return frozenset(str(row["sha256"]) for row in jsonl.read_objects(file))
    settings = read_config(directory)
    hashes: set[str] = set()
    with suppress(FireactError):  # the data of an earlier version was moved or deleted
        hashes.update(hash_trained_questions(read_any_trajectories(Path(str(settings.get("data", directory))))))
    origin = Path(str(settings.get("start") or settings.get("run") or directory))
    if origin != directory and (origin / CONFIG).is_file():
        hashes |= read_trained_questions(origin)
    return frozenset(hashes)


def find_trained_questions(agent: str) -> frozenset[str]:
    """The hashes of the questions that the agent behind a name or directory learned; none for any other model."""
    path = Path(agent)
    if not (path / CONFIG).is_file():
        return frozenset()
    directory = path if read_config(path).get("verb") == "tune" else tuned_directory(agent)
    return frozenset() if directory is None else read_trained_questions(directory)
