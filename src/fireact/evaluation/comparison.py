"""Two runs on the same questions, side by side: their scores and costs, what changed, and which questions flipped.

Invariant: all numbers are over the questions that both runs were scored on, so that before and after have the same
questions; questions of one run alone are counted and named. Differences are after minus before, with intervals over
questions. Runs with different conditions are not compared, unless the difference is allowed by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireact.errors import ConfigError, DataError
from fireact.evaluation.accuracy import is_correct
from fireact.evaluation.breakdown import TRAINED
from fireact.evaluation.compared_runs import ComparedRun
from fireact.evaluation.conditions import (
    Conditions,
    Difference,
    common_tasks,
    find_differences,
    find_disallowed,
    find_unrecorded,
)
from fireact.evaluation.failures import classify_failure, count_failures
from fireact.evaluation.measures import AMOUNTS, get_score
from fireact.evaluation.pairing import (
    Pair,
    average_by_question,
    index_trajectories,
    pair_trajectories,
)
from fireact.evaluation.recovery import Recovery, is_disturbed, measure_recovery
from fireact.evaluation.statistics import (
    Estimate,
    PairedDifference,
    bootstrap_mean,
    compare_paired,
    estimate_amount,
    estimate_change,
    estimate_quantile,
)
from fireact.types import Trajectory

COMPARED = ("steps", "searches", "tokens_per_question", "latency_mean", "cost_per_question")
"""The amounts that a comparison contains."""
_FIRST = ("em", "f1")


@dataclass(frozen=True, slots=True)
class AmountComparison:
    """What a question takes before and after, and the change; None where a run does not record it."""

    before: Estimate | None
    after: Estimate | None
    change: Estimate | None


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that one run answers right and the other wrong; ``gained`` means wrong before, right after."""

    gained: bool
    before: Trajectory
    after: Trajectory

    @property
    def gold(self) -> str:
        """The right answer; a recording may have none, and an evaluation of its questions has it."""
        return self.before.example.answer or self.after.example.answer

    def to_dict(self) -> dict[str, Any]:
        example = self.before.example
        sides = {"before": self.before, "after": self.after}
        return {
            "id": example.id,
            "seed": self.before.seed,
            "gained": self.gained,
            "question": example.question,
            "gold": self.gold,
            **{side: _flip_side_to_dict(trajectory) for side, trajectory in sides.items()},
        }


def _flip_side_to_dict(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "answer": trajectory.answer,
        "failure": classify_failure(trajectory),
        "scores": dict(trajectory.scores),
    }


@dataclass(frozen=True, slots=True)
class AccuracyUnderNoise:
    """Accuracy of the run with noise on the ``n`` questions that the run without noise answers right.

    ``disturbed`` is the accuracy on those questions whose calls were disturbed; None where there are none.
    """

    noisy: str
    n: int
    all: Estimate
    disturbed: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        def plain(estimate: Estimate | None) -> dict[str, Any] | None:
            return (
                None if estimate is None else {"share": estimate.mean, "interval": estimate.interval, "n": estimate.n}
            )

        return {"noisy": self.noisy, "n": self.n, "all": plain(self.all), "disturbed": plain(self.disturbed)}


