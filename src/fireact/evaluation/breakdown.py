"""Scores by what is known of the questions: their type, number of hops, level and subject.

    type     ``meta["kind"]`` of the embedded world, ``meta["type"]`` of HotpotQA (bridge, comparison)
    hops     ``meta["hops"]``, or the number of questions in StrategyQA's ``decomposition``
    level    ``meta["level"]`` of HotpotQA        subject  ``meta["subject"]`` of MMLU

Invariant: a question stands in one group of each at most; one whose meta does not say is in none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fireact.evaluation.accuracy import accuracy
from fireact.evaluation.statistics import bootstrap
from fireact.types import Trajectory


def _named(*keys: str) -> Callable[[Mapping[str, Any]], str]:
    def read(meta: Mapping[str, Any]) -> str:
        found = (meta.get(key) for key in keys)
        return next((str(value) for value in found if isinstance(value, str | int) and value != ""), "")

    return read


def _hops(meta: Mapping[str, Any]) -> str:
    questions = meta.get("decomposition")
    return _named("hops")(meta) or (str(len(questions)) if isinstance(questions, list | tuple) and questions else "")


KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "type": _named("kind", "type"),
    "hops": _hops,
    "level": _named("level"),
    "subject": _named("subject"),
}


def breakdown(trajectories: Sequence[Trajectory], *, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind -> value -> ``n``, ``em``, ``f1``, ``accuracy`` with intervals, ``finished`` and ``steps``; faults are left out."""
    scored = [one for one in trajectories if one.stop != "error"]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, read in KINDS.items():
        groups: dict[str, list[Trajectory]] = {}
        for one in scored:
            if value := read(one.example.meta):
                groups.setdefault(value, []).append(one)
        if groups:
            found[kind] = {value: group(groups[value], seed) for value in sorted(groups)}
    return found


def group(trajectories: Sequence[Trajectory], seed: int = 0) -> dict[str, Any]:
    """``n``, ``em``, ``f1``, ``accuracy`` with intervals, ``finished`` and ``steps`` of some episodes."""
    n = len(trajectories)
    found: dict[str, Any] = {"n": n}
    scores: dict[str, list[float]] = {
        name: [one.scores.get(name, 0.0) for one in trajectories] for name in ("em", "f1")
    }
    scores["accuracy"] = [accuracy(one) or 0.0 for one in trajectories]
    for name, values in scores.items():
        mean = bootstrap(values, seed=seed)
        found |= {name: mean.mean, f"{name}_interval": mean.interval}
    found["finished"] = sum(one.stop == "finish" for one in trajectories) / n
    found["steps"] = sum(len(one.steps) for one in trajectories) / n
    return found
