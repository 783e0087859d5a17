"""What a program says of an episode that its own calls do not show: the answer, a score, a comment, a demonstration.

Invariant: feedback is logged before it is acknowledged, and the same log gives the same trajectories. Of several values
the last counts; comments are kept all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fireact.errors import FormatError, unknown_name_error
from fireact.types import FINISH, Action, Step, Trajectory

KINDS = ("answer", "score", "comment", "demonstration")


@dataclass(frozen=True, slots=True)
class Feedback:
    """One line of the log. ``score`` is from 0 to 1; ``demonstration`` is the answer that would have been right."""

    episode: str
    at: float
    answer: str | None = None
    score: float | None = None
    comment: str | None = None
    demonstration: str | None = None


def read_feedback(episode: str, values: Any) -> Feedback:
    """The feedback in the body of a request. Raises FormatError that says what is wrong and what is allowed."""
    if not isinstance(values, Mapping) or not any(values.get(kind) is not None for kind in KINDS):
        raise FormatError(f"feedback is {str(values)[:80]}; it must be a JSON object with one of {', '.join(KINDS)}")
    for name in values:
        if name not in KINDS:
            raise unknown_name_error("kind of feedback", name, KINDS)
    texts = {kind: values[kind] for kind in KINDS if kind != "score" and values.get(kind) is not None}
    for kind, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise FormatError(f"{kind} is {text!r}; it must be a text")
    score = values.get("score")
    is_number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    if score is not None and not (is_number and 0 <= score <= 1):
        raise FormatError(f"score is {score!r}; it must be a number from 0 to 1")
    return Feedback(episode, round(time.time(), 6), score=None if score is None else float(score), **texts)


def add_feedback(trajectory: Trajectory, feedback: Sequence[Feedback]) -> Trajectory:
    """The trajectory with what feedback says of it."""
    latest = {
        kind: values[-1]
        for kind in KINDS
        if (values := [value for entry in feedback if (value := getattr(entry, kind)) is not None])
    }
    if "answer" in latest:
        trajectory = _with_answer(trajectory, latest["answer"])
    if "score" in latest:
        trajectory = trajectory.with_scores({"em": latest["score"], "f1": latest["score"]})
    comments = [entry.comment for entry in feedback if entry.comment is not None]
    meta = {
        name: value for name, value in (("comments", comments), ("demonstration", latest.get("demonstration"))) if value
    }
    return replace(trajectory, meta={**trajectory.meta, **meta}) if meta else trajectory


def _with_answer(trajectory: Trajectory, answer: str) -> Trajectory:
    """The trajectory with this answer: of its finish step, or of one that joins its last turn."""
    finish = Action(FINISH, {"answer": answer})
    *steps, last = trajectory.steps or (Step("", None, None, ""),)
    if (last.action is not None and last.action.name == FINISH) or (last.action is None and last.observation is None):
        steps.append(replace(last, action=finish))
    else:
        steps += [last, Step("", finish, None, "", joined=True)]
    return replace(trajectory, steps=tuple(steps), stop="finish", error=None)
