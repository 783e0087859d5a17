"""What an agent does after noise disturbed a call: whether it asks again, and whether it still ends right.

Invariant: only episodes that were scored and have a disturbed step (``Step.noise``) count; each disturbed call has exactly
one reaction, the agent's next turn. Calls for the next fact look like retries with another query, so ``retried`` is an
upper limit. Two runs, with noise and without, are compared by ``comparison``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fireact.evaluation.accuracy import right
from fireact.evaluation.statistics import Estimate, bootstrap
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
    """``episodes`` with a disturbed call, of ``all``; shares of them that end right, that asked again and went on to an answer, and that did both."""

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
            "by_noise": {name: dict(found) for name, found in self.by_noise.items()},
        }


def recovery(trajectories: Sequence[Trajectory], *, seed: int = 0) -> Recovery | None:
    """How the episodes that noise disturbed went on; None where there is none."""
    scored = [one for one in trajectories if one.stop != "error"]
    hit = [one for one in scored if disturbed(one)]
    if not hit:
        return None
    reactions = [_reactions(one) for one in hit]
    again = [_retried(one, found) for one, found in zip(hit, reactions, strict=True)]
    count = Counter(reaction for found in reactions for reaction in found)
    return Recovery(
        all=len(scored),
        episodes=len(hit),
        calls=count.total(),
        right=bootstrap([float(right(one)) for one in hit], seed=seed),
        retried=bootstrap([float(one) for one in again], seed=seed),
        retried_and_right=bootstrap([float(a and right(one)) for one, a in zip(hit, again, strict=True)], seed=seed),
        reactions={name: count[name] for name in REACTIONS},
        by_noise=_by_noise(hit),
    )


def disturbed(trajectory: Trajectory) -> bool:
    """Whether noise disturbed one of its calls at least."""
    return any(step.noise is not None for step in trajectory.steps)


def _retried(trajectory: Trajectory, reactions: Sequence[str]) -> bool:
    return trajectory.stop == "finish" and ("same call" in reactions or "other call" in reactions)


def _reactions(trajectory: Trajectory) -> list[str]:
    """What the agent's next turn was, for each disturbed call."""
    steps, found = trajectory.steps, []
    for at, step in enumerate(steps):
        if step.noise is None:
            continue
        following = next((later for later in steps[at + 1 :] if not later.joined), None)
        if following is None:
            found.append("ended")
        elif following.action is None:
            found.append("no action")
        elif following.action.name == FINISH:
            found.append("answered")
        else:
            found.append("same call" if following.action == step.action else "other call")
    return found


def _by_noise(hit: Sequence[Trajectory]) -> dict[str, dict[str, Any]]:
    """For each kind of noise: the episodes that met it, and how many of them are right."""
    kinds = sorted({step.noise for one in hit for step in one.steps if step.noise is not None})
    met = {kind: [one for one in hit if any(step.noise == kind for step in one.steps)] for kind in kinds}
    return {kind: {"episodes": len(found), "right": sum(map(right, found))} for kind, found in met.items()}
