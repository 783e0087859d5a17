"""Scores and amounts by properties of the questions: their type, number of hops, level and subject.

    type     ``meta["kind"]`` of the embedded world, ``meta["type"]`` of HotpotQA (bridge, comparison)
    hops     ``meta["hops"]``, or the number of questions in StrategyQA's ``decomposition``
    level    ``meta["level"]`` of HotpotQA        subject  ``meta["subject"]`` of MMLU
    trained  yes where the agent was trained on the question, as ``meta["trained"]`` of the episode says, else no

Invariant: a question is in at most one group of each kind, and in none where its meta has no value for that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fireact.evaluation.measures import GroupSummary, summarise_group
from fireact.types import Trajectory


def _meta_reader(*keys: str) -> Callable[[Mapping[str, Any]], str]:
    def read_value(meta: Mapping[str, Any]) -> str:
        values = (meta.get(key) for key in keys)
        return next((str(value) for value in values if isinstance(value, str | int) and value != ""), "")

    return read_value


def _read_hops(meta: Mapping[str, Any]) -> str:
    questions = meta.get("decomposition")
    return _meta_reader("hops")(meta) or (
        str(len(questions)) if isinstance(questions, list | tuple) and questions else ""
    )


KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "type": _meta_reader("kind", "type"),
    "hops": _read_hops,
    "level": _meta_reader("level"),
    "subject": _meta_reader("subject"),
}


TRAINED = "trained"
"""The key in the meta of an episode whose question the agent was trained on, and the kind of group."""


def compute_breakdown(trajectories: Sequence[Trajectory], *, seed: int = 0) -> dict[str, dict[str, GroupSummary]]:
    """Kind -> value -> ``summarise_group`` of its episodes, without those that ended in a fault."""
    scored = [trajectory for trajectory in trajectories if trajectory.stop != "error"]
    groups_by_kind: dict[str, dict[str, GroupSummary]] = {}
    for kind, read_value in KINDS.items():
        trajectories_by_value: dict[str, list[Trajectory]] = {}
        for trajectory in scored:
            if meta_value := read_value(trajectory.example.meta):
                trajectories_by_value.setdefault(meta_value, []).append(trajectory)
        if trajectories_by_value:
            groups_by_kind[kind] = {
                meta_value: summarise_group(trajectories_by_value[meta_value], seed)
                for meta_value in sorted(trajectories_by_value)
            }
    if trained := split_by_training(scored):
        groups_by_kind[TRAINED] = {value: summarise_group(group, seed) for value, group in trained.items()}
    return groups_by_kind


def split_by_training(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """The episodes whose questions the agent was trained on (yes) and the others (no); empty where it was on none."""
    groups: dict[str, list[Trajectory]] = {"yes": [], "no": []}
    for trajectory in trajectories:
        groups["yes" if trajectory.meta.get(TRAINED) else "no"].append(trajectory)
    return {value: group for value, group in groups.items() if group} if groups["yes"] else {}
