"""Whether an episode is right, by the one score that decides it.

``accuracy`` has one meaning everywhere: the score named ``judge`` where an LM judged the answer, else the ``accuracy``
that a task gives itself, else ``em``. For multiple choice and for yes or no it is EM, and F1 is the same number.
Invariant: an episode without any of these scores is neither right nor wrong.
"""

from __future__ import annotations

from fireact.types import Trajectory

VERDICTS = ("judge", "accuracy", "em")
"""The scores that decide whether an answer is right, in order of preference."""


def accuracy(trajectory: Trajectory) -> float | None:
    """How right an episode is, in [0, 1]; None where no score decides it."""
    return next((trajectory.scores[name] for name in VERDICTS if name in trajectory.scores), None)


def is_correct(trajectory: Trajectory) -> bool:
    """Whether an episode is wholly right."""
    return accuracy(trajectory) == 1.0
