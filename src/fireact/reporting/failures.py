"""What went wrong in an episode, in a word or two: what the browser filters by and the report counts."""

from __future__ import annotations

from fireact.types import Trajectory


def failure(trajectory: Trajectory) -> str | None:
    """The kind of failure, or None for an episode that was right or was never scored."""
    if trajectory.stop == "error":
        return "fault"
    if not trajectory.scores or trajectory.scores.get("em") == 1.0:
        return None
    return {"finish": "wrong answer", "max_steps": "gave no answer", "format": "format"}[trajectory.stop]
