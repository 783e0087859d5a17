"""How the learning rate runs over a training: up to its full height, then down along a curve.

Invariant: no step has a rate of zero (every batch costs the same to compute, so none is wasted), and none exceeds one.
"""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "linear", "constant")


def share(step: int, *, total: int, warmup: float, schedule: str) -> float:
    """The share of the full learning rate at ``step`` (from 0) of ``total``.

    ``warmup`` below 1 is a share of all steps, from 1 on a number of steps.
    """
    rising = math.ceil(warmup * total) if warmup < 1 else min(int(warmup), total)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    gone = min((step - rising) / max(1, total - rising), 1.0)
    return 1.0 - gone if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))
