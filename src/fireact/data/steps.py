"""Which steps of a trajectory a student should not learn, though it shall see them: disturbed, faulty and repeated ones.

A trajectory that recovered from them is worth keeping; with weight 0 its bad steps are context and its recovery is
learned. Nothing here decides whether a trajectory is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from fireact.types import FINISH, Action, Step, Trajectory

_REFUSED = re.compile(r"Unknown action |[\w.-]+ takes .*; it was given ", re.DOTALL)
"""How the methods answer an action that they could not carry out (``methods.react``)."""
_ASKED = "No action found."
"""How they answer a step without one; any other answer is what a user said in a conversation."""


def faults(steps: Sequence[Step], tools: Collection[str] = ()) -> list[str | None]:
    """For each step what is wrong with it, or None; ``tools`` are the names that exist, where they are known."""
    seen: list[Action] = []
    found = []
    for step in steps:
        found.append(_fault(step, seen, tools))
        if step.action is not None and step.noise is None:  # asking again after a disturbed answer is right
            seen.append(step.action)
    return found


def _fault(step: Step, seen: Sequence[Action], tools: Collection[str]) -> str | None:
    if step.action is None:
        return "no action" if step.observation is None or step.observation.startswith(_ASKED) else None
    if (tools and step.action.name not in tools and step.action.name != FINISH) or _refused(step):
        return "unknown tool or arguments"
    if step.action in seen:
        return "repeated action"
    return "disturbed observation" if step.noise is not None else None


def _refused(step: Step) -> bool:
    return step.observation is not None and _REFUSED.match(step.observation) is not None


def weighed(trajectory: Trajectory, weight: float, tools: Collection[str] = ()) -> Trajectory:
    """The trajectory with at most that weight on its bad steps; calls of one turn stand and fall together."""
    bad = turns_with(trajectory.steps, [fault is not None for fault in faults(trajectory.steps, tools)])
    steps = (
        replace(step, weight=min(step.weight, weight)) if is_bad else step
        for step, is_bad in zip(trajectory.steps, bad, strict=True)
    )
    return replace(trajectory, steps=tuple(steps))


def turns_with(steps: Sequence[Step], bad: list[bool]) -> list[bool]:
    """Which steps share a turn with a bad one: a turn is learned whole or not at all."""
    start = 0
    for end in range(1, len(steps) + 1):
        if end == len(steps) or not steps[end].joined:
            bad[start:end] = [any(bad[start:end])] * (end - start)
            start = end
    return bad


def learnable(trajectory: Trajectory) -> bool:
    """Whether a step is left to learn when the bad ones weigh nothing."""
    return any(step.weight > 0 for step in weighed(trajectory, 0.0).steps)
