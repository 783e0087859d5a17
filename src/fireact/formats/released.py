"""What the released fine-tuning files have in common (Chen et al. 2023): task, method, damage, and the way back.

Invariant: the steps of a released sample are repaired as they are read, so damage is never learned. What the
byte-faithful round trip needs beside them is in ``meta["released"]``, and is used only while it gives the same steps.
``repair_trajectory`` removes it, and the damage with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from fireact.formats.react_text import EpisodeText, reward_of, split_thought_from_answer
from fireact.formats.source import RELEASED, Damage, SourceFile, import_trajectory
from fireact.types import Step, Trajectory, answer_of

BEYOND_REPAIR = ("no-action", "no-thought", "no-closing-line")
"""Kinds of damage whose text is lost: reported, never repaired."""
_OPTIONS = re.compile(r"A[.:)] ?")
_DIGESTS = "released.txt"
"""Below each task/method, the digests (8 hexadecimal digits of SHA-256) of its samples' questions and thoughts.

The spelling of a reward and the end of the last line would tell the samples apart too, but they are damage, which a
repaired copy does not have.
"""


@dataclass(slots=True)
class RowDamage:
    """Damage found in one row, by kind."""

    details: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, detail: str) -> None:
        self.details.setdefault(kind, detail[:120])

    def report(self, source: SourceFile, number: int) -> None:
        for kind, detail in self.details.items():
            source.notice(Damage(kind, number, detail))


def build_released_trajectory(
    source: SourceFile, number: int, *, question: str, episode: EpisodeText, row_damage: RowDamage,
    facts: Mapping[str, Any], closes: bool = False, system: str = "",
) -> Trajectory:  # fmt: skip
    """The Trajectory of a sample; ``closes`` says whether the samples of its file end in a closing line."""
    original_question = question
    question, steps = _repair_sample(question, episode, row_damage)
    options = len(question) - len(original_question) - 1 if "options-in-output" in row_damage.details else 0
    reward = reward_of(episode.closing)
    _check_closing(episode, row_damage, closes=closes)
    row_damage.report(source, number)
    answer = answer_of(steps)
    task, method = _load_known_samples().get(sample_digest(question, steps), (source.name, ""))
    return import_trajectory(
        question,
        steps,
        task=task,
        method=method,
        answer=answer if reward == 1.0 and answer is not None else "",
        about={"answer_from": "reward"} if reward == 1.0 else {},
        scores={} if reward is None else {"em": reward},
        meta={"system": system, RELEASED: {**facts, "options": options, "damage": sorted(row_damage.details)}},
    )


def has_closing_lines(source: SourceFile) -> bool:
    """Whether the episodes of the file end in a closing line."""
    return any("Episode finished, reward" in str(row) for row in source.head)


def repair_trajectory(trajectory: Trajectory) -> Trajectory:
    """The trajectory without the record of its damage: it is then written as it should have been."""
    if RELEASED not in trajectory.meta:
        return trajectory
    return replace(trajectory, meta={key: value for key, value in trajectory.meta.items() if key != RELEASED})


def damage_of(trajectory: Trajectory) -> tuple[str, ...]:
    """The kinds of damage that a trajectory had when it was read."""
    return tuple(released_facts(trajectory).get("damage", ()))


def repairable_damage(trajectory: Trajectory) -> tuple[str, ...]:
    """The kinds of damage that ``repair_trajectory`` removes."""
    return tuple(kind for kind in damage_of(trajectory) if kind not in BEYOND_REPAIR)


def released_facts(trajectory: Trajectory) -> Mapping[str, Any]:
    """What ``meta`` holds of a released sample beside its steps; empty for other trajectories."""
    released = trajectory.meta.get(RELEASED, {})
    return released if isinstance(released, Mapping) else {}


def sample_digest(question: str, steps: Sequence[Step]) -> str:
    """Identifies a sample in any file: 8 hexadecimal digits of its question and thoughts, whatever their spaces."""
    text = " ".join(" ".join((question, *(step.thought for step in steps))).split())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


@cache
def _load_known_samples() -> Mapping[str, tuple[str, str]]:
    """Task and method of every released sample, by its digest."""
    samples: dict[str, tuple[str, str]] = {}
    task = method = ""
    for word in files("fireact.formats").joinpath(_DIGESTS).read_text(encoding="utf-8").split():
        if "/" in word:
            task, _, method = word.partition("/")
        else:
            samples[word] = task, method
    return samples


def _repair_sample(question: str, episode: EpisodeText, row_damage: RowDamage) -> tuple[str, tuple[Step, ...]]:
    before = episode.before.removesuffix("\n")
    if before and question.startswith("Question:") and _OPTIONS.match(before):
        row_damage.add("options-in-output", before)
        question = f"{question}\n{before}"
    elif before and not question:
        row_damage.add("question-in-turn", before)
        question = before
    elif before:
        row_damage.add("text-before-thought", before)
    steps = list(episode.steps)
    for index, step in enumerate(steps):
        split_step = split_thought_from_answer(step)
        if split_step is not None:
            row_damage.add("thought-in-answer", step.text)
            steps[index] = split_step
        elif not step.thought:
            row_damage.add("no-thought", step.text)
        if step.action is None and episode.closing is not None:
            row_damage.add("no-action", step.text)
            steps[index] = replace(step, weight=0.0)  # it acted, but its action is lost: nothing to learn from
    return question, tuple(steps)


def _check_closing(episode: EpisodeText, row_damage: RowDamage, *, closes: bool) -> None:
    if episode.closing is None and not closes:
        return
    if episode.closing is None:
        row_damage.add("no-closing-line", episode.steps[-1].text if episode.steps else episode.before)
        return
    if episode.closings > 1:
        row_damage.add("closing-line-twice", episode.closing)
    if re.search(r"reward = \d", episode.closing):
        row_damage.add("reward-as-number", episode.closing)
