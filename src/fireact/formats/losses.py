"""What a format cannot hold: the differences between an episode and what is read back from what was written of it.

Invariant: nothing is declared, everything is compared; so what a writer loses is counted, whoever wrote the writer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fireact.formats.source import RELEASED
from fireact.render.messages import schemas
from fireact.types import Step, Trajectory

_FIELDS: dict[str, Callable[[Trajectory], Any]] = {
    "task": lambda it: it.task,
    "question": lambda it: it.example.question,
    "example id": lambda it: it.example.id,
    "gold answer": lambda it: it.example.answer,
    "facts of the example": lambda it: dict(it.example.meta),
    "method": lambda it: it.method,
    "model": lambda it: it.model,
    "seed": lambda it: it.seed,
    "stop": lambda it: it.stop,
    "scores": lambda it: dict(it.scores),
    "usage": lambda it: it.usage,
    "seconds": lambda it: it.seconds,
    "error": lambda it: it.error,
    "system prompt": lambda it: it.meta.get("system") or "",
    "other facts": lambda it: _other(it.meta),
}
_OF_STEPS: dict[str, Callable[[Step], Any]] = {
    "verbatim words": lambda step: step.text,
    "several calls in a turn": lambda step: step.joined,
    "weights": lambda step: step.weight,
    "noise": lambda step: step.noise,
    "repairs": lambda step: step.repairs,
}
KINDS = (*_FIELDS, "tool schemas", "steps", *_OF_STEPS)
"""Everything that an episode consists of, by the names under which losses are counted."""


def lost(trajectory: Trajectory, back: Trajectory | None) -> list[str]:
    """The ``KINDS`` that differ between a trajectory and what was read back (all that it has, where nothing was), in their order."""
    if back is None:
        return ["steps"]
    kinds = {name for name, value in _FIELDS.items() if value(trajectory) != value(back)}
    kinds |= {"tool schemas"} if _lost_tools(trajectory, back) else set()
    if [_told(step) for step in trajectory.steps] != [_told(step) for step in back.steps]:
        kinds.add("steps")
    kinds |= {name for name, value in _OF_STEPS.items() if _values(trajectory, value) != _values(back, value)}
    return [kind for kind in KINDS if kind in kinds]


def _values(trajectory: Trajectory, value: Callable[[Step], Any]) -> list[Any]:
    """A value by step; a step more or less does not count where it holds nothing out of the ordinary."""
    return [(at, value(step)) for at, step in enumerate(trajectory.steps) if value(step) != value(_PLAIN)]


_PLAIN = Step("", None, None, "")


def _told(step: Step) -> Any:
    action = None if step.action is None else (step.action.name, dict(step.action.arguments))
    return step.thought, action, None if step.observation is None else str(step.observation)


def _lost_tools(trajectory: Trajectory, back: Trajectory) -> bool:
    """Whether a schema is gone; one that was made up for tools without schema is not counted."""
    kept = schemas(back.meta.get("tools"))
    return any(tool not in kept for tool in schemas(trajectory.meta.get("tools")))


def _other(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key not in ("system", "tools", RELEASED)}
