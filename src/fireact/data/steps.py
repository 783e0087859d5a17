"""Which steps of a trajectory a student should see but not learn: disturbed, faulty and repeated ones.

A trajectory that recovers from bad steps is worth keeping: with weight 0 they are context, and the recovery is learned.
Nothing here decides whether a trajectory is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from fireact.types import FINISH, Action, Step, Trajectory

_REFUSAL = re.compile(r"Unknown action |[\w.-]+ takes .*; it was given ", re.DOTALL)
"""How the methods answer an action that cannot be executed (``methods.react``)."""
_NO_ACTION_REPLY = "No action found."
"""How they answer a step without an action; any other answer is a user's message in a conversation."""


def find_faults(steps: Sequence[Step], tools: Collection[str] = ()) -> list[str | None]:
    """For each step its fault, or None; ``tools`` are the names of the existing tools, if they are known."""
    earlier_actions: list[Action] = []
    step_faults = []
    for step in steps:
        step_faults.append(_find_fault(step, earlier_actions, tools))
        if step.action is not None and step.noise is None:  # repeating a call after a disturbed result is no fault
            earlier_actions.append(step.action)
    return step_faults


def _find_fault(step: Step, earlier_actions: Sequence[Action], tools: Collection[str]) -> str | None:
    if step.action is None:
        return "no action" if step.observation is None or step.observation.startswith(_NO_ACTION_REPLY) else None
    if (tools and step.action.name not in tools and step.action.name != FINISH) or _is_refused(step):
        return "unknown tool or arguments"
    if step.action in earlier_actions:
        return "repeated action"
    return "disturbed observation" if step.noise is not None else None


def _is_refused(step: Step) -> bool:
    return step.observation is not None and _REFUSAL.match(step.observation) is not None


def weigh_bad_steps(trajectory: Trajectory, weight: float, tools: Collection[str] = ()) -> Trajectory:
    """The trajectory with at most this weight on its bad steps; all calls of one turn share their weight."""
    bad = spread_over_turns(trajectory.steps, [fault is not None for fault in find_faults(trajectory.steps, tools)])
    steps = (
        replace(step, weight=min(step.weight, weight)) if is_bad else step
        for step, is_bad in zip(trajectory.steps, bad, strict=True)
    )
    return replace(trajectory, steps=tuple(steps))


def spread_over_turns(steps: Sequence[Step], bad: list[bool]) -> list[bool]:
    """Which steps share a turn with a bad one, because a turn is learned whole or not at all."""
    start = 0
    for end in range(1, len(steps) + 1):
        if end == len(steps) or not steps[end].joined:
            bad[start:end] = [any(bad[start:end])] * (end - start)
            start = end
    return bad


def is_learnable(trajectory: Trajectory) -> bool:
    """Whether any step is left to learn when the bad ones have weight 0."""
    return any(step.weight > 0 for step in weigh_bad_steps(trajectory, 0.0).steps)
