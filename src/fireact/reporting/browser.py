"""The episodes of some runs as the page's browser reads them: plain JSON, what is empty left out.

Invariant: nothing is cut without a note in its place of how much is missing; a page of a report stays within its size
where shorter observations, thoughts and words without an action can do it. The wording is ``wording``'s; the page adds none of its own to what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.evaluation.failures import failure
from fireact.render.react import argument
from fireact.reporting.data import Source
from fireact.reporting.wording import STOPS, score, verdict, who
from fireact.types import Step, Trajectory

SIZE = 4_000_000
"""Bytes of all episodes as they stand in a page, so that it stays below 5 MB."""
LENGTHS = (None, 2000, 1000, 500, 250, 120)
"""Characters of an observation, or of what an agent wrote, that are tried, the longest first; None is all of it."""


def browser(sources: Sequence[Source], *, series: Mapping[str, int], size: int = SIZE) -> dict[str, Any]:
    """Everything that the browser needs: the runs, their episodes, and the words for how an episode ended.

    ``series`` gives a run its colour. What is long is shortened evenly until the episodes fit into ``size`` bytes;
    ``shortened`` is then the length kept.
    """
    runs = [run(source.name, colour=series.get(source.name)) for source in sources]
    episodes: list[dict[str, Any]] = []
    kept: int | None = None
    for kept in LENGTHS:
        episodes = [episode(one, source.name, longest=kept) for source in sources for one in source.trajectories]
        if sum(len(embedded(one).encode("utf-8", "replace")) + 1 for one in episodes) <= size:
            break
    return {"runs": runs, "episodes": episodes, "stops": dict(STOPS), "shortened": kept}


def run(name: str, *, colour: int | None = None) -> dict[str, Any]:
    """A run as the browser lists it."""
    return {"name": name, "label": who(name)} | ({} if colour is None else {"series": colour})


def episode(trajectory: Trajectory, run: str, *, longest: int | None = None) -> dict[str, Any]:
    """One episode of a run; texts of a step over ``longest`` characters are shortened, and say by how many."""
    example, usage, meta = trajectory.example, trajectory.usage, trajectory.example.meta
    return {
        "run": run,
        "task": trajectory.task,
        "id": example.id,
        "method": trajectory.method,
        "seed": trajectory.seed,
        "steps": [_step(step, longest) for step in trajectory.steps],
        **_filled(
            {
                "question": example.question,
                "answer": example.answer,
                "kind": str(meta.get("kind") or meta.get("type") or ""),
                "hops": meta.get("hops") if isinstance(meta.get("hops"), int) else None,
                "model": trajectory.model,
                "stop": trajectory.stop,
                "score": score(trajectory),
                "verdict": verdict(trajectory),
                "failure": failure(trajectory),
                "calls": usage.calls,
                "read": usage.prompt_tokens,
                "cached": usage.cached_tokens,
                "written": usage.completion_tokens,
                "cost": usage.cost,
                "seconds": round(trajectory.seconds, 2),
                "error": trajectory.error,
            }
        ),
    } | ({} if trajectory.answer is None else {"said": trajectory.answer})


def identity(run: str, trajectory: Trajectory) -> str:
    """The name of an episode in links; the page makes the same of ``run``, ``task``, ``id``, ``method`` and ``seed``."""
    return f"{run}/{trajectory.key}"


def embedded(value: Any) -> str:
    """JSON that can stand inside a ``<script>`` element: nothing in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _step(step: Step, longest: int | None) -> dict[str, Any]:
    act = step.action
    thought, thought_cut = _shortened(step.thought if act is not None else "", longest)
    words, words_cut = _shortened("" if act is not None else step.text.strip() or "nothing", longest)
    seen, cut = _shortened(step.observation or "", longest)
    return _filled(
        {
            "thought": thought,
            "action": None if act is None else [act.name, argument(act)],
            "text": words,
            "cut": cut,
            "unsaid": thought_cut + words_cut,
            "noise": step.noise,
            "repairs": step.repairs,
            "joined": step.joined,
            "unlearned": step.weight == 0,
        }
    ) | ({} if step.observation is None else {"observation": seen})


def _shortened(words: str, longest: int | None) -> tuple[str, int]:
    """The beginning of a text, and how many characters are missing of it."""
    return (words, 0) if longest is None else (words[:longest], max(0, len(words) - longest))


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
