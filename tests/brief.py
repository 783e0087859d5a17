"""Tasks of the embedded world that end early: what a real student does in few words, where its words prove nothing."""

from dataclasses import replace
from typing import Any

from fireact.agents import load_task


def brief(name: str) -> Any:
    """The task, under its own name, with two steps of 24 tokens at most."""
    task: Any = load_task(name)
    return replace(task, limits=replace(task.limits, max_steps=2, max_tokens=24))


HOP, COMPOSE, YESNO = map(brief, ("geo-hop", "geo-compose", "geo-yesno"))
