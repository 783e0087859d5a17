"""Prompt and completion: one row a turn of the student, both as chat messages; for trainers that learn the completion only.

Invariant: the prompt is what inference sends before that turn, in ReAct text, and the completion is that turn alone; turns
of weight 0 are prompt only. It is written, not read: an episode is spread over rows.
"""

from __future__ import annotations

from typing import Any

from fireact.formats.gpt import chat_turns
from fireact.types import Trajectory


def rows(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The rows of a trajectory, in the order of its turns."""
    turns = chat_turns(trajectory)
    messages = [message for message, _ in turns]
    return [
        {"prompt": messages[:at], "completion": [message]}
        for at, (message, step) in enumerate(turns)
        if step is not None and step.weight > 0 and message["content"]
    ]


def whole(trajectory: Trajectory) -> dict[str, Any]:
    """The episode that the rows tell together: a turn that is prompt only has weight 0, the others are learned alike."""
    turns = chat_turns(trajectory)
    return {"messages": [{**it, "weight": 0} if step and step.weight <= 0 else it for it, step in turns]}
