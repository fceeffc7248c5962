"""Recall@k and NDCG@k of one relevant item, from its rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.record import METRICS, Metrics

Ranks = NDArray[np.float64]


def metrics_of(ranks: Ranks) -> Metrics:
    """Mean Recall@k and NDCG@k over users: `[U]` ranks from 1 (halves where items tie) -> METRICS.

    Raises ValueError on no users, whose mean would be a silent nan.
    """
    if not len(ranks):
        raise ValueError("no ranks to average")
    return {name: float(np.mean(gains(ranks, name))) for name in METRICS}


def gains(ranks: Ranks, metric: str) -> Ranks:
    """What each user adds to a metric of METRICS, `[U]`, from the rank of the one relevant item, `[U]`.

    Recall@k is the hit, and NDCG@k is 1 / log2(rank + 1) within the first k.
    """
    kind, k = metric.split("@")
    hit = ranks <= int(k)
    return hit.astype(np.float64) if kind == "recall" else np.where(hit, 1 / np.log2(ranks + 1), 0.0)


def chance(n_items: int) -> Metrics:
    """Expected metrics of a random order of `n_items` items."""
    return metrics_of(np.arange(1, n_items + 1, dtype=np.float64))


def masked_chance(raw: Metrics, n_items: int, left: NDArray[np.int64]) -> Metrics:
    """The same where each user's order is of the items that are `left`, `[U]`, on average over users.

    `raw` is `chance(n_items)`, of which the result is a multiple.
    """
    ranks = np.arange(1, n_items + 1, dtype=np.float64)
    found = {}
    for name, value in raw.items():
        within = np.cumsum(gains(ranks, name))  # [I] all of it from rank k on
        found[name] = value * float(np.mean(n_items / left * (within[left - 1] / within[-1])))
    return found
