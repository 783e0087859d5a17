"""How certain a mean is: bootstrap intervals, and two agents compared on the same questions.

Invariant: the same values and seed give the same numbers, and no interval of a finite sample of scores has width zero
(of amounts without bounds, such as tokens, that of equal values has).
This module knows nothing of trajectories (``summary`` does) and corrects for no multiple comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fireact.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

Method = Literal["BCa", "percentile"]

CONFIDENCE = 0.95
_CELLS = 4_000_000  # resampled values held at a time: 32 MB
_ENUMERATED = 14  # up to so many differences every pattern of signs is tried: 2**14 of them


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval, and how many values it is of."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> list[float]:
        """``[low, high]``, as it stands in JSON."""
        return [self.low, self.high]


@dataclass(frozen=True, slots=True)
class Paired:
    """What changed from one agent to another on the same questions: ``difference`` is after minus before.

    ``wins`` and ``losses`` count the questions on which the second agent scored higher and lower.
    """

    difference: Estimate
    p: float
    n: int
    wins: int
    losses: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the difference, its interval, p, and the counts."""
        return {
            "difference": self.difference.mean,
            "interval": self.difference.interval,
            "p": self.p,
            "n": self.n,
            "wins": self.wins,
            "losses": self.losses,
        }


def bootstrap(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    bounds: tuple[float, float] = (0.0, 1.0),
    method: Method = "BCa",
) -> Estimate:
    """The mean of a sample with its 95 % bootstrap interval (``BCa``: Efron 1987), cut to ``bounds``.

    Where all values are equal, every resample is the same and a bootstrap interval has width zero, which overclaims.
    Then the interval says how many unlike values may have stayed unseen: a share of them with the Wilson upper limit of
    0 in n, each as far off as ``bounds`` allow. For values of 0 or 1 this is exactly the Wilson interval. Where a bound is
    infinite (steps, tokens, seconds, dollars), equal values tell nothing of the spread, and the interval is the value.

    Raises DataError for an empty sample, or a value that is not finite or lies outside ``bounds``.
    """
    sample = _checked(values, bounds)
    mean = math.fsum(sample) / len(sample)
    if sample.min() == sample.max():
        mean = float(sample[0])
        unseen = _wilson_upper(len(sample))
        if math.inf in (bounds[1], -bounds[0]):
            return Estimate(mean, mean, mean, len(sample))
        low, high = mean - unseen * (mean - bounds[0]), mean + unseen * (bounds[1] - mean)
    else:
        low, high = _interval(sample, seed, resamples, method)
    # BCa may, rarely, leave the mean of a very small sample outside; rounding may, too.
    return Estimate(mean, max(bounds[0], min(low, mean)), min(bounds[1], max(high, mean)), len(sample))


def amount(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of an amount that has no upper bound (steps, tokens, seconds, dollars), with its interval."""
    return bootstrap(values, seed=seed, bounds=(0.0, math.inf))


def quantile(values: Sequence[float], share: float, *, seed: int = 0, resamples: int = 2_000) -> Estimate:
    """A quantile (``share`` 0.5 is the median) with its 95 % percentile bootstrap interval."""
    import numpy as np

    sample = _checked(values, (-math.inf, math.inf))
    generator = np.random.default_rng(seed)
    size = max(1, _CELLS // len(sample))
    drawn = [
        np.quantile(
            sample[generator.integers(0, len(sample), (min(size, resamples - start), len(sample)))], share, axis=1
        )
        for start in range(0, resamples, size)
    ]
    value = float(np.quantile(sample, share))
    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), len(sample))


def change(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Estimate:
    """By how much an amount changed, after minus before, on the same questions in the same order, with its interval."""
    first, second = _checked(before, (-math.inf, math.inf)), _checked(after, (-math.inf, math.inf))
    if len(first) != len(second):
        raise DataError(f"{len(first)} amounts against {len(second)}: the same questions of both agents are needed.")
    return bootstrap((second - first).tolist(), seed=seed, bounds=(-math.inf, math.inf), method="percentile")


def paired(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Paired:
    """Compare two agents by their scores in [0, 1] on the same questions, in the same order.

    The interval is a percentile bootstrap over questions: where few of them changed, BCa leaves 0 out of it more than
    twice as often as the percentiles do when the test finds nothing, and covers no better. ``p`` is two-sided: McNemar's exact test where every score is 0 or 1,
    else a permutation test that flips the signs of the differences (all patterns of up to 14 differences, else 10,000
    drawn ones). Raises DataError for empty, unequally long or unbounded samples.
    """
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} scores against {len(after)}: a paired test needs the same questions of both agents."
        )
    first, second = _checked(before, (0.0, 1.0)), _checked(after, (0.0, 1.0))
    moved = second - first
    wins, losses = int((moved > 0).sum()), int((moved < 0).sum())
    binary = set(first.tolist()) | set(second.tolist()) <= {0.0, 1.0}
    return Paired(
        difference=bootstrap(moved.tolist(), seed=seed, bounds=(-1.0, 1.0), method="percentile"),
        p=_mcnemar(wins, losses) if binary else _sign_flip(moved, seed),
        n=len(moved),
        wins=wins,
        losses=losses,
    )


def _checked(values: Sequence[float], bounds: tuple[float, float]) -> Values:
    import numpy as np

    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        raise DataError("no values: a mean and its interval need one at least.")
    fine = (sample >= bounds[0]) & (sample <= bounds[1]) & np.isfinite(sample)
    bad = sample[~fine]  # a NaN compares false, so it is bad too
    if len(bad):
        allowed = f"{bounds[0]:g} to {bounds[1]:g}"
        raise DataError(f"the value {bad[0]:g} is outside {allowed}. Give other bounds, or correct it.")
    return sample


def _wilson_upper(n: int) -> float:
    """Upper 95 % limit of a share of which 0 in ``n`` were seen (Wilson 1927)."""
    from scipy.special import ndtri

    z = float(ndtri((1 + CONFIDENCE) / 2))
    return z * z / (n + z * z)


def _interval(sample: Values, seed: int, resamples: int, wanted: Method) -> tuple[float, float]:
    import warnings

    import numpy as np
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a nearly degenerate sample: handled below
        for method in (wanted, "percentile"):
            found = stats.bootstrap(
                (sample,),
                np.mean,
                axis=-1,
                method=method,
                confidence_level=CONFIDENCE,
                n_resamples=resamples,
                batch=max(1, _CELLS // len(sample)),
                rng=np.random.default_rng(seed),
            ).confidence_interval
            if np.isfinite(found.low) and np.isfinite(found.high):
                break
    return float(found.low), float(found.high)


def _mcnemar(wins: int, losses: int) -> float:
    from scipy import stats

    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def _sign_flip(change: Values, seed: int) -> float:
    """Share of sign patterns whose sum is at least as far from 0; the pattern seen counts as one of those drawn."""
    import numpy as np

    moved = change[change != 0]
    seen = abs(moved.sum()) - 1e-12  # sums of the same values in another order differ in the last bits
    if len(moved) <= _ENUMERATED:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((abs((1 - 2 * patterns) @ moved) >= seen).mean())
    generator = np.random.default_rng(seed)
    draws, size, extreme = 10_000, max(1, _CELLS // len(moved)), 0
    for start in range(0, draws, size):
        signs = 1 - 2 * generator.integers(0, 2, size=(min(size, draws - start), len(moved)), dtype=np.int8)
        extreme += int((abs(signs @ moved) >= seen).sum())
    return (extreme + 1) / (draws + 1)
