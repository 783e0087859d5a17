"""How certain a mean is: bootstrap intervals, and two agents compared on the same questions.

Invariant: the same values and seed give the same numbers; no interval of a finite sample of scores has width zero (of
amounts without bounds, such as tokens, that of equal values has); the interval of a paired difference leaves 0 out where,
and only where, its p is below 0.05.
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
_DRAWS = 10_000  # patterns that are drawn of more
_ROUNDING = 1e-12  # sums of the same values in another order differ in the last bits


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
    sample.sort()  # so that the same values have the same interval, in whatever order they come
    mean = math.fsum(sample) / len(sample)
    if sample.min() == sample.max():
        mean = float(sample[0])
        unseen = _wilson(0, len(sample))[1]
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
    sample.sort()
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

    ``p`` is two-sided: McNemar's exact test where every score is 0 or 1, else a permutation test that flips the signs of the
    differences. The interval is made of the same test, so that the two never disagree (``_of_flips``, ``_of_subsets``); a
    bootstrap leaves 0 out when four or five questions changed in one direction, of which the test finds nothing.
    Raises DataError for empty, unequally long or unbounded samples.
    """
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} scores against {len(after)}: a paired test needs the same questions of both agents."
        )
    first, second = _checked(before, (0.0, 1.0)), _checked(after, (0.0, 1.0))
    moved = second - first
    n, wins, losses = len(moved), int((moved > 0).sum()), int((moved < 0).sum())
    binary = set(first.tolist()) | set(second.tolist()) <= {0.0, 1.0}
    if not wins + losses:
        p, (low, high) = 1.0, (-_wilson(0, n)[1], _wilson(0, n)[1])
    elif binary:
        p, (low, high) = _mcnemar(wins, losses), _of_flips(wins, losses, n)
    else:
        p, (low, high) = _of_subsets(moved, seed)
    mean = math.fsum(moved) / n
    difference = Estimate(mean, max(-1.0, min(low, mean)), min(1.0, max(high, mean)), n)
    return Paired(difference=difference, p=p, n=n, wins=wins, losses=losses)


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


def _wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of which ``k`` in ``n`` were seen (Wilson 1927)."""
    from scipy.special import ndtri

    square = float(ndtri((1 + CONFIDENCE) / 2)) ** 2
    middle, half = k + square / 2, math.sqrt(square * (k * (n - k) / n + square / 4))
    return max(0.0, (middle - half) / (n + square)), min(1.0, (middle + half) / (n + square))


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


def _of_flips(wins: int, losses: int, n: int) -> tuple[float, float]:
    """The interval of a difference in shares: the share of questions that changed, times how one-sided the changes are.

    The first has Wilson's interval, the second that of Clopper and Pearson, which inverts McNemar's exact test; the two make
    one of the product by the method of variance estimates recovery (Zou and Donner 2008), whose nearer end has the sign of
    the second one's.
    """
    from scipy import stats

    changed, sided = (wins + losses) / n, (wins - losses) / (wins + losses)
    if sided < 0:
        low, high = _of_flips(losses, wins, n)
        return -high, -low
    few, many = _wilson(wins + losses, n)
    share = stats.binomtest(wins, wins + losses).proportion_ci(CONFIDENCE, method="exact")
    under, over = sided - (2 * share.low - 1), (2 * share.high - 1) - sided
    below = (sided * (changed - few)) ** 2 + (changed**2 - (changed - few) ** 2) * under**2
    above = (sided * (many - changed)) ** 2 + (changed * over) ** 2
    return changed * sided - math.sqrt(below), changed * sided + math.sqrt(above)


def _of_subsets(moved: Values, seed: int) -> tuple[float, tuple[float, float]]:
    """``p`` of the test that flips signs, and the interval of the differences that it does not refuse.

    A shift is refused when few of all subsets of the questions have a mean beyond it (typical values, Hartigan 1969): the
    interval's ends are order statistics of these means. Equal changes have one mean only, and the interval of as many wins.
    """
    import numpy as np

    sums, sizes, exact = _subsets(moved, np.random.default_rng(seed))
    count, total = len(sums), float(moved.sum())
    beyond = int((sums <= 0 if total > 0 else sums >= 0).sum())
    # a drawn pattern may be the one that was seen, so that is counted as one more
    p = min(1.0, 2 * beyond / count) if exact else min(1.0, (2 * beyond + 1) / (count + 1))
    refused = (1 - CONFIDENCE) * count / 2 if exact else ((1 - CONFIDENCE) * (count + 1) - 1) / 2
    if moved.min() == moved.max():
        value, n = float(moved[0]), len(moved)
        near, far = abs(value) * _of_flips(n, 0, n)[0], abs(value) + _wilson(0, n)[1] * (1 - abs(value))
        return p, (near, far) if value > 0 else (-far, -near)
    means = np.divide(sums, sizes, out=np.full(count, -math.inf), where=sizes > 0)
    low = float(np.sort(means)[math.ceil(refused) - 1])
    means[sizes == 0] = math.inf
    high = float(np.sort(means)[count - math.ceil(refused)])
    return p, (low, high)


def _subsets(moved: Values, generator: np.random.Generator) -> tuple[Values, Values, bool]:
    """Sums and sizes of subsets of the changes, each with its complement; and whether those of what moved are all there are."""
    import numpy as np

    nonzero = moved[abs(moved) > _ROUNDING]
    exact = len(nonzero) <= _ENUMERATED
    if exact:
        patterns = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
        patterns = np.tile(patterns, (math.ceil(_DRAWS / len(patterns)), 1))  # with other questions that did not move
        sums, sizes = patterns @ nonzero, patterns.sum(axis=1)
        sizes = sizes + generator.binomial(len(moved) - len(nonzero), 0.5, len(sizes))
    else:
        size, parts = max(1, _CELLS // len(nonzero)), []
        for start in range(0, _DRAWS // 2, size):
            drawn = generator.integers(0, 2, (min(size, _DRAWS // 2 - start), len(nonzero)), dtype=np.int8)
            parts.append(np.stack([drawn.astype(np.float64) @ nonzero, drawn.sum(axis=1, dtype=np.float64)]))
        half, chosen = np.concatenate(parts, axis=1)
        chosen += generator.binomial(len(moved) - len(nonzero), 0.5, len(chosen))
        sums, sizes = np.concatenate([half, nonzero.sum() - half]), np.concatenate([chosen, len(moved) - chosen])
    return np.where(abs(sums) < _ROUNDING, 0.0, sums), sizes.astype(np.float64), exact
