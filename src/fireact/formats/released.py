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
_REFLECTED = "let me do a reflection"
_OPTIONS = re.compile(r"A[.:)] ?")
_SEARCHLESS = "released_react.txt"
"""Digests (8 hexadecimal digits of SHA-256) of the ReAct samples of one step, question and turn, in the gpt form: all such samples
of its ``multitask.jsonl``, which holds ReAct alone. In the larger file they look like CoT."""


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
    closes: bool = False, ends_open: bool | None = None, system: str = "",
) -> Trajectory:  # fmt: skip
    """The Trajectory of a sample; ``closes`` says whether samples of its file end in a closing line at all, ``ends_open``

    whether its text lacks the last newline (as CoT samples do).
    """
    asked = question
    question, steps = _repair(question, episode, findings)
    options = len(question) - len(asked) - 1 if "options-in-output" in findings.found else 0
    reward = reward_of(episode.closing)
    _check_closing(episode, findings, closes=closes)
    findings.report(source, number)
    answer = answer_of(steps)
    return imported(
        question,
        steps,
        task=task_of(question, steps, episode.closing) if episode.closing else source.name,
        method=_method(question, steps, closing=episode.closing, ends_open=ends_open) if episode.closing else "",
        answer=answer if reward == 1.0 and answer is not None else "",
        about={"answer_from": "reward"} if reward == 1.0 else {},
        scores={} if reward is None else {"em": reward},
        meta={"system": system, RELEASED: {**facts, "options": options, "damage": sorted(findings.found)}},
    )


def closes_episodes(source: Source) -> bool:
    """Whether the file is of the kind whose episodes end in a closing line."""
    return any("Episode finished, reward" in str(row) for row in source.head)


def task_of(question: str, steps: Sequence[Step], closing: str | None) -> str:
    """The task of a released sample: MMLU questions say "Question:"; HotpotQA's ReAct files spell the reward as a word,

    the others as a number; among samples of one step, StrategyQA alone answers in a lower-case yes or no.
    """
    if question.startswith("Question:"):
        return "mmlu"
    if re.search(r"reward = (True|False)", closing or ""):
        return "hotpotqa"
    yes_or_no = re.match(r"(yes|no)\b", answer_of(steps) or "")
    return "strategyqa" if len(steps) > 1 or yes_or_no else "hotpotqa"


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


def _method(question: str, steps: Sequence[Step], *, closing: str, ends_open: bool | None) -> str:
    """The method of a released sample: CoT is one step; it ends without a newline and spells the reward as a number.

    The gpt form has no such newline; there, ReAct that needed no search is known by its digest.
    """
    if any(_REFLECTED in step.thought for step in steps):
        return "reflexion"
    if len(steps) > 1 or ends_open is False or "reward = True" in closing:
        return "react"
    return "react" if ends_open is None and _digest(question, steps) in _searchless() else "cot"


def _digest(question: str, steps: Sequence[Step]) -> str:
    text = "\n".join((question, *(step.text for step in steps)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


@cache
def _searchless() -> frozenset[str]:
    return frozenset(files("fireact.formats").joinpath(_SEARCHLESS).read_text(encoding="utf-8").split())


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
