"""Scores and amounts by what is known of the questions: their type, number of hops, level and subject.

    type     ``meta["kind"]`` of the embedded world, ``meta["type"]`` of HotpotQA (bridge, comparison)
    hops     ``meta["hops"]``, or the number of questions in StrategyQA's ``decomposition``
    level    ``meta["level"]`` of HotpotQA        subject  ``meta["subject"]`` of MMLU

Invariant: a question stands in one group of each at most; one whose meta does not say is in none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fireact.evaluation.measures import measures, plain
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
    """Kind -> value -> what ``group`` says of its episodes; faults are left out."""
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
    """``n`` and the ``measures`` of some episodes, with intervals."""
    return {"n": len(trajectories), **plain(measures(trajectories, seed=seed))}
