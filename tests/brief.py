"""Tasks of the embedded world whose episodes end early, for tests where the words of a real student prove nothing."""

from dataclasses import replace
from typing import Any

from fireact.rollout.loading import load_task


def load_brief_task(name: str) -> Any:
    """Load a task, and limit its episodes to two steps of 24 tokens; the task keeps its name."""
    task: Any = load_task(name)
    return replace(task, limits=replace(task.limits, max_steps=2, max_tokens=24))


HOP, COMPOSE, YESNO = map(load_brief_task, ("geo-hop", "geo-compose", "geo-yesno"))
