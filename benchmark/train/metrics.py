"""Recall@k and NDCG@k of one relevant item, from its rank and the number of items that tie with it.

Where items tie, a metric is its exact expectation over all orders of the tied items (McSherry and Najork
2008): a constant scorer gets what a random order gets, and no order of the ties can be gained by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.record import METRICS, Metrics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Where each user's relevant item stands; both fields are `[U]`."""

    best: NDArray[np.int64]
    """Rank from 1 if every tie is broken in favour of the relevant item."""
    tied: NDArray[np.int64]
    """Number of items with its score, itself included."""

    def __len__(self) -> int:
        return len(self.best)

    def __getitem__(self, users: NDArray[np.bool_] | NDArray[np.int64]) -> Ranks:
        """The ranks of some users, by mask or index."""
        return Ranks(self.best[users], self.tied[users])

    @property
    def mean(self) -> Floats:
        """Mean rank over all orders of the tied items, `[U]`."""
        return self.best + (self.tied - 1) / 2


def metrics_of(ranks: Ranks | Floats) -> Metrics:
    """Mean Recall@k and NDCG@k over users: `[U]` ranks -> METRICS.

    Raises ValueError on no users, whose mean would be a silent nan.
    """
    if not len(ranks):
        raise ValueError("no ranks to average")
    return {name: float(np.mean(gains(ranks, name))) for name in METRICS}


def gains(ranks: Ranks | Floats, metric: str) -> Floats:
    """What each user adds to a metric of METRICS, `[U]`, from the rank of the one relevant item, `[U]`.

    Recall@k is the hit, and NDCG@k is 1 / log2(rank + 1) within the first k; of tied items the expectation.
    An array holds mean ranks of ties, which records before version 2 of their schema have: those metrics were
    taken at the mean rank, which is no expectation.
    """
    kind, k = metric.split("@")
    if not isinstance(ranks, Ranks):
        hit = ranks <= int(k)
        return hit.astype(np.float64) if kind == "recall" else np.where(hit, 1 / np.log2(ranks + 1), 0.0)
    places = np.arange(1, int(k) + 1)
    each = np.ones(len(places)) if kind == "recall" else 1 / np.log2(places + 1)
    through = np.concatenate([[0.0], np.cumsum(each)])  # [k + 1] sum of the gains of the first places
    above = np.minimum(ranks.best - 1, len(places))  # [U] of the first k places, those above the ties
    down = np.minimum(ranks.best - 1 + ranks.tied, len(places))  # [U] those down to the end of the ties
    total: Floats = through[down] - through[above]
    return total / ranks.tied


def chance(left: NDArray[np.int64]) -> Metrics:
    """Expected metrics of a random order, the mean over users, to each of whom `left` `[U]` items remain."""
    return metrics_of(Ranks(np.ones_like(left), left))