@dataclass(frozen=True, slots=True)
class TrainedScores:
    """The first score of both runs on the ``n`` questions that an agent was trained on, or on the others."""

    n: int
    before: Estimate
    after: Estimate
    change: PairedDifference

    def to_dict(self) -> dict[str, Any]:
        return {"n": self.n, **_sides_to_dict(self.before, self.after, self.change.to_dict())}


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """Two runs on one task: ``n`` questions, ``episodes`` of each run (more where there are several seeds).

    ``trained`` has the questions that an agent was trained on (yes) and the others (no); it is empty without the first.
    """

    task: str
    n: int
    episodes: int
    only_before: Sequence[str]
    only_after: Sequence[str]
    faults: tuple[int, int]
    unscored: tuple[int, int]
    scores: Mapping[str, tuple[Estimate, Estimate, PairedDifference]]
    finished: tuple[Estimate, Estimate, PairedDifference]
    amounts: Mapping[str, AmountComparison]
    latency: Mapping[str, tuple[Estimate, Estimate]]
    failures: tuple[Mapping[str, int], Mapping[str, int]]
    right: tuple[int, int]
    recovery: tuple[Recovery | None, Recovery | None]
    under_noise: AccuracyUnderNoise | None
    flips: Sequence[Flip]
    trained: Mapping[str, TrainedScores] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``before`` and ``after`` are the two runs."""
        shares = {**self.scores, "finished": self.finished}
        sides = ("before", "after")
        return {
            "n": self.n,
            "episodes": self.episodes,
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "faults": dict(zip(sides, self.faults, strict=True)),
            "unscored": dict(zip(sides, self.unscored, strict=True)),
            "scores": {
                name: _sides_to_dict(before, after, change.to_dict())
                for name, (before, after, change) in shares.items()
            },
            "amounts": {
                name: _sides_to_dict(amount.before, amount.after, _change_to_dict(amount.change))
                for name, amount in self.amounts.items()
            },
            "latency": {name: _sides_to_dict(before, after) for name, (before, after) in self.latency.items()},
            "right": dict(zip(sides, self.right, strict=True)),
            "failures": {side: dict(counts) for side, counts in zip(sides, self.failures, strict=True)},
            "recovery": {
                side: None if recovery is None else recovery.to_dict()
                for side, recovery in zip(sides, self.recovery, strict=True)
            },
            "kept_under_noise": None if self.under_noise is None else self.under_noise.to_dict(),
            "flips": [flip.to_dict() for flip in self.flips],
            "trained": {value: scores.to_dict() for value, scores in self.trained.items()},
        }


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs on every task that they share; ``allowed`` are the differences in conditions that were allowed."""

    before: ComparedRun
    after: ComparedRun
    tasks: Sequence[TaskComparison]
    allowed: Sequence[Difference]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        sides = {"before": self.before, "after": self.after}
        return {
            "comparable": True,
            **{
                side: {"run": run.name, "agent": run.agent, "description": run.description}
                for side, run in sides.items()
            },
            "allowed": [
                {"setting": difference.setting, "before": difference.before, "after": difference.after}
                for difference in self.allowed
            ],
            "notes": list(self.notes),
            "tasks": {task.task: task.to_dict() for task in self.tasks},
        }


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """The change in EM and F1 between two agents, over the questions of one task that both were scored on."""

    em: PairedDifference
    f1: PairedDifference

    def to_dict(self) -> dict[str, Any]:
        return {"em": self.em.to_dict(), "f1": self.f1.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ScoreComparison:
        """The comparison that ``to_dict`` wrote."""
        return cls(*(PairedDifference.from_dict(fields[name]) for name in _FIRST))


def compare_scores(
    before: Sequence[Trajectory], after: Sequence[Trajectory], *, seeds: bool = True, seed: int = 0
) -> ScoreComparison:
    """Compare two agents on one task, paired by question and (with ``seeds``) seed; episodes with a fault are left out.

    A question that was answered with several seeds counts once, with the mean of its scores. Raises DataError where an
    agent answered a question twice, or where they share none.
    """
    pairs = pair_trajectories(before, after, seeds=seeds)
    return ScoreComparison(*(compare_paired(*_average_score(pairs, name), seed=seed) for name in _FIRST))


def find_blocking_differences(before: ComparedRun, after: ComparedRun, allow: Sequence[str] = ()) -> list[Difference]:
    """The differences in conditions that forbid a comparison. Raises ConfigError for an unknown ``allow``."""
    return find_disallowed(before.conditions, after.conditions, allow)


def compare_runs(before: ComparedRun, after: ComparedRun, *, allow: Sequence[str] = (), seed: int = 0) -> RunComparison:
    """Compare two runs on the questions that both were scored on, paired by question and seed.

    ``allow`` names conditions that may differ because they are what is studied; with ``seed`` allowed, episodes are
    paired by question alone. Raises ConfigError where other conditions differ, DataError where no scored question is
    shared.
    """
    blocking = find_blocking_differences(before, after, allow)
    if blocking:
        raise ConfigError(
            f"{before.name} and {after.name} do not compare: {'; '.join(map(str, blocking))}. "
            "Evaluate one of them again under the conditions of the other, or allow what differs on purpose."
        )
    allowed_differences = find_differences(before.conditions, after.conditions)
    pairs_by_seed = not any(difference.setting == "seed" for difference in allowed_differences)
    tasks = common_tasks(before.conditions, after.conditions)
    return RunComparison(
        before=before,
        after=after,
        tasks=[
            _compare_task(
                task,
                _trajectories_of_task(before, task),
                _trajectories_of_task(after, task),
                seeds=pairs_by_seed,
                noisy=(before.name, after.name),
                seed=seed,
            )
            for task in tasks
        ],
        allowed=allowed_differences,
        notes=_build_notes(before.conditions, after.conditions, tasks),
    )


def _trajectories_of_task(run: ComparedRun, task: str) -> list[Trajectory]:
    return [trajectory for trajectory in run.trajectories if trajectory.task == task]


def _build_notes(before: Conditions, after: Conditions, tasks: Sequence[str]) -> list[str]:
    notes = [
        f"only {run.name} has the task {task}"
        for run, other_run in ((before, after), (after, before))
        for task in run.questions
        if task not in other_run.questions
    ]
    notes += [
        f"the two have no question of {task} in common"
        for task in before.questions
        if task in after.questions and task not in tasks
    ]
    if unrecorded := find_unrecorded(before, after):
        notes.append(f"not recorded by both runs, so not checked: {', '.join(unrecorded)}")
    return notes


def _compare_task(
    task: str,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    *,
    seeds: bool,
    noisy: tuple[str, str],
    seed: int,
) -> TaskComparison:
    before_scored, after_scored = (_scored_trajectories(run) for run in (before, after))
    names = _shared_score_names([*before_scored, *after_scored])
    pairs = [
        (_restrict_scores(before_trajectory, names), _restrict_scores(after_trajectory, names))
        for before_trajectory, after_trajectory in pair_trajectories(before_scored, after_scored, seeds=seeds)
    ]
    before_paired, after_paired = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    keys = [index_trajectories(run, seeds=seeds) for run in (before_scored, after_scored)]
    return TaskComparison(
        task=task,
        n=len({pair[0].example.id for pair in pairs}),
        episodes=len(pairs),
        only_before=_names_missing_from(keys[0], keys[1], seeds),
        only_after=_names_missing_from(keys[1], keys[0], seeds),
        faults=(_count_faults(before), _count_faults(after)),
        unscored=(_count_unscored(before), _count_unscored(after)),
        scores={name: _compare_shares(*_average_score(pairs, name), seed) for name in names},
        finished=_compare_shares(*average_by_question(pairs, lambda episode: float(episode.stop == "finish")), seed),
        amounts={name: _compare_amount(pairs, name, seed) for name in COMPARED},
        latency={
            name: _compare_latency(before_paired, after_paired, share, seed)
            for name, share in (("p50", 0.5), ("p95", 0.95))
            if _has_timings(pairs)
        },
        failures=(count_failures(before_paired), count_failures(after_paired)),
        right=(sum(map(is_correct, before_paired)), sum(map(is_correct, after_paired))),
        recovery=(measure_recovery(before_paired, seed=seed), measure_recovery(after_paired, seed=seed)),
        under_noise=_measure_under_noise(pairs, noisy, seed),
        flips=[
            Flip(is_correct(after_trajectory), before_trajectory, after_trajectory)
            for before_trajectory, after_trajectory in pairs
            if is_correct(before_trajectory) != is_correct(after_trajectory)
        ],
        trained=_compare_trained(pairs, names[0], seed),
    )


def _compare_trained(pairs: Sequence[Pair], name: str, seed: int) -> dict[str, TrainedScores]:
    """The score apart for questions that an agent was trained on and for the others; nothing without the first."""
    groups: dict[str, list[Pair]] = {"yes": [], "no": []}
    for pair in pairs:
        groups["yes" if any(trajectory.meta.get(TRAINED) for trajectory in pair) else "no"].append(pair)
    return {
        value: TrainedScores(
            len({before.example.id for before, _ in group}), *_compare_shares(*_average_score(group, name), seed)
        )
        for value, group in groups.items()
        if group and groups["yes"]
    }


def _count_faults(trajectories: Iterable[Trajectory]) -> int:
    return sum(trajectory.stop == "error" for trajectory in trajectories)


def _count_unscored(trajectories: Iterable[Trajectory]) -> int:
    return sum(trajectory.stop != "error" and not trajectory.scores for trajectory in trajectories)


def _scored_trajectories(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    return [trajectory for trajectory in trajectories if trajectory.stop != "error" and trajectory.scores]


def _shared_score_names(trajectories: Sequence[Trajectory]) -> list[str]:
    """The scores that every episode of both runs has; EM and F1 first."""
    shared = set.intersection(*(set(trajectory.scores) for trajectory in trajectories)) if trajectories else set()
    if not shared:
        score_names = sorted({name for trajectory in trajectories for name in trajectory.scores})
        raise DataError(
            f"the two runs share no score that every episode has (there are {', '.join(score_names) or 'none'}). "
            "Score both in the same way: fireact score RUN --task TASK -o FILE."
        )
    return [*(name for name in _FIRST if name in shared), *sorted(shared - set(_FIRST))]


def _restrict_scores(trajectory: Trajectory, names: Sequence[str]) -> Trajectory:
    """The episode with the shared scores alone, so that the same score decides for both runs who is right."""
    return replace(trajectory, scores={name: trajectory.scores[name] for name in names})


def _names_missing_from(
    trajectories: Mapping[Any, Trajectory], other_trajectories: Mapping[Any, Trajectory], seeds: bool
) -> list[str]:
    has_several_seeds = (
        seeds and len({trajectory.seed for trajectory in (*trajectories.values(), *other_trajectories.values())}) > 1
    )
    return [
        f"{trajectory.example.id}/{trajectory.seed}" if has_several_seeds else trajectory.example.id
        for key, trajectory in trajectories.items()
        if key not in other_trajectories
    ]


def _average_score(pairs: Sequence[Pair], name: str) -> tuple[list[float], list[float]]:
    return average_by_question(pairs, lambda episode: get_score(episode, name))


def _compare_shares(
    before: Sequence[float], after: Sequence[float], seed: int
) -> tuple[Estimate, Estimate, PairedDifference]:
    """The shares of two runs over the same questions, and the change."""
    first, second = (bootstrap_mean(values, seed=seed) for values in (before, after))
    return first, second, compare_paired(before, after, seed=seed)


def _has_timings(pairs: Sequence[Pair]) -> bool:
    """Whether both runs recorded the usage of their episodes; files of other tools often do not."""
    return all(any(trajectory.usage.calls for trajectory in side) for side in zip(*pairs, strict=True))


def _compare_latency(
    before: Sequence[Trajectory], after: Sequence[Trajectory], share: float, seed: int
) -> tuple[Estimate, Estimate]:
    before_seconds, after_seconds = ([episode.seconds for episode in side] for side in (before, after))
    return estimate_quantile(before_seconds, share, seed=seed), estimate_quantile(after_seconds, share, seed=seed)


def _compare_amount(pairs: Sequence[Pair], name: str, seed: int) -> AmountComparison:
    value = AMOUNTS[name]
    needs_usage = name not in ("steps", "searches")
    is_recorded = [
        all(value(trajectory) is not None for trajectory in side)
        and (not needs_usage or any(trajectory.usage.calls for trajectory in side))
        for side in zip(*pairs, strict=True)
    ]
    before_values, after_values = average_by_question(pairs, lambda episode: value(episode) or 0.0)
    return AmountComparison(
        before=estimate_amount(before_values, seed=seed) if is_recorded[0] else None,
        after=estimate_amount(after_values, seed=seed) if is_recorded[1] else None,
        change=estimate_change(before_values, after_values, seed=seed) if all(is_recorded) else None,
    )


def _measure_under_noise(pairs: Sequence[Pair], names: tuple[str, str], seed: int) -> AccuracyUnderNoise | None:
    """Accuracy under noise on the questions that are right without it; None unless exactly one run has noise."""
    has_noise = [any(map(is_disturbed, side)) for side in zip(*pairs, strict=True)]
    if has_noise[0] == has_noise[1]:
        return None
    clean_and_noisy = [
        (before_trajectory, after_trajectory) if has_noise[0] else (after_trajectory, before_trajectory)
        for after_trajectory, before_trajectory in pairs
    ]
    noisy_trajectories = [
        noisy_trajectory for clean_trajectory, noisy_trajectory in clean_and_noisy if is_correct(clean_trajectory)
    ]
    if not noisy_trajectories:
        return None
    disturbed_shares = [
        float(is_correct(noisy_trajectory)) for noisy_trajectory in noisy_trajectories if is_disturbed(noisy_trajectory)
    ]
    return AccuracyUnderNoise(
        noisy=names[0] if has_noise[0] else names[1],
        n=len(noisy_trajectories),
        all=bootstrap_mean([float(is_correct(noisy_trajectory)) for noisy_trajectory in noisy_trajectories], seed=seed),
        disturbed=bootstrap_mean(disturbed_shares, seed=seed) if disturbed_shares else None,
    )


def _sides_to_dict(
    before: Estimate | None, after: Estimate | None, change: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    sides = {
        side: None if estimate is None else {"mean": estimate.mean, "interval": estimate.interval}
        for side, estimate in (("before", before), ("after", after))
    }
    return {**sides, **({"change": change} if change is not None else {})}


def _change_to_dict(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"difference": estimate.mean, "interval": estimate.interval}
