"""What an agent does after noise disturbed a call: whether it asks again, and whether it still ends right.

Invariant: only scored episodes with a disturbed step (``Step.noise``) count; each disturbed call has exactly one
reaction, the agent's next turn. A call for the next fact looks like a retry with another query, so ``retried`` is an
upper bound. ``comparison`` compares a run with noise and a run without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.evaluation.accuracy import is_correct
from fireact.evaluation.statistics import Estimate, bootstrap_mean
from fireact.types import FINISH, Trajectory

REACTIONS: Mapping[str, str] = {
    "same call": "the next turn made the same call again",
    "other call": "the next turn called a tool in another way",
    "answered": "the next turn gave the answer",
    "no action": "the next turn was text without an action",
    "ended": "there was no next turn: the limit was reached",
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """How agents react to noise, over the ``episodes`` of ``all`` that have a disturbed call.

    The shares are of these episodes: those that end right, those that call a tool again and reach an answer
    (``retried``), and those that do both.
    """

    all: int
    episodes: int
    calls: int
    right: Estimate
    retried: Estimate
    retried_and_right: Estimate
    reactions: Mapping[str, int]
    by_noise: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, intervals as [low, high]."""
        return {
            "questions": self.all,
            "disturbed": self.episodes,
            "disturbed_calls": self.calls,
            "right": self.right.mean,
            "right_interval": self.right.interval,
            "retried": self.retried.mean,
            "retried_interval": self.retried.interval,
            "retried_and_right": self.retried_and_right.mean,
            "retried_and_right_interval": self.retried_and_right.interval,
            "reactions": dict(self.reactions),
            "by_noise": {name: dict(counts) for name, counts in self.by_noise.items()},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Recovery:
        """The result that ``to_dict`` wrote."""
        shares = ((fields[name], fields[f"{name}_interval"]) for name in ("right", "retried", "retried_and_right"))
        counts = [fields[name] for name in ("questions", "disturbed", "disturbed_calls")]
        estimates = (Estimate(mean, low, high, counts[1]) for mean, (low, high) in shares)
        return cls(*counts, *estimates, *(fields[name] for name in ("reactions", "by_noise")))


def measure_recovery(trajectories: Sequence[Trajectory], *, seed: int = 0) -> Recovery | None:
    """Summarise how disturbed episodes continue; None where there are none."""
    scored = [trajectory for trajectory in trajectories if trajectory.stop != "error"]
    disturbed = [trajectory for trajectory in scored if is_disturbed(trajectory)]
    if not disturbed:
        return None
    reactions_by_trajectory = [_classify_reactions(trajectory) for trajectory in disturbed]
    retried = [
        _has_retried(trajectory, reactions)
        for trajectory, reactions in zip(disturbed, reactions_by_trajectory, strict=True)
    ]
    counts = Counter(reaction for reactions in reactions_by_trajectory for reaction in reactions)
    return Recovery(
        all=len(scored),
        episodes=len(disturbed),
        calls=counts.total(),
        right=bootstrap_mean([float(is_correct(trajectory)) for trajectory in disturbed], seed=seed),
        retried=bootstrap_mean([float(has_retried) for has_retried in retried], seed=seed),
        retried_and_right=bootstrap_mean(
            [
                float(has_retried and is_correct(trajectory))
                for trajectory, has_retried in zip(disturbed, retried, strict=True)
            ],
            seed=seed,
        ),
        reactions={name: counts[name] for name in REACTIONS},
        by_noise=_count_by_noise(disturbed),
    )


def is_disturbed(trajectory: Trajectory) -> bool:
    """Whether noise disturbed at least one call of an episode."""
    return any(step.noise is not None for step in trajectory.steps)


def _has_retried(trajectory: Trajectory, reactions: Sequence[str]) -> bool:
    return trajectory.stop == "finish" and ("same call" in reactions or "other call" in reactions)


def _classify_reactions(trajectory: Trajectory) -> list[str]:
    """What the agent's next turn was, for each disturbed call."""
    steps, reactions = trajectory.steps, []
    for index, step in enumerate(steps):
        if step.noise is None:
            continue
        following = next((later for later in steps[index + 1 :] if not later.joined), None)
        if following is None:
            reactions.append("ended")
        elif following.action is None:
            reactions.append("no action")
        elif following.action.name == FINISH:
            reactions.append("answered")
        else:
            reactions.append("same call" if following.action == step.action else "other call")
    return reactions


def _count_by_noise(disturbed: Sequence[Trajectory]) -> dict[str, dict[str, Any]]:
    """For each kind of noise: the episodes that met it, and how many of them are right."""
    kinds = sorted({step.noise for trajectory in disturbed for step in trajectory.steps if step.noise is not None})
    trajectories_by_kind = {
        kind: [trajectory for trajectory in disturbed if any(step.noise == kind for step in trajectory.steps)]
        for kind in kinds
    }
    return {
        kind: {"episodes": len(trajectories), "right": sum(map(is_correct, trajectories))}
        for kind, trajectories in trajectories_by_kind.items()
    }
