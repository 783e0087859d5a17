"""How certain a mean is: bootstrap intervals, and two agents compared on the same questions.

Invariant: the same values and seed give the same numbers. No interval of a finite sample of scores has width zero;
only equal values of an unbounded amount, such as tokens, have one. The interval of a paired difference excludes 0 if
and only if its p is below 0.05.
This module knows nothing of trajectories (``summary`` does) and does not correct for multiple comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fireact.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

Method = Literal["BCa", "percentile"]

CONFIDENCE = 0.95
_CELLS = 4_000_000  # resampled values in memory at a time: 32 MB
_ENUMERATED = 14  # up to this many differences, all patterns of signs are enumerated: 2**14
_DRAWS = 10_000  # random patterns for more differences than that
_ROUNDING = 1e-12  # sums of the same values in another order differ in the last bits


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval, and the number of values."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> list[float]:
        """``[low, high]``, as in JSON."""
        return [self.low, self.high]

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known: files of earlier versions lack some."""
        return not math.isnan(self.low)

    def __float__(self) -> float:
        return self.mean

    def __format__(self, form: str) -> str:
        """The mean and the interval, each in the form of a number: ``f"{run.em:.1%}"``."""
        mean, low, high = (format(value, form or ".3g") for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})" if self.has_interval else mean

    def __str__(self) -> str:
        return format(self)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The change from one agent to another on the same questions: ``difference`` is after minus before.

    ``wins`` and ``losses`` count the questions on which the second agent scored higher and lower.
    """

    difference: Estimate
    p: float
    n: int
    wins: int
    losses: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0, so that the change has a direction."""
        return self.difference.low > 0 or self.difference.high < 0

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

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PairedDifference:
        """The comparison that ``to_dict`` wrote."""
        mean, (low, high), *facts = (fields[name] for name in ("difference", "interval", "p", "n", "wins", "losses"))
        return cls(Estimate(mean, low, high, facts[1]), *facts)


def bootstrap_mean(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    bounds: tuple[float, float] = (0.0, 1.0),
    method: Method = "BCa",
) -> Estimate:
    """The mean of a sample with its 95 % bootstrap interval (``BCa``: Efron 1987), cut to ``bounds``.

    Where all values are equal, every resample is the same and a bootstrap interval has width zero, which overclaims.
    Then the interval allows for unseen values that differ: their share is the Wilson upper limit of 0 in n, and each is
    as far away as ``bounds`` allow. For values of 0 or 1 this is exactly the Wilson interval. Where a bound is infinite
    (steps, tokens, seconds, dollars), equal values say nothing about the spread, and the interval is the value itself.

    Raises DataError for an empty sample, or a value that is not finite or lies outside ``bounds``.
    """
    sample = _validate_sample(values, bounds)
    sample.sort()  # so that the interval does not depend on the order of the values
    mean = math.fsum(sample) / len(sample)
    if sample.min() == sample.max():
        mean = float(sample[0])
        unseen = _wilson_interval(0, len(sample))[1]
        if math.inf in (bounds[1], -bounds[0]):
            return Estimate(mean, mean, mean, len(sample))
        low, high = mean - unseen * (mean - bounds[0]), mean + unseen * (bounds[1] - mean)
    else:
        low, high = _bootstrap_interval(sample, seed, resamples, method)
    # BCa rarely leaves the mean of a very small sample outside the interval, and so does rounding.
    return Estimate(mean, max(bounds[0], min(low, mean)), min(bounds[1], max(high, mean)), len(sample))


