"""Intervals and tests: over seeds, over the users of one test split, over datasets. docs/statistics.md says
which is for what.

`values` is `[U, C]`: a figure of each of `U` users in each of `C` columns (methods); a pair `(a, b)` is the
comparison of two columns, its difference `values[:, a] - values[:, b]`. What flips signs or draws users does
it for all columns at once, and takes the differences of the sums: pairs cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]

CHUNK = 1 << 21
"""Numbers drawn at a time."""


@dataclass(frozen=True)
class SeedMean:
    """A figure over `n` seeds."""

    mean: float
    half_width: float | None
    """Half the width of the 95 % t interval of the mean; None for one seed, which says nothing of spread."""
    n: int
    least: float
    largest: float


def estimate(values: Iterable[float | None]) -> SeedMean | None:
    """Mean and 95 % t interval of the values that were measured; None where none was."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    n = len(known)
    half = t_quantile(n - 1) * stdev(known) / math.sqrt(n) if n > 1 else None
    return SeedMean(fmean(known), half, n, min(known), max(known))


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = level, for a whole number of degrees of freedom."""
    from scipy.special import stdtrit

    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"needs freedom >= 1 and 0 < level < 1, got {freedom} and {level}")
    return float(stdtrit(freedom, (1 + level) / 2))


def paired_t(differences: Sequence[float]) -> tuple[float, float]:
    """Student's paired t-test of two or more differences, one a dataset: (t, two-sided p).

    Differences that are all alike leave no spread to judge by: (0, 1) where they are 0, else (+-inf, 0).
    Raises ValueError on fewer than two.
    """
    from scipy.special import stdtr

    n = len(differences)
    if n < 2:
        raise ValueError(f"a paired t-test needs two differences or more, got {n}")
    mean, spread = fmean(differences), stdev(differences)
    if spread == 0:
        return (math.copysign(math.inf, mean), 0.0) if mean else (0.0, 1.0)
    t = mean / (spread / math.sqrt(n))
    return t, float(2 * stdtr(n - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family, in the order given (Holm 1979): all below alpha may be rejected
    with a chance of at most alpha for a single false rejection, however the tests depend on one another."""
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, which in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[which]))
        adjusted[which] = least
    return adjusted


def randomisation(values: Floats, pairs: Pairs, flips: int = 10_000, seed: int = 0) -> Floats:
    """Two-sided p of the paired randomisation test (Fisher) of each pair, `[len(pairs)]`.

    Under the null hypothesis a user's two figures could as well have been each other's: `flips` times the
    sign of each user's difference is drawn anew, and p is the share of sums at least as far from 0 as the one
    observed, which is counted among them: p is never below 1 / (flips + 1). All pairs share the draws.
    """
    rng = np.random.default_rng(seed)
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    users = len(values)
    total = values.sum(0)
    # sums of rounded floats: what is as far from 0 as the observed may come out a last digit nearer
    observed = np.abs(total[first] - total[second]) - 1e-10 * np.abs(values).sum(0).max(initial=0.0)
    extreme = np.ones(len(first))
    for rows in _chunks(flips, users):
        bits = rng.integers(0, 256, (rows, -(-users // 8)), dtype=np.uint8)
        plus = np.unpackbits(bits, axis=1, count=users).astype(np.float64)  # [rows, U]
        sums = 2 * (plus @ values) - total  # [rows, C]
        extreme += (np.abs(sums[:, first] - sums[:, second]) >= observed).sum(0)
    return extreme / (flips + 1)


def bootstrap(values: Floats, pairs: Pairs, draws: int = 4_000, seed: int = 0) -> Floats:
    """95 % percentile interval over users of the mean difference of each pair, `[len(pairs), 2]`.

    Users are drawn with replacement, `draws` times; all pairs share the draws.
    """
    rng = np.random.default_rng(seed)
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    users = len(values)
    differences = []
    for rows in _chunks(draws, users):
        drawn = rng.integers(0, users, (rows, users)) + users * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        means = times.astype(np.float64) @ values / users  # [rows, C]
        differences.append(means[:, first] - means[:, second])
    interval: Floats = np.quantile(np.concatenate(differences), (0.025, 0.975), axis=0).T
    return interval


def wilcoxon(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test by its normal approximation, ties corrected for.

    Differences of 0 are ranked with the others and then dropped (Pratt 1959): where most users are 0, as at a
    short cut-off, dropping them first would rank the rest as if the zeros were not there. 1 where all are 0.
    """
    from scipy.stats import wilcoxon as test

    if not np.any(differences):
        return 1.0
    return float(test(differences, zero_method="pratt", method="asymptotic").pvalue)


def _chunks(rows: int, width: int) -> Iterator[int]:
    """`rows` in parts of at most CHUNK numbers."""
    size = max(1, CHUNK // max(1, width))
    for begin in range(0, rows, size):
        yield min(size, rows - begin)
