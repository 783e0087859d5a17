"""The conditions under which a run was evaluated, and how two runs differ in them.

Scores of two runs are comparable only where their conditions do not differ:

    task       at least one with questions in common; only those are compared
    split      the split of the questions          questions  the same id means the same question and right answer
    tools      the same tools, by fingerprint      noise      the same noise on their answers; where a run does not
                                                              record it, the kinds of noise in its episodes
    limits     steps and tokens of an episode      seed       the seed of every draw

Invariant: a condition that a run does not record (a file of episodes has neither tools nor limits) never counts as
equal: it is no difference, but ``find_unrecorded`` names it. The agent itself is no condition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.errors import ConfigError, unknown_name_error
from fireact.evaluation.breakdown import TRAINED
from fireact.tasks.question_hash import normalise_question
from fireact.tasks.scoring import normalise_answer
from fireact.types import Trajectory

SETTINGS = ("split", "questions", "tools", "noise", "limits", "seed", TRAINED)
"""Conditions that may differ on purpose, and questions that an agent was trained on.

Two runs without a common question have nothing to compare.
"""

_NOISE = re.compile(r"(noise-\d+:[^:]*):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a run, by name; None or a missing key where the run does not record one.

    ``questions``: task -> id -> question and right answer. ``tools`` and ``noise`` are by tool, ``limits`` by task.
    ``disturbed`` are the kinds of noise in its episodes, ``trained`` the tasks and ids of the questions that its agent
    was trained on.
    """

    name: str
    questions: Mapping[str, Mapping[str, tuple[str, str]]]
    seeds: frozenset[int]
    split: str | None = None
    tools: Mapping[str, str] | None = None
    noise: Mapping[str, str] | None = None
    limits: Mapping[str, Mapping[str, Any]] | None = None
    disturbed: frozenset[str] = frozenset()
    trained: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which two runs differ, and its value in each of them."""

    setting: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.before} | {self.after}"


def conditions_of(
    name: str,
    trajectories: Sequence[Trajectory],
    *,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Conditions:
    """The conditions of a run: from its episodes and, for a run directory, from its settings and manifest."""
    questions: dict[str, dict[str, tuple[str, str]]] = {}
    for trajectory in trajectories:
        questions.setdefault(trajectory.task, {})[trajectory.example.id] = (
            " ".join(trajectory.example.question.split()),
            normalise_answer(trajectory.example.answer),
        )
    tools = (manifest or {}).get("tools")
    noise_matches = {tool: _NOISE.fullmatch(str(mark)) for tool, mark in (tools or {}).items()}
    return Conditions(
        name=name,
        questions=questions,
        seeds=frozenset(trajectory.seed for trajectory in trajectories),
        split=(config or {}).get("split") or None,
        tools=None
        if tools is None
        else {tool: noise_match[2] if noise_match else str(tools[tool]) for tool, noise_match in noise_matches.items()},
        noise=None
        if tools is None
        else {tool: noise_match[1] for tool, noise_match in noise_matches.items() if noise_match},
        limits=(manifest or {}).get("limits"),
        disturbed=noise_kinds(trajectories),
        trained=frozenset(
            (trajectory.task, trajectory.example.id) for trajectory in trajectories if trajectory.meta.get(TRAINED)
        ),
    )


def noise_kinds(trajectories: Iterable[Trajectory]) -> frozenset[str]:
    """The kinds of noise that occur in some episodes."""
    return frozenset(step.noise for trajectory in trajectories for step in trajectory.steps if step.noise is not None)


def find_differences(before: Conditions, after: Conditions) -> list[Difference]:
    """Every setting in which two runs are known to differ on their common tasks.

    ``task`` is one of these settings where the runs share no question of any task.
    """
    shared = [task for task in before.questions if task in after.questions]
    if not shared:
        return [Difference("task", _join_sorted(before.questions), _join_sorted(after.questions))]
    has_no_common_question = not common_tasks(before, after)
    candidates = [
        Difference("task", *(_describe_counts(run, shared) for run in (before, after)))
        if has_no_common_question
        else None,
        *(_compare_setting(name, before, after) for name in ("split", "tools")),
        _compare_noise(before, after),
        *(_compare_limits(before, after, task) for task in shared),
        *(_compare_questions(before, after, task) for task in shared),
        None
        if before.seeds & after.seeds
        else Difference("seed", _join_sorted(before.seeds), _join_sorted(after.seeds)),
    ]
    return [difference for difference in candidates if difference is not None]


def common_tasks(before: Conditions, after: Conditions) -> list[str]:
    """The tasks that share at least one question between both runs, in the order of the first run."""
    return [
        task for task, questions in before.questions.items() if questions.keys() & after.questions.get(task, {}).keys()
    ]


def find_disallowed(before: Conditions, after: Conditions, allow: Sequence[str] = ()) -> list[Difference]:
    """The differences that ``allow`` does not name. Raises ConfigError where ``allow`` names an unknown setting."""
    for name in allow:
        if name not in SETTINGS:
            raise unknown_name_error("setting to allow", name, SETTINGS)
    differences = [*find_differences(before, after), *find_trained_questions_of_both(before, after)]
    return [difference for difference in differences if difference.setting not in allow]


def find_trained_questions_of_both(before: Conditions, after: Conditions) -> list[Difference]:
    """How many of the common questions each agent was trained on; nothing where neither was on any."""
    common = {
        (task, id)
        for task in common_tasks(before, after)
        for id in before.questions[task].keys() & after.questions[task].keys()
    }
    counts = [len(common & run.trained) for run in (before, after)]
    if not any(counts):
        return []
    return [Difference(TRAINED, *(f"on {count} of {len(common)} questions" for count in counts))]


def find_unrecorded(before: Conditions, after: Conditions) -> list[str]:
    """The settings that one of two runs does not record; noise is left out where the episodes show a difference."""
    names = ("split", "tools", "noise", "limits")
    unrecorded = [name for name in names if getattr(before, name) is None or getattr(after, name) is None]
    return unrecorded if _compare_noise(before, after) is None else [name for name in unrecorded if name != "noise"]


def require_comparable(runs: Sequence[Conditions]) -> None:
    """Raise ConfigError that names every setting in which a run differs from the first; tasks and seeds may differ."""
    for run in runs[1:]:
        blocking = [
            difference for difference in find_differences(runs[0], run) if difference.setting not in ("task", "seed")
        ]
        if blocking:
            raise ConfigError(
                f"{runs[0].name} and {run.name} were made with different {_join_settings(blocking)}, so their numbers "
                f"cannot be compared ({'; '.join(map(str, blocking))}). Evaluate one of them again."
            )


def _join_settings(differences: Sequence[Difference]) -> str:
    return " and ".join(dict.fromkeys(item.setting for item in differences))


def _compare_setting(name: str, before: Conditions, after: Conditions) -> Difference | None:
    first, second = getattr(before, name), getattr(after, name)
    if first is None or second is None or first == second:
        return None
    return Difference(name, _describe_value(first, name), _describe_value(second, name))


def _compare_noise(before: Conditions, after: Conditions) -> Difference | None:
    """Compare the noise on the tools; where a run does not record it, compare the kinds of noise in its episodes."""
    if before.noise is not None and after.noise is not None:
        return _compare_setting("noise", before, after)
    if before.disturbed == after.disturbed:
        return None
    kinds_by_run = (", ".join(sorted(run.disturbed)) for run in (before, after))
    return Difference("noise", *(f"of the kind {kinds}" if kinds else "not in its episodes" for kinds in kinds_by_run))


def _describe_value(value: Any, name: str) -> str:
    if name == "split":
        return str(value)
    if name == "noise":
        return ", ".join(f"{tool} {mark.partition(':')[2]}" for tool, mark in sorted(value.items())) or "none"
    return ", ".join(f"{tool} ({mark})" if mark else tool for tool, mark in sorted(value.items())) or "none"


def _compare_limits(before: Conditions, after: Conditions, task: str) -> Difference | None:
    first, second = ((run.limits or {}).get(task) for run in (before, after))
    if first is None or second is None or first == second:
        return None
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    descriptions = [f"{task} {', '.join(f'{key} {limits.get(key)}' for key in keys)}" for limits in (first, second)]
    return Difference("limits", descriptions[0], descriptions[1])


def _compare_questions(before: Conditions, after: Conditions, task: str) -> Difference | None:
    """Ids that mean another question or answer in the second run: how many, and the first of them.

    A question without a right answer, as recordings have it, is not another one.
    """
    before_questions, after_questions = before.questions[task], after.questions[task]
    differing = [
        id
        for id, (question, answer) in before_questions.items()
        if id in after_questions
        and (
            normalise_question(after_questions[id][0]) != normalise_question(question)
            or (answer and after_questions[id][1] not in ("", answer))
        )
    ]
    if not differing:
        return None
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    descriptions = [
        f"{task}/{differing[0]} {questions[differing[0]][0]!r}, answer {questions[differing[0]][1]!r}"
        for questions in (before_questions, after_questions)
    ]
    return Difference("questions", descriptions[0], f"{descriptions[1]}{more}")


def _describe_counts(run: Conditions, tasks: Sequence[str]) -> str:
    """How many questions of each task a run has, for two runs that share none."""
    return f"{', '.join(f'{len(run.questions[task])} of {task}' for task in tasks)}, none of them in both"


def _join_sorted(values: Any) -> str:
    return ", ".join(map(str, sorted(values))) or "nothing"
