"""Means and their intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A figure over `n` seeds."""

    mean: float
    half_width: float | None
    """Half the width of the 95 % t interval of the mean; None for one seed, which says nothing of spread."""
    n: int
    largest: float


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and 95 % t interval of the values that were measured; None where none was."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    n = len(known)
    half = t_quantile(n - 1) * stdev(known) / math.sqrt(n) if n > 1 else None
    return Estimate(fmean(known), half, n, max(known))


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = level, for a whole number of degrees of freedom.

    Bisects the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, in theta = atan(t / sqrt(freedom)).
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"needs freedom >= 1 and 0 < level < 1, got {freedom} and {level}")
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _central_share(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _central_share(theta: float, freedom: int) -> float:
    odd = freedom % 2
    term = math.sin(theta) * (math.cos(theta) if odd else 1.0)
    total = 0.0
    for k in range(1 + odd, freedom, 2):  # each term is the last one times k / (k + 1) cos^2
        total += term
        term *= k / (k + 1) * math.cos(theta) ** 2
    return 2 / math.pi * (theta + total) if odd else total
