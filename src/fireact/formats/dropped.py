"""What a format cannot hold: the differences between an episode and the same episode written and read back.

Invariant: losses are measured by comparison, never declared, so no writer can lose anything uncounted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fireact.formats.source import RELEASED
from fireact.types import Step, Trajectory
from fireact.wire.schemas import normalise_schemas

_FIELDS: dict[str, Callable[[Trajectory], Any]] = {
    "task": lambda trajectory: trajectory.task,
    "question": lambda trajectory: trajectory.example.question,
    "example id": lambda trajectory: trajectory.example.id,
    "gold answer": lambda trajectory: trajectory.example.answer,
    "facts of the example": lambda trajectory: dict(trajectory.example.meta),
    "method": lambda trajectory: trajectory.method,
    "model": lambda trajectory: trajectory.model,
    "seed": lambda trajectory: trajectory.seed,
    "stop": lambda trajectory: trajectory.stop,
    "scores": lambda trajectory: dict(trajectory.scores),
    "usage": lambda trajectory: trajectory.usage,
    "seconds": lambda trajectory: trajectory.seconds,
    "error": lambda trajectory: trajectory.error,
    "system prompt": lambda trajectory: trajectory.meta.get("system") or "",
    "other facts": lambda trajectory: _other_meta(trajectory.meta),
}
_OF_STEPS: dict[str, Callable[[Step], Any]] = {
    "verbatim words": lambda step: step.text,
    "several calls in a turn": lambda step: step.joined,
    "weights": lambda step: step.weight,
    "noise": lambda step: step.noise,
    "repairs": lambda step: step.repairs,
    "fields of the endpoint": lambda step: dict(step.extra),
}
KINDS = (*_FIELDS, "tool schemas", "steps", *_OF_STEPS)
"""All parts of an episode, by the names under which losses are counted."""


def find_losses(trajectory: Trajectory, back: Trajectory | None) -> list[str]:
    """The ``KINDS`` in which a trajectory differs from what was read back, in order; only "steps" where nothing was."""
    if back is None:
        return ["steps"]
    kinds = {name for name, value in _FIELDS.items() if value(trajectory) != value(back)}
    kinds |= {"tool schemas"} if _has_lost_tools(trajectory, back) else set()
    if [_step_content(step) for step in trajectory.steps] != [_step_content(step) for step in back.steps]:
        kinds.add("steps")
    kinds |= {
        name for name, value in _OF_STEPS.items() if _unusual_values(trajectory, value) != _unusual_values(back, value)
    }
    return [kind for kind in KINDS if kind in kinds]


def _unusual_values(trajectory: Trajectory, value: Callable[[Step], Any]) -> list[Any]:
    """A value of each step where it differs from a plain step's, so that an extra plain step is no difference."""
    return [(index, value(step)) for index, step in enumerate(trajectory.steps) if value(step) != value(_PLAIN_STEP)]


_PLAIN_STEP = Step("", None, None, "")


def _step_content(step: Step) -> Any:
    action = None if step.action is None else (step.action.name, dict(step.action.arguments))
    return step.thought, action, None if step.observation is None else str(step.observation)


def _has_lost_tools(trajectory: Trajectory, back: Trajectory) -> bool:
    """Whether a schema is missing; an additional one, inferred for a tool without a schema, does not count."""
    kept_tools = normalise_schemas(back.meta.get("tools"))
    return any(tool not in kept_tools for tool in normalise_schemas(trajectory.meta.get("tools")))


def _other_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key not in ("system", "tools", RELEASED)}
