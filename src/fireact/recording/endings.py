"""How episodes ended: which have no answer, why, and what the user can do about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from fireact.recording.text import CODE
from fireact.types import Trajectory

MAX_REASONS = 5


def describe_endings(trajectories: Iterable[Trajectory]) -> list[str]:
    """A line for all episodes without an answer, and one for each reason, the most frequent first; else none.

    A tool that ends episodes and whose calls no episode answers is offered as the agent's way to give its answer. A
    last line counts the episodes that refer to earlier responses that the recording does not hold.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    is_answered: dict[str, bool] = defaultdict(bool)
    for trajectory in trajectories:
        counts["all"] += 1
        counts["torn"] += "missing_history" in trajectory.meta
        for step in trajectory.steps:
            if step.action is not None:
                is_answered[step.action.name] |= step.observation is not None
        if trajectory.answer is None:
            reasons[_find_reason(trajectory)] += 1
    torn_note = f"{counts['torn']} of {counts['all']} episodes continue responses that are not in the recording."
    torn_lines = [torn_note] if counts["torn"] else []
    if not reasons:
        return torn_lines
    lines = [
        f"{count}: {_describe_reason(kind, detail, is_answered=is_answered[detail])}"
        for (kind, detail), count in reasons.most_common(MAX_REASONS)
    ]
    more = len(reasons) - MAX_REASONS
    return [
        f"{reasons.total()} of {counts['all']} episodes have no answer:",
        *lines,
        *([f"{more} more reasons (fireact show RUN)"] if more > 0 else []),
        *torn_lines,
    ]


def _find_reason(trajectory: Trajectory) -> tuple[str, str]:
    """The kind of an ending without an answer, and the tool or the error."""
    last = trajectory.steps[-1] if trajectory.steps else None
    if trajectory.stop == "error":
        return "error", (trajectory.error or "unknown")[:120]
    if last is not None and last.action is not None:
        return ("code" if last.action.name == CODE else "call"), last.action.name
    return "empty", ""


def _describe_reason(kind: str, detail: str, *, is_answered: bool) -> str:
    if kind == "error":
        return f"the last call failed: {detail}"
    if kind == "code":
        return (
            "the agent acts in code, and its answer did not cross the wire: send it with "
            'POST ADDRESS/e/ID/feedback {"answer": ...}'
        )
    if kind == "call" and is_answered:
        return f"stopped at a call of `{detail}`, before an answer"
    if kind == "call":
        return f"their last call was `{detail}`, which is never answered: --finish {detail}?"
    return "the last reply was empty, or was cut at its limit of tokens"
