"""Intervals and tests: over users and seeds, over seeds alone, over datasets.

docs/statistics.md says which is for what, and why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.results.metrics import Floats

DRAWS = 10_000
"""Bootstrap samples."""
CHUNK, LEAST = 1 << 22, 64
"""How often samples hold users: numbers kept at a time, and samples at least. A product of few samples with
the values of all runs takes several times as long for each."""
KEPT = 1 << 28
"""Bytes of samples that are kept for the next table: tables of one dataset have the same ones."""
LEVEL = 0.95
"""Of all intervals."""


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


def bootstrap(rows: Sequence[Mapping[int, Floats]], draws: int = DRAWS, seed: int = 0) -> Floats:
    """Means of each row in `draws` bootstrap samples over users and over seeds, `[draws, R, C]`.

    A row maps each of its seeds to `[U, C]`, one value a user in each of `C` columns. A sample draws `U`
    users with replacement, the same ones for all rows, and for each row with replacement as many seeds as it
    has. Rows with the same seeds get the same drawn seeds, so that differences of two rows are paired. A row
    with one seed keeps it: its samples vary over users alone. Equal input gives equal samples.
    """
    values = np.concatenate([gains for row in rows for gains in row.values()], axis=1)  # [U, runs x C]
    users = len(values)
    some = np.flatnonzero(values.any(axis=1))  # users whose values are all 0 add nothing to any mean
    values = values[some]
    samples = iter((_kept if users * draws <= KEPT else _draw)(users, draws, seed))
    size = max(LEAST, CHUNK // max(1, len(some)))
    parts = []
    for begin in range(0, draws, size):
        times = np.empty((min(size, draws - begin), len(some)))  # how often a sample holds a user
        for held in times:
            held[:] = next(samples)[some]
        parts.append(times @ values / users)
    by_run = np.concatenate(parts).reshape(draws, -1, next(iter(rows[0].values())).shape[1])
    means = np.empty((draws, len(rows), by_run.shape[2]))
    begin = 0
    for number, row in enumerate(rows):
        weights = _seed_weights(sorted(row), draws, seed)
        order = [begin + list(row).index(name) for name in sorted(row)]
        means[:, number] = np.einsum("ds,dsc->dc", weights, by_run[:, order])
        begin += len(row)
    return means


def _draw(users: int, draws: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """How often each of `draws` samples holds each user, `[users]` a sample. No user is held 256 times."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, users, users), minlength=users).astype(np.uint8)


@lru_cache(maxsize=1)
def _kept(users: int, draws: int, seed: int) -> NDArray[np.uint8]:
    """All samples of `_draw`, `[draws, users]`."""
    kept = np.empty((draws, users), np.uint8)
    for row, held in zip(kept, _draw(users, draws, seed), strict=True):
        row[:] = held
    return kept


def _seed_weights(seeds: Sequence[int], draws: int, seed: int) -> Floats:
    """Share of each of `seeds` in each sample, `[draws, S]`; equal seeds give equal shares."""
    count = len(seeds)
    if count == 1:
        return np.ones((draws, 1))
    drawn = np.random.default_rng([seed, 1, *seeds]).integers(0, count, (draws, count))
    weights: Floats = (drawn[:, :, None] == np.arange(count)).mean(1)
    return weights


def interval(samples: Floats) -> tuple[Floats, Floats]:
    """Ends of the percentile interval of level LEVEL over the first axis."""
    outside = (1 - LEVEL) / 2
    low: Floats = np.quantile(samples, outside, axis=0, method="lower")
    high: Floats = np.quantile(samples, 1 - outside, axis=0, method="higher")
    return low, high


def p_value(differences: Floats) -> Floats:
    """Two-sided p of differences in bootstrap samples, over the first axis.

    The percentile interval of level 1 - p is the widest that excludes 0. So p is below 1 - LEVEL where
    `interval` excludes 0, and only there.
    """
    fewer = np.minimum((differences <= 0).sum(0), (differences >= 0).sum(0))
    p: Floats = np.minimum(1.0, 2 * (fewer + 1) / (len(differences) + 1))
    return p


class PairTest(NamedTuple):
    """The difference of two rows, the first less the second."""

    difference: float
    low: float
    high: float
    """95 % interval."""
    p: float
    """Two-sided; below .05 where the interval excludes 0, and only there."""
    p_corrected: float
    """Corrected for all pairs of rows."""


def all_pairs(samples: Floats, means: Floats) -> dict[tuple[int, int], PairTest]:
    """Compare all pairs of rows: bootstrap samples `[draws, R]` and the rows' means `[R]` -> pair -> test.

    p is corrected by the largest deviation of any pair (single-step max-T of Westfall and Young 1993): the
    share of samples in which some pair deviates from its difference, in units of the pair's standard error,
    at least as much as this pair's difference deviates from 0.
    """
    draws, rows = samples.shape
    largest = np.zeros(draws)
    plain: dict[tuple[int, int], tuple[float, ...]] = {}
    for row in range(rows - 1):
        differences = samples[:, row : row + 1] - samples[:, row + 1 :]  # [draws, pairs]
        observed = means[row] - means[row + 1 :]
        error = differences.std(0)
        error[error == 0] = np.finfo(float).tiny  # rows without any unlike user: 0 / tiny is 0
        largest = np.maximum(largest, (np.abs(differences - observed) / error).max(1))
        columns = (observed, *interval(differences), p_value(differences), np.abs(observed) / error)
        for other, values in enumerate(np.stack(columns, axis=1).tolist(), row + 1):
            plain[row, other] = tuple(values)
    tests = {}
    for pair, (difference, low, high, p, deviation) in plain.items():
        corrected = float((1 + (largest >= deviation).sum()) / (draws + 1))
        tests[pair] = PairTest(difference, low, high, p, max(p, corrected))
    return tests
