"""Measures of the lists of all users together, each defined once: which items a run recommends, how often.

Unlike a rank metric, a measure of lists is no mean over users, and does not know the target. None of them is
better when it is larger: they describe what stands in the lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.errors import UserError

TOP = 20
"""Items of a stored list."""


@dataclass(frozen=True)
class Recommended:
    """The first k items of all lists."""

    items: NDArray[np.int32]
    """`[M]` item of each place that has one, over all users."""
    counts: NDArray[np.int32]
    """`[M]` training interactions of each."""
    weight: NDArray[np.float64]
    """`[M]` weight of the list in which it stands."""
    catalogue: int
    """Items of the dataset."""
    interactions: int
    """Training interactions of the dataset."""

    @property
    def times(self) -> NDArray[np.float64]:
        """`[I]` how often each item is recommended, counted by weight."""
        return np.bincount(self.items, self.weight, self.catalogue).astype(np.float64)


@dataclass(frozen=True)
class ListMetric:
    """A measure of lists before its cut-off."""

    name: str
    label: str
    """As tables print it."""
    value: Callable[[Recommended], float]
    title: str
    """What it is, in a few words."""
    is_share: bool = True
    """Whether it lies between 0 and 1."""


def gini(times: NDArray[Any]) -> float:
    """Gini coefficient of how often each item `[I]` occurs, items that never do included."""
    times = np.sort(times)
    n = len(times)
    return float(((2 * np.arange(1, n + 1) - n - 1) * times).sum() / (n * times.sum()))


def _novelty(lists: Recommended) -> float:
    """Items without a training interaction count as if they had one: the logarithm of 0 is infinite."""
    bits = np.log2(max(lists.interactions, 1)) - np.log2(np.maximum(lists.counts, 1))
    return float(np.average(bits, weights=lists.weight))


LIST_METRICS = {
    metric.name: metric
    for metric in (
        ListMetric(
            "coverage", "Cov", lambda lists: float((lists.times > 0).mean()),
            "share of the catalogue that is in the first k of at least one user",
        ),
        ListMetric(
            "gini", "Gini", lambda lists: gini(lists.times),
            "Gini coefficient of how often each item of the catalogue is in the first k of a user (0: all "
            "equally often)",
        ),
        ListMetric(
            "novelty", "Nov", _novelty,
            "mean of -log2 of an item's share of the training interactions, in bits, over the first k of all "
            "users", is_share=False,
        ),
        ListMetric(
            "popularity", "Pop", lambda lists: float(np.average(lists.counts, weights=lists.weight)),
            "mean number of training interactions of the items in the first k of all users", is_share=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ListMeasure:
    """A measure of lists at a cut-off."""

    metric: ListMetric
    k: int

    @property
    def name(self) -> str:
        """`coverage@10`, as users write it."""
        return f"{self.metric.name}@{self.k}"

    @property
    def label(self) -> str:
        """`Cov@10`, as tables print it."""
        return f"{self.metric.label}@{self.k}"

    def of(
        self,
        items: NDArray[np.int32],
        counts: NDArray[np.int32],
        catalogue: int,
        interactions: int,
        weight: NDArray[np.float64] | float = 1.0,
    ) -> float:
        """Its value for lists `[T, TOP]`, each of `weight` `[T, 1]`; a negative item fills places without
        one."""
        first, times = items[:, : self.k], counts[:, : self.k]
        filled = first >= 0
        weights = np.broadcast_to(weight, first.shape)[filled]
        return self.metric.value(Recommended(first[filled], times[filled], weights, catalogue, interactions))


def is_list_measure(name: str) -> bool:
    """Whether a user's name, `coverage@10`, is of a measure of lists."""
    return name.partition("@")[0] in LIST_METRICS


@cache
def list_measure(name: str) -> ListMeasure:
    """The measure of lists that a user names; raises `UserError` for a cut-off that lists do not have."""
    kind, _, written = name.partition("@")
    if not re.fullmatch(r"[1-9][0-9]?", written, re.ASCII) or int(written) > TOP:
        raise UserError(
            f"metric '{name}' needs a cut-off from 1 to {TOP}, such as {kind}@10: a run stores the {TOP} "
            "best items of each user."
        )
    return ListMeasure(LIST_METRICS[kind], int(written))
