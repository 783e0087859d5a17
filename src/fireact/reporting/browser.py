"""The episodes of some runs as plain JSON for the browser of the page; empty values are left out.

Invariant: where a text is cut, a note says how many characters are missing. The episodes of a report page stay within
``SIZE`` as far as shorter observations, thoughts and texts without an action allow. All words about what was measured
come from ``wording``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fireact.evaluation.failures import classify_failure
from fireact.render.react import render_argument
from fireact.reporting.report_data import EpisodeSource
from fireact.reporting.wording import STOPS, display_name, score_label, verdict
from fireact.types import Step, Trajectory

SIZE = 4_000_000
"""Most bytes that the episodes may take in a page, so that the page stays below 5 MB."""
LENGTHS = (None, 2000, 1000, 500, 250, 120)
"""Limits on the characters of an observation, thought or text, tried from the longest on; None is no limit."""


def browser_data(
    sources: Sequence[EpisodeSource],
    *,
    series: Mapping[str, int],
    labels: Mapping[str, str] | None = None,
    noisy: Collection[str] = (),
    size: int = SIZE,
) -> dict[str, Any]:
    """Everything that the browser needs: the runs, their episodes, and the words for how an episode ended.

    ``series`` gives a run its colour, ``labels`` its short name, and ``noisy`` names those with a
    hatch. Long texts are cut at the same length everywhere until the episodes fit into ``size`` bytes; ``shortened`` is
    then that length.
    """
    runs = [
        run_entry(source.name, (labels or {}).get(source.name), colour=series.get(source.name))
        | ({"noisy": True} if source.name in noisy else {})
        for source in sources
    ]
    episodes: list[dict[str, Any]] = []
    max_characters: int | None = None
    for max_characters in LENGTHS:
        episodes = [
            episode_entry(trajectory, source.name, max_characters=max_characters)
            for source in sources
            for trajectory in source.trajectories
        ]
        if sum(len(encode_for_script(entry).encode("utf-8", "replace")) + 1 for entry in episodes) <= size:
            break
    return {"runs": runs, "episodes": episodes, "stops": dict(STOPS), "shortened": max_characters}


def run_entry(name: str, label: str | None = None, *, colour: int | None = None) -> dict[str, Any]:
    """A run as the browser lists it."""
    return {"name": name, "label": label or display_name(name)} | ({} if colour is None else {"series": colour})


def episode_entry(trajectory: Trajectory, run: str, *, max_characters: int | None = None) -> dict[str, Any]:
    """One episode of a run; texts of a step over ``max_characters`` are cut, and the step has the number cut."""
    example, usage, meta = trajectory.example, trajectory.usage, trajectory.example.meta
    return {
        "run": run,
        "task": trajectory.task,
        "id": example.id,
        "method": trajectory.method,
        "seed": trajectory.seed,
        "steps": [_step_entry(step, max_characters) for step in trajectory.steps],
        **_without_empty(
            {
                "question": example.question,
                "answer": example.answer,
                "kind": str(meta.get("kind") or meta.get("type") or ""),
                "hops": meta.get("hops") if isinstance(meta.get("hops"), int) else None,
                "model": trajectory.model,
                "stop": trajectory.stop,
                "score": score_label(trajectory),
                "verdict": verdict(trajectory),
                "failure": classify_failure(trajectory),
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


def episode_id(run: str, trajectory: Trajectory) -> str:
    """The name of an episode in links; the page builds it from ``run``, ``task``, ``id``, ``method`` and ``seed``."""
    return f"{run}/{trajectory.key}"


def encode_for_script(value: Any) -> str:
    """JSON that can stand inside a ``<script>`` element: nothing in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _step_entry(step: Step, max_characters: int | None) -> dict[str, Any]:
    action = step.action
    thought, thought_cut = _shorten(step.thought if action is not None else "", max_characters)
    text, text_cut = _shorten("" if action is not None else step.text.strip() or "nothing", max_characters)
    observation, cut = _shorten(step.observation or "", max_characters)
    return _without_empty(
        {
            "thought": thought,
            "action": None if action is None else [action.name, render_argument(action)],
            "text": text,
            "cut": cut,
            "unsaid": thought_cut + text_cut,
            "noise": step.noise,
            "repairs": step.repairs,
            "joined": step.joined,
            "unlearned": step.weight == 0,
        }
    ) | ({} if step.observation is None else {"observation": observation})


def _shorten(text: str, max_characters: int | None) -> tuple[str, int]:
    """The beginning of a text, and how many characters of it are missing."""
    return (text, 0) if max_characters is None else (text[:max_characters], max(0, len(text) - max_characters))


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
