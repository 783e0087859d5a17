"""Schedules of the learning rate: it rises to its full value, then falls along a curve.

Invariant: the share is never zero, since a batch at rate zero would be wasted compute, and never exceeds one.
"""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "linear", "constant")


def learning_rate_share(step: int, *, total: int, warmup: float, schedule: str) -> float:
    """The share of the full learning rate at ``step`` (from 0) of ``total``.

    ``warmup`` below 1 is a share of all steps, from 1 on a number of steps.
    """
    warmup_steps = math.ceil(warmup * total) if warmup < 1 else min(int(warmup), total)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    decay_progress = min((step - warmup_steps) / max(1, total - warmup_steps), 1.0)
    return 1.0 - decay_progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * decay_progress))
