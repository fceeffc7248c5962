"""Recall@k and NDCG@k of one relevant item, from its rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.record import METRICS, Metrics

Ranks = NDArray[np.float64]


def metrics_of(ranks: Ranks) -> Metrics:
    """Mean Recall@k and NDCG@k over users: `[U]` ranks from 1 (halves where items tie) -> METRICS.

    With one relevant item Recall@k is the hit rate, and NDCG@k is 1 / log2(rank + 1) within the first k.
    Raises ValueError on no users, whose mean would be a silent nan.
    """
    if not len(ranks):
        raise ValueError("no ranks to average")
    gain = 1 / np.log2(ranks + 1)
    values = {}
    for name in METRICS:
        kind, k = name.split("@")
        hit = ranks <= int(k)
        values[name] = float(np.mean(hit if kind == "recall" else np.where(hit, gain, 0.0)))
    return values


def chance(n_items: int) -> Metrics:
    """Expected metrics of a random order of `n_items` items."""
    return metrics_of(np.arange(1, n_items + 1, dtype=np.float64))
