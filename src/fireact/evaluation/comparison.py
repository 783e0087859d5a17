"""Two runs on the same questions, side by side: what each scored and took, what changed, and which questions flipped.

Invariant: everything is of the questions that both runs were scored on, so before and after are of the same ones; what
only one run has is counted and named. Differences are after minus before, with intervals over questions. Nothing is
compared whose conditions differ, unless that was allowed by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, DataError
from fireact.evaluation.accuracy import right
from fireact.evaluation.conditions import Conditions, Difference, common, conditions, differences, refused, untold
from fireact.evaluation.failures import counted, failure
from fireact.evaluation.measures import AMOUNTS, score
from fireact.evaluation.pairing import Pair, by_question, keyed, pairs
from fireact.evaluation.recovery import Recovery, disturbed, recovery
from fireact.evaluation.statistics import Estimate, Paired, amount, bootstrap, change, paired, quantile
from fireact.formats.read import read_any
from fireact.store import CONFIG, read_config, read_manifest, read_trajectories, shown
from fireact.types import Trajectory

COMPARED = ("steps", "searches", "tokens_per_question", "latency_mean", "cost_per_question")
"""The amounts that are put side by side."""
_FIRST = ("em", "f1")


@dataclass(frozen=True, slots=True)
class Measured:
    """A run that can be compared: its episodes, who acted in them and under which conditions."""

    name: str
    agent: str
    description: str
    trajectories: Sequence[Trajectory]
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Amount:
    """What a question takes before and after, and the change; None where a run does not tell."""

    before: Estimate | None
    after: Estimate | None
    change: Estimate | None


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that one run has right and the other wrong; ``gained`` is wrong before, right after."""

    gained: bool
    before: Trajectory
    after: Trajectory

    def to_dict(self) -> dict[str, Any]:
        example = self.before.example
        sides = {"before": self.before, "after": self.after}
        return {
            "id": example.id,
            "seed": self.before.seed,
            "gained": self.gained,
            "question": example.question,
            "gold": example.answer,
            **{side: {"answer": one.answer, "failure": failure(one), "scores": dict(one.scores)} for side, one in sides.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """Of the ``n`` questions that the run without noise has right: the share that the one with noise has right too.

    ``disturbed`` is the same of those whose calls noise did disturb; None where there are none.
    """

    noisy: str
    n: int
    all: Estimate
    disturbed: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        def plain(found: Estimate | None) -> dict[str, Any] | None:
            return None if found is None else {"share": found.mean, "interval": found.interval, "n": found.n}

        return {"noisy": self.noisy, "n": self.n, "all": plain(self.all), "disturbed": plain(self.disturbed)}


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """Two runs on one task: ``n`` questions, ``episodes`` of each run (more where there are several seeds)."""

    task: str
    n: int
    episodes: int
    only_before: Sequence[str]
    only_after: Sequence[str]
    faults: tuple[int, int]
    unscored: tuple[int, int]
    scores: Mapping[str, tuple[Estimate, Estimate, Paired]]
    finished: tuple[Estimate, Estimate, Paired]
    amounts: Mapping[str, Amount]
    latency: Mapping[str, tuple[Estimate, Estimate]]
    failures: tuple[Mapping[str, int], Mapping[str, int]]
    right: tuple[int, int]
    recovery: tuple[Recovery | None, Recovery | None]
    kept: Kept | None
    flips: Sequence[Flip]

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
            "scores": {name: _three(one, other, by.to_dict()) for name, (one, other, by) in shares.items()},
            "amounts": {name: _three(one.before, one.after, _change(one.change)) for name, one in self.amounts.items()},
            "latency": {name: _three(one, other) for name, (one, other) in self.latency.items()},
            "right": dict(zip(sides, self.right, strict=True)),
            "failures": {side: dict(found) for side, found in zip(sides, self.failures, strict=True)},
            "recovery": {
                side: None if found is None else found.to_dict()
                for side, found in zip(sides, self.recovery, strict=True)
            },
            "kept_under_noise": None if self.kept is None else self.kept.to_dict(),
            "flips": [flip.to_dict() for flip in self.flips],
        }


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs on every task that they share; ``allowed`` are the differences that were let pass."""

    before: Measured
    after: Measured
    tasks: Sequence[TaskComparison]
    allowed: Sequence[Difference]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        sides = {"before": self.before, "after": self.after}
        return {
            "comparable": True,
            **{side: {"run": one.name, "agent": one.agent, "description": one.description} for side, one in sides.items()},
            "allowed": [{"setting": one.setting, "before": one.one, "after": one.other} for one in self.allowed],
            "notes": list(self.notes),
            "tasks": {task.task: task.to_dict() for task in self.tasks},
        }  # fmt: skip


def read_measured(path: Path) -> Measured:
    """A run to compare. Raises DataError where ``read_episodes`` does, or where no episode has scores."""
    found = read_episodes(path)
    if not any(one.scores for one in found.trajectories):
        raise DataError(f"no episode in {path} has scores, so there is nothing to compare. Score it: fireact score.")
    return found


def read_episodes(path: Path) -> Measured:
    """The episodes of a directory of ``eval`` (or ``collect``), or of any file that ``convert`` reads, scored or not.

    Raises DataError where it cannot be read or is not complete.
    """
    config, manifest = (read_config(path), read_manifest(path)) if (path / CONFIG).is_file() else ({}, {})
    if config.get("verb") == "quickstart":
        raise ConfigError(f"{path} is a directory of quickstart. Compare {path}/eval-base with {path}/eval-fireact.")
    if config.get("verb") in ("study", "report"):
        raise ConfigError(
            f"{path} is a directory of {config['verb']}, of several runs. Give two of them, or see it whole: fireact report."
        )
    found = list(read_trajectories(path) if config else read_any(path))
    models = ", ".join(dict.fromkeys(one.model or "unnamed" for one in found))
    return Measured(
        name=shown(path),
        agent=str(manifest.get("agent", models)),
        description=str(manifest.get("description", models)),
        trajectories=found,
        conditions=conditions(shown(path), found, config=config, manifest=manifest),
    )


def incomparable(before: Measured, after: Measured, allow: Sequence[str] = ()) -> list[Difference]:
    """The differences in conditions that keep two runs from being compared. Raises ConfigError for an unknown ``allow``."""
    return refused(before.conditions, after.conditions, allow)


def compare_runs(before: Measured, after: Measured, *, allow: Sequence[str] = (), seed: int = 0) -> RunComparison:
    """Compare two runs on the questions that both were scored on, paired by question and seed.

    ``allow`` names conditions that may differ, as the very thing that is studied; with ``seed`` allowed, questions are
    paired whatever their seeds. Raises ConfigError where others differ, DataError where no scored question is shared.
    """
    wrong = incomparable(before, after, allow)
    if wrong:
        raise ConfigError(
            f"{before.name} and {after.name} do not compare: {'; '.join(map(str, wrong))}. Evaluate one of them again"
            " under the conditions of the other, or allow what differs on purpose."
        )
    passed = differences(before.conditions, after.conditions)
    seeds = not any(difference.setting == "seed" for difference in passed)
    tasks = common(before.conditions, after.conditions)
    return RunComparison(
        before=before,
        after=after,
        tasks=[
            _task(task, _of(before, task), _of(after, task), seeds=seeds, noisy=(before.name, after.name), seed=seed)
            for task in tasks
        ],
        allowed=passed,
        notes=_notes(before.conditions, after.conditions, tasks),
    )


def _of(run: Measured, task: str) -> list[Trajectory]:
    return [one for one in run.trajectories if one.task == task]


def _notes(one: Conditions, other: Conditions, tasks: Sequence[str]) -> list[str]:
    notes = [
        f"only {run.name} has the task {task}"
        for run, beside in ((one, other), (other, one))
        for task in run.questions
        if task not in beside.questions
    ]
    notes += [
        f"the two have no question of {task} in common"
        for task in one.questions
        if task in other.questions and task not in tasks
    ]
    if unsaid := untold(one, other):
        notes.append(f"not recorded by both runs, so not checked: {', '.join(unsaid)}")
    return notes


def _task(
    task: str,
    before: Sequence[Trajectory],
    after: Sequence[Trajectory],
    *,
    seeds: bool,
    noisy: tuple[str, str],
    seed: int,
) -> TaskComparison:
    first, second = (_scored(run) for run in (before, after))
    names = _score_names([*first, *second])
    found = [(_only(one, names), _only(other, names)) for one, other in pairs(first, second, seeds=seeds)]
    one, other = [pair[0] for pair in found], [pair[1] for pair in found]
    keys = [keyed(run, seeds=seeds) for run in (first, second)]
    return TaskComparison(
        task=task,
        n=len({pair[0].example.id for pair in found}),
        episodes=len(found),
        only_before=_names(keys[0], keys[1], seeds),
        only_after=_names(keys[1], keys[0], seeds),
        faults=(_ended_in_a_fault(before), _ended_in_a_fault(after)),
        unscored=(_unscored(before), _unscored(after)),
        scores={name: _score(found, name, seed) for name in names},
        finished=_share(found, lambda episode: float(episode.stop == "finish"), seed),
        amounts={name: _amount(found, name, seed) for name in COMPARED},
        latency={name: _latency(one, other, share, seed) for name, share in (("p50", 0.5), ("p95", 0.95)) if _timed(found)},
        failures=(counted(one), counted(other)),
        right=(sum(map(right, one)), sum(map(right, other))),
        recovery=(recovery(one, seed=seed), recovery(other, seed=seed)),
        kept=_kept(found, noisy, seed),
        flips=[Flip(right(b), a, b) for a, b in found if right(a) != right(b)],
    )  # fmt: skip


def _ended_in_a_fault(trajectories: Iterable[Trajectory]) -> int:
    return sum(one.stop == "error" for one in trajectories)


def _unscored(trajectories: Iterable[Trajectory]) -> int:
    return sum(one.stop != "error" and not one.scores for one in trajectories)


def _scored(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    return [one for one in trajectories if one.stop != "error" and one.scores]


def _score_names(trajectories: Sequence[Trajectory]) -> list[str]:
    """The scores that every episode of both runs has; EM and F1 first."""
    shared = set.intersection(*(set(one.scores) for one in trajectories)) if trajectories else set()
    if not shared:
        known = sorted({name for one in trajectories for name in one.scores})
        raise DataError(
            f"the two runs share no score that every episode has (there are {', '.join(known) or 'none'}). "
            "Score both in the same way: fireact rescore RUN --task TASK -o FILE."
        )
    return [*(name for name in _FIRST if name in shared), *sorted(shared - set(_FIRST))]


def _only(trajectory: Trajectory, names: Sequence[str]) -> Trajectory:
    """The episode with the shared scores alone, so that both runs are right or wrong by the same one."""
    return replace(trajectory, scores={name: trajectory.scores[name] for name in names})


def _names(own: Mapping[Any, Trajectory], other: Mapping[Any, Trajectory], seeds: bool) -> list[str]:
    several = seeds and len({one.seed for one in (*own.values(), *other.values())}) > 1
    return [
        f"{one.example.id}/{one.seed}" if several else one.example.id for key, one in own.items() if key not in other
    ]


def _score(found: Sequence[Pair], name: str, seed: int) -> tuple[Estimate, Estimate, Paired]:
    return _share(found, lambda episode: score(episode, name), seed)


def _share(found: Sequence[Pair], value: Callable[[Trajectory], float], seed: int) -> tuple[Estimate, Estimate, Paired]:
    one, other = by_question(found, value)
    return bootstrap(one, seed=seed), bootstrap(other, seed=seed), paired(one, other, seed=seed)


def _timed(found: Sequence[Pair]) -> bool:
    """Whether both runs recorded what their episodes took; files of other tools often do not."""
    return all(any(one.usage.calls for one in side) for side in zip(*found, strict=True))


def _latency(
    one: Sequence[Trajectory], other: Sequence[Trajectory], share: float, seed: int
) -> tuple[Estimate, Estimate]:
    first, second = ([episode.seconds for episode in side] for side in (one, other))
    return quantile(first, share, seed=seed), quantile(second, share, seed=seed)


def _amount(found: Sequence[Pair], name: str, seed: int) -> Amount:
    value = AMOUNTS[name]
    spent = name not in ("steps", "searches")
    told = [
        all(value(one) is not None for one in side) and (not spent or any(one.usage.calls for one in side))
        for side in zip(*found, strict=True)
    ]
    one, other = by_question(found, lambda episode: value(episode) or 0.0)
    return Amount(
        before=amount(one, seed=seed) if told[0] else None,
        after=amount(other, seed=seed) if told[1] else None,
        change=change(one, other, seed=seed) if all(told) else None,
    )


def _kept(found: Sequence[Pair], names: tuple[str, str], seed: int) -> Kept | None:
    """What noise leaves of the questions that are right without; None unless exactly one run has noise."""
    noisy = [any(map(disturbed, side)) for side in zip(*found, strict=True)]
    if noisy[0] == noisy[1]:
        return None
    turned = [(b, a) if noisy[0] else (a, b) for a, b in found]
    sound = [hit for clean, hit in turned if right(clean)]
    if not sound:
        return None
    met = [float(right(hit)) for hit in sound if disturbed(hit)]
    return Kept(
        noisy=names[0] if noisy[0] else names[1],
        n=len(sound),
        all=bootstrap([float(right(hit)) for hit in sound], seed=seed),
        disturbed=bootstrap(met, seed=seed) if met else None,
    )


def _three(one: Estimate | None, other: Estimate | None, by: Mapping[str, Any] | None = None) -> dict[str, Any]:
    sides = {
        side: None if found is None else {"mean": found.mean, "interval": found.interval}
        for side, found in (("before", one), ("after", other))
    }
    return {**sides, **({"change": by} if by is not None else {})}


def _change(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"difference": estimate.mean, "interval": estimate.interval}