def estimate_amount(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of an amount that has no upper bound (steps, tokens, seconds, dollars), with its interval."""
    return bootstrap_mean(values, seed=seed, bounds=(0.0, math.inf))


def estimate_quantile(values: Sequence[float], share: float, *, seed: int = 0, resamples: int = 2_000) -> Estimate:
    """A quantile (``share`` 0.5 is the median) with its 95 % percentile bootstrap interval."""
    import numpy as np

    sample = _validate_sample(values, (-math.inf, math.inf))
    sample.sort()
    generator = np.random.default_rng(seed)
    size = max(1, _CELLS // len(sample))
    resampled = [
        np.quantile(
            sample[generator.integers(0, len(sample), (min(size, resamples - start), len(sample)))], share, axis=1
        )
        for start in range(0, resamples, size)
    ]
    value = float(np.quantile(sample, share))
    low, high = np.quantile(np.concatenate(resampled), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), len(sample))


def estimate_change(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Estimate:
    """The change of an amount, after minus before, on the same questions in the same order, with its interval."""
    first, second = _validate_sample(before, (-math.inf, math.inf)), _validate_sample(after, (-math.inf, math.inf))
    if len(first) != len(second):
        raise DataError(f"{len(first)} amounts against {len(second)}: the same questions of both agents are needed.")
    return bootstrap_mean((second - first).tolist(), seed=seed, bounds=(-math.inf, math.inf), method="percentile")


def compare_paired(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> PairedDifference:
    """Compare two agents by their scores in [0, 1] on the same questions, in the same order.

    ``p`` is two-sided: McNemar's exact test where every score is 0 or 1, else a permutation test that flips the signs
    of the differences. The interval comes from the same test, so that the two never disagree (``_interval_of_flips``,
    ``_test_by_subsets``). A bootstrap interval would exclude 0 when four or five questions changed in one direction,
    although the test finds nothing. Raises DataError for empty, unequally long or unbounded samples.
    """
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} scores against {len(after)}: a paired test needs the same questions of both agents."
        )
    first, second = _validate_sample(before, (0.0, 1.0)), _validate_sample(after, (0.0, 1.0))
    differences = second - first
    n, wins, losses = len(differences), int((differences > 0).sum()), int((differences < 0).sum())
    binary = set(first.tolist()) | set(second.tolist()) <= {0.0, 1.0}
    if not wins + losses:
        p, (low, high) = 1.0, (-_wilson_interval(0, n)[1], _wilson_interval(0, n)[1])
    elif binary:
        p, (low, high) = _mcnemar_p(wins, losses), _interval_of_flips(wins, losses, n)
    else:
        p, (low, high) = _test_by_subsets(differences, seed)
    mean = math.fsum(differences) / n
    difference = Estimate(mean, max(-1.0, min(low, mean)), min(1.0, max(high, mean)), n)
    return PairedDifference(difference=difference, p=p, n=n, wins=wins, losses=losses)


def _validate_sample(values: Sequence[float], bounds: tuple[float, float]) -> Values:
    import numpy as np

    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        raise DataError("no values: a mean and its interval need one at least.")
    is_valid = (sample >= bounds[0]) & (sample <= bounds[1]) & np.isfinite(sample)
    invalid = sample[~is_valid]  # a NaN compares false, so it is invalid too
    if len(invalid):
        allowed = f"{bounds[0]:g} to {bounds[1]:g}"
        raise DataError(f"the value {invalid[0]:g} is outside {allowed}. Give other bounds, or correct it.")
    return sample


def _wilson_interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share when ``k`` of ``n`` were observed (Wilson 1927)."""
    from scipy.special import ndtri

    square = float(ndtri((1 + CONFIDENCE) / 2)) ** 2
    center, half = k + square / 2, math.sqrt(square * (k * (n - k) / n + square / 4))
    return max(0.0, (center - half) / (n + square)), min(1.0, (center + half) / (n + square))


def _bootstrap_interval(sample: Values, seed: int, resamples: int, preferred_method: Method) -> tuple[float, float]:
    import warnings

    import numpy as np
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a nearly degenerate sample: handled below
        for method in (preferred_method, "percentile"):
            interval = stats.bootstrap(
                (sample,),
                np.mean,
                axis=-1,
                method=method,
                confidence_level=CONFIDENCE,
                n_resamples=resamples,
                batch=max(1, _CELLS // len(sample)),
                rng=np.random.default_rng(seed),
            ).confidence_interval
            if np.isfinite(interval.low) and np.isfinite(interval.high):
                break
    return float(interval.low), float(interval.high)


def _mcnemar_p(wins: int, losses: int) -> float:
    from scipy import stats

    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def _interval_of_flips(wins: int, losses: int, n: int) -> tuple[float, float]:
    """The interval of a difference in shares: the share of questions that changed, times how one-sided the changes are.

    The first factor has Wilson's interval. The second has the interval of Clopper and Pearson, which inverts McNemar's
    exact test. The method of variance estimates recovery (Zou and Donner 2008) combines both into an interval of the
    product. Its end nearer to 0 has the same sign as that end of the second factor, so it excludes 0 exactly when the
    test rejects.
    """
    from scipy import stats

    changed_share, direction = (wins + losses) / n, (wins - losses) / (wins + losses)
    if direction < 0:
        low, high = _interval_of_flips(losses, wins, n)
        return -high, -low
    changed_low, changed_high = _wilson_interval(wins + losses, n)
    win_share = stats.binomtest(wins, wins + losses).proportion_ci(CONFIDENCE, method="exact")
    direction_below, direction_above = direction - (2 * win_share.low - 1), (2 * win_share.high - 1) - direction
    # The factor of ``direction_below`` is the square of the share less that of its distance to its low end. With it,
    # share * direction exceeds the root of ``below`` exactly when direction exceeds ``direction_below``: then p < 0.05.
    below = (direction * (changed_share - changed_low)) ** 2 + (
        changed_share**2 - (changed_share - changed_low) ** 2
    ) * direction_below**2
    above = (direction * (changed_high - changed_share)) ** 2 + (changed_share * direction_above) ** 2
    if wins == losses:  # no direction: each end may be the far one, so that the interval is the same from both sides
        return -math.sqrt(above), math.sqrt(above)
    return changed_share * direction - math.sqrt(below), changed_share * direction + math.sqrt(above)


def _test_by_subsets(differences: Values, seed: int) -> tuple[float, tuple[float, float]]:
    """``p`` of the test that flips signs, and the interval of the differences that it does not reject.

    The test rejects a shift when few of all subsets of the questions have a mean beyond it (typical values, Hartigan
    1969), so the ends of the interval are order statistics of these means. Where all questions change by the same
    amount, every subset has the same mean, and the interval is that of as many wins (or losses), scaled.
    """
    import numpy as np

    sums, sizes, exact = _sum_subsets(differences, np.random.default_rng(seed))
    count, total = len(sums), float(differences.sum())
    beyond_zero = int((sums <= 0 if total > 0 else sums >= 0).sum())
    # random patterns: the observed one counts as one more
    p = min(1.0, 2 * beyond_zero / count) if exact else min(1.0, (2 * beyond_zero + 1) / (count + 1))
    rejected_count = (1 - CONFIDENCE) * count / 2 if exact else ((1 - CONFIDENCE) * (count + 1) - 1) / 2
    # Order statistics of equal means are one point; a sample of equal changes says more about n than about its spread.
    if differences.min() == differences.max():
        value, n = float(differences[0]), len(differences)
        near, far = (
            abs(value) * _interval_of_flips(n, 0, n)[0],
            abs(value) + _wilson_interval(0, n)[1] * (1 - abs(value)),
        )
        return p, (near, far) if value > 0 else (-far, -near)
    # The empty subset has no mean. It counts as beyond either end, so that it never narrows the interval.
    means = np.divide(sums, sizes, out=np.full(count, -math.inf), where=sizes > 0)
    low = float(np.sort(means)[math.ceil(rejected_count) - 1])
    means[sizes == 0] = math.inf
    high = float(np.sort(means)[count - math.ceil(rejected_count)])
    return p, (low, high)


def _sum_subsets(differences: Values, generator: np.random.Generator) -> tuple[Values, Values, bool]:
    """Sums and sizes of subsets of the differences, and whether they are exact.

    Exact means that all subsets of the nonzero differences are enumerated; else random subsets are drawn, each with its
    complement. Differences of zero change the size of a subset and not its sum, so their number is drawn.
    """
    import numpy as np

    nonzero = differences[abs(differences) > _ROUNDING]
    exact = len(nonzero) <= _ENUMERATED
    if exact:
        # The bits of the numbers 0 to 2**n - 1 are all subsets of n differences.
        patterns = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
        # repeated, so that each pattern meets several draws of the zero differences below
        patterns = np.tile(patterns, (math.ceil(_DRAWS / len(patterns)), 1))
        sums, sizes = patterns @ nonzero, patterns.sum(axis=1)
        sizes = sizes + generator.binomial(len(differences) - len(nonzero), 0.5, len(sizes))
    else:
        size, chunks = max(1, _CELLS // len(nonzero)), []
        for start in range(0, _DRAWS // 2, size):
            signs = generator.integers(0, 2, (min(size, _DRAWS // 2 - start), len(nonzero)), dtype=np.int8)
            chunks.append(np.stack([signs.astype(np.float64) @ nonzero, signs.sum(axis=1, dtype=np.float64)]))
        half_sums, half_sizes = np.concatenate(chunks, axis=1)
        # With complements the drawn patterns are symmetric, as all patterns are, so both orders of agents have one p.
        half_sizes += generator.binomial(len(differences) - len(nonzero), 0.5, len(half_sizes))
        sums, sizes = (
            np.concatenate([half_sums, nonzero.sum() - half_sums]),
            np.concatenate([half_sizes, len(differences) - half_sizes]),
        )
    return np.where(abs(sums) < _ROUNDING, 0.0, sums), sizes.astype(np.float64), exact
