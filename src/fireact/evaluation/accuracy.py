"""Whether an episode was right, by the one score that says so.

``accuracy`` has one meaning everywhere: the score named ``judge`` where an LM judged the answer, else ``accuracy`` where a
task gives one of its own, else ``em``. For multiple choice and yes or no it is EM, and F1 is the same number again.
Invariant: an episode without any of these scores is neither right nor wrong.
"""

from __future__ import annotations

from fireact.types import Trajectory

VERDICTS = ("judge", "accuracy", "em")
"""The scores that say whether an answer is right, the most telling first."""


def accuracy(trajectory: Trajectory) -> float | None:
    """How right an episode is, in [0, 1]; None where nothing says so."""
    return next((trajectory.scores[name] for name in VERDICTS if name in trajectory.scores), None)


def right(trajectory: Trajectory) -> bool:
    """Whether an episode is wholly right."""
    return accuracy(trajectory) == 1.0
