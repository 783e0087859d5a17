"""What the released fine-tuning files have in common (Chen et al. 2023): task, method, damage, and the way back.

Invariant: the steps of a released sample are its repaired reading, so damage is never learned; what the byte-faithful
round trip needs beside them stands in ``meta["released"]``, and is used only as long as it tells the same steps.
``repaired`` takes it away, and with it the damage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from fireact.formats.react_text import Episode, reward_of, thought_out_of_answer
from fireact.formats.source import RELEASED, Damage, Source, imported
from fireact.types import Step, Trajectory, answer_of

BEYOND_REPAIR = ("no-action", "no-thought", "no-closing-line")
"""Kinds of damage whose words are lost: reported, never repaired."""
_OPTIONS = re.compile(r"A[.:)] ?")
_DIGESTS = "released.txt"
"""Below each task/method, the digests (8 hexadecimal digits of SHA-256) of its samples' questions and thoughts. The marks that tell
the samples apart, how a reward is spelt and whether the last line ends, are damage: a repaired copy is without them."""


@dataclass(slots=True)
class Findings:
    """Damage found in one row, by kind."""

    found: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, detail: str) -> None:
        self.found.setdefault(kind, detail[:120])

    def report(self, source: Source, number: int) -> None:
        for kind, detail in self.found.items():
            source.notice(Damage(kind, number, detail))


def sample(
    source: Source, number: int, *, question: str, episode: Episode, findings: Findings, facts: Mapping[str, Any],
    closes: bool = False, system: str = "",
) -> Trajectory:  # fmt: skip
    """The Trajectory of a sample; ``closes`` says whether samples of its file end in a closing line at all."""
    asked = question
    question, steps = _repair(question, episode, findings)
    options = len(question) - len(asked) - 1 if "options-in-output" in findings.found else 0
    reward = reward_of(episode.closing)
    _check_closing(episode, findings, closes=closes)
    findings.report(source, number)
    answer = answer_of(steps)
    task, method = _known().get(digest(question, steps), (source.name, ""))
    return imported(
        question,
        steps,
        task=task,
        method=method,
        answer=answer if reward == 1.0 and answer is not None else "",
        about={"answer_from": "reward"} if reward == 1.0 else {},
        scores={} if reward is None else {"em": reward},
        meta={"system": system, RELEASED: {**facts, "options": options, "damage": sorted(findings.found)}},
    )


def closes_episodes(source: Source) -> bool:
    """Whether the file is of the kind whose episodes end in a closing line."""
    return any("Episode finished, reward" in str(row) for row in source.head)


def repaired(trajectory: Trajectory) -> Trajectory:
    """The trajectory without its damage: what is written from it is what it should have been."""
    if RELEASED not in trajectory.meta:
        return trajectory
    return replace(trajectory, meta={key: value for key, value in trajectory.meta.items() if key != RELEASED})


def damage_of(trajectory: Trajectory) -> tuple[str, ...]:
    """The kinds of damage that a trajectory was read with."""
    return tuple(facts(trajectory).get("damage", ()))


def reparable(trajectory: Trajectory) -> tuple[str, ...]:
    """The kinds of damage that ``repaired`` takes away."""
    return tuple(kind for kind in damage_of(trajectory) if kind not in BEYOND_REPAIR)


def facts(trajectory: Trajectory) -> Mapping[str, Any]:
    """What is kept of a released sample beside its steps; empty for others."""
    kept = trajectory.meta.get(RELEASED, {})
    return kept if isinstance(kept, Mapping) else {}


def digest(question: str, steps: Sequence[Step]) -> str:
    """What a sample is known by, in whatever file it stands: 8 hexadecimal digits of its question and thoughts, spaces aside."""
    text = " ".join(" ".join((question, *(step.thought for step in steps))).split())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


@cache
def _known() -> Mapping[str, tuple[str, str]]:
    """Task and method of every released sample, by its digest."""
    known: dict[str, tuple[str, str]] = {}
    task = method = ""
    for word in files("fireact.formats").joinpath(_DIGESTS).read_text(encoding="utf-8").split():
        if "/" in word:
            task, _, method = word.partition("/")
        else:
            known[word] = task, method
    return known


def _repair(question: str, episode: Episode, findings: Findings) -> tuple[str, tuple[Step, ...]]:
    before = episode.before.removesuffix("\n")
    if before and question.startswith("Question:") and _OPTIONS.match(before):
        findings.add("options-in-output", before)
        question = f"{question}\n{before}"
    elif before and not question:
        findings.add("question-in-turn", before)
        question = before
    elif before:
        findings.add("text-before-thought", before)
    steps = list(episode.steps)
    for at, step in enumerate(steps):
        told_apart = thought_out_of_answer(step)
        if told_apart is not None:
            findings.add("thought-in-answer", step.text)
            steps[at] = told_apart
        elif not step.thought:
            findings.add("no-thought", step.text)
        if step.action is None and episode.closing is not None:
            findings.add("no-action", step.text)
            steps[at] = replace(step, weight=0.0)  # it acted, but its action is lost: nothing to learn from
    return question, tuple(steps)


def _check_closing(episode: Episode, findings: Findings, *, closes: bool) -> None:
    if episode.closing is None and not closes:
        return
    if episode.closing is None:
        findings.add("no-closing-line", episode.steps[-1].text if episode.steps else episode.before)
        return
    if episode.closings > 1:
        findings.add("closing-line-twice", episode.closing)
    if re.search(r"reward = \d", episode.closing):
        findings.add("reward-as-number", episode.closing)
