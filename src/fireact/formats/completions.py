"""Prompt and completion as chat messages, a row for each turn of the student, for trainers that learn completions only.

Invariant: the prompt is what inference sends before the turn, in ReAct text, and the completion is that turn alone.
Turns of weight 0 are in prompts only. The format is written, not read: an episode is spread over rows.
"""

from __future__ import annotations

from typing import Any

from fireact.formats.gpt import chat_turns
from fireact.types import Trajectory


def completion_rows(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The rows of a trajectory, in the order of its turns."""
    turns = chat_turns(trajectory)
    messages = [message for message, _ in turns]
    return [
        {"prompt": messages[:index], "completion": [message]}
        for index, (message, step) in enumerate(turns)
        if step is not None and step.weight > 0 and message["content"]
    ]


def completion_conversation(trajectory: Trajectory) -> dict[str, Any]:
    """The whole episode of the rows: a turn that is only in prompts has weight 0, all others are learned equally."""
    turns = chat_turns(trajectory)
    return {"messages": [{**message, "weight": 0} if step and step.weight <= 0 else message for message, step in turns]}
