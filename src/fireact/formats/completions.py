"""Prompt and completion: one row a turn of the student, both as chat messages; for trainers that learn the completion only.

Invariant: the prompt is what inference sends before that turn, in ReAct text, and the completion is that turn alone; turns
of weight 0 are prompt only. It is written, not read: an episode is spread over rows.
"""

from __future__ import annotations

from typing import Any

from fireact.formats.gpt import chat
from fireact.types import Trajectory


def rows(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The rows of a trajectory, in the order of its turns."""
    messages = chat(trajectory, None)
    said = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    spoken = [step for step in trajectory.steps if step.text or step.thought or step.action or step.observation is None]
    return [
        {"prompt": messages[:at], "completion": [messages[at]]}
        for at, step in zip(said, spoken, strict=True)
        if step.weight > 0
    ]
