"""Under which conditions a run was measured, and in which of them two runs differ: numbers compare only where none does.

    task       at least one with questions in common; only those are compared
    split      the split of the questions          questions  the same id means the same question and right answer
    tools      the same tools, by fingerprint      noise      the same disturbance of their answers, by the kinds
                                                              that the episodes show where a run does not tell
    limits     rounds and tokens of an episode     seed       the seed of every draw

Invariant: what a run does not tell (a file of episodes knows neither tools nor limits) is never taken for the same: it is
no difference, but ``untold`` names it. Which agent was measured is no condition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import ConfigError, unknown
from fireact.tasks.scoring import normalise
from fireact.types import Trajectory

SETTINGS = ("split", "questions", "tools", "noise", "limits", "seed")
"""What may differ on purpose; two runs without a common task, or a common question of one, have nothing to compare."""

_NOISE = re.compile(r"(noise-\d+:[^:]*):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a run, by name; None or a missing key where the run does not tell.

    ``questions``: task -> id -> question and right answer. ``tools`` and ``noise`` are by tool, ``limits`` by task.
    ``disturbed`` are the kinds of noise that stand in its episodes.
    """

    name: str
    questions: Mapping[str, Mapping[str, tuple[str, str]]]
    seeds: frozenset[int]
    split: str | None = None
    tools: Mapping[str, str] | None = None
    noise: Mapping[str, str] | None = None
    limits: Mapping[str, Mapping[str, Any]] | None = None
    disturbed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which two runs differ, and what each of them has."""

    setting: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.one} | {self.other}"


def conditions(
    name: str,
    trajectories: Sequence[Trajectory],
    *,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Conditions:
    """The conditions of a run, from its episodes and, where it is a run directory, its settings and manifest."""
    questions: dict[str, dict[str, tuple[str, str]]] = {}
    for one in trajectories:
        words = " ".join(one.example.question.split())
        questions.setdefault(one.task, {})[one.example.id] = (words, normalise(one.example.answer))
    tools = (manifest or {}).get("tools")
    parts = {tool: _NOISE.fullmatch(str(mark)) for tool, mark in (tools or {}).items()}
    return Conditions(
        name=name,
        questions=questions,
        seeds=frozenset(one.seed for one in trajectories),
        split=(config or {}).get("split"),
        tools=None if tools is None else {tool: part[2] if part else str(tools[tool]) for tool, part in parts.items()},
        noise=None if tools is None else {tool: part[1] for tool, part in parts.items() if part},
        limits=(manifest or {}).get("limits"),
        disturbed=disturbances(trajectories),
    )


def disturbances(trajectories: Iterable[Trajectory]) -> frozenset[str]:
    """The kinds of noise that stand in some episodes."""
    return frozenset(step.noise for one in trajectories for step in one.steps if step.noise is not None)


def differences(one: Conditions, other: Conditions) -> list[Difference]:
    """Every setting in which two runs are known to differ, as far as their common tasks go.

    Tasks of which no question is in both are one of these settings where there is no other task to compare.
    """
    shared = [task for task in one.questions if task in other.questions]
    if not shared:
        return [Difference("task", _listed(one.questions), _listed(other.questions))]
    apart = not common(one, other)
    found = [
        Difference("task", *(_counted(run, shared) for run in (one, other))) if apart else None,
        *(_setting(name, one, other) for name in ("split", "tools")),
        _noise(one, other),
        *(_limits(one, other, task) for task in shared),
        *(_questions(one, other, task) for task in shared),
        None if one.seeds & other.seeds else Difference("seed", _listed(one.seeds), _listed(other.seeds)),
    ]
    return [difference for difference in found if difference is not None]


def common(one: Conditions, other: Conditions) -> list[str]:
    """The tasks of which both runs answered some question, in the order of the first run."""
    return [task for task, asked in one.questions.items() if asked.keys() & other.questions.get(task, {}).keys()]


def refused(one: Conditions, other: Conditions, allow: Sequence[str] = ()) -> list[Difference]:
    """The differences that ``allow`` does not name. Raises ConfigError where it names no setting."""
    for name in allow:
        if name not in SETTINGS:
            raise unknown("setting to allow", name, SETTINGS)
    return [difference for difference in differences(one, other) if difference.setting not in allow]


def untold(one: Conditions, other: Conditions) -> list[str]:
    """The settings that one of two runs does not tell; not noise, where its episodes show another."""
    names = ("split", "tools", "noise", "limits")
    found = [name for name in names if getattr(one, name) is None or getattr(other, name) is None]
    return found if _noise(one, other) is None else [name for name in found if name != "noise"]


def require_comparable(runs: Sequence[Conditions]) -> None:
    """Raise ConfigError that names every setting in which a run differs from the first; runs of other tasks are let be."""
    for run in runs[1:]:
        found = [difference for difference in differences(runs[0], run) if difference.setting not in ("task", "seed")]
        if found:
            raise ConfigError(
                f"{runs[0].name} and {run.name} were made with different {_settings(found)}, so their numbers do not "
                f"compare ({'; '.join(map(str, found))}). Evaluate one of them again."
            )


def _settings(found: Sequence[Difference]) -> str:
    return " and ".join(dict.fromkeys(item.setting for item in found))


def _setting(name: str, one: Conditions, other: Conditions) -> Difference | None:
    first, second = getattr(one, name), getattr(other, name)
    if first is None or second is None or first == second:
        return None
    return Difference(name, _shown(first, name), _shown(second, name))


def _noise(one: Conditions, other: Conditions) -> Difference | None:
    """By what was done to the tools; where a run does not tell, by the kinds that were done in its episodes."""
    if one.noise is not None and other.noise is not None:
        return _setting("noise", one, other)
    if one.disturbed == other.disturbed:
        return None
    kinds = (", ".join(sorted(run.disturbed)) for run in (one, other))
    return Difference("noise", *(f"of the kind {told}" if told else "not in its episodes" for told in kinds))


def _shown(value: Any, name: str) -> str:
    if name == "split":
        return str(value)
    if name == "noise":
        return ", ".join(f"{tool} {mark.partition(':')[2]}" for tool, mark in sorted(value.items())) or "none"
    return ", ".join(f"{tool} ({mark})" if mark else tool for tool, mark in sorted(value.items())) or "none"


def _limits(one: Conditions, other: Conditions, task: str) -> Difference | None:
    first, second = ((run.limits or {}).get(task) for run in (one, other))
    if first is None or second is None or first == second:
        return None
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    told = [f"{task} {', '.join(f'{key} {limits.get(key)}' for key in keys)}" for limits in (first, second)]
    return Difference("limits", told[0], told[1])


def _questions(one: Conditions, other: Conditions, task: str) -> Difference | None:
    """Where an id means another question or answer: how often, and the first that does."""
    first, second = one.questions[task], other.questions[task]
    differing = [id for id, asked in first.items() if id in second and second[id] != asked]
    if not differing:
        return None
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    told = [
        f"{task}/{differing[0]} {found[differing[0]][0]!r}, answer {found[differing[0]][1]!r}"
        for found in (first, second)
    ]
    return Difference("questions", told[0], f"{told[1]}{more}")


def _counted(run: Conditions, tasks: Sequence[str]) -> str:
    """How many questions of tasks a run has, where none of them are the other's."""
    return f"{', '.join(f'{len(run.questions[task])} of {task}' for task in tasks)}, none of them in both"


def _listed(values: Any) -> str:
    return ", ".join(map(str, sorted(values))) or "nothing"
