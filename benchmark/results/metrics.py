"""Rank metrics, each defined once: what one relevant item adds at its rank.

Where items tie, a metric is its exact expectation over all orders of the tied items (McSherry and Najork
2008): a constant scorer gets what a random order gets, and no order of the ties can be gained by.

Metrics of other packages come through the entry point group `adaptrec.metrics`, as an instance of `Metric`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.results.list_metrics import LIST_METRICS, ListMeasure, is_list_measure, list_measure
from benchmark.results.schema import METRICS
from methods.errors import UserError, unknown
from methods.plugins import BROKEN, offered

Floats = NDArray[np.float64]
GROUP = "adaptrec.metrics"
MOST = 1_000_000
"""Largest cut-off."""
_PLAIN = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Ranks:
    """Where relevant items stand, that of each user or those of all targets; both fields are `[T]`."""

    best: NDArray[np.int64]
    """Rank from 1 if every tie is broken in favour of the relevant item."""
    tied: NDArray[np.int64]
    """Number of items with its score, itself included."""

    def __len__(self) -> int:
        return len(self.best)

    def __getitem__(self, targets: NDArray[np.bool_] | NDArray[np.int64]) -> Ranks:
        """The ranks of some targets, by mask or index."""
        return Ranks(self.best[targets], self.tied[targets])

    @property
    def mean(self) -> Floats:
        """Mean rank over all orders of the tied items, `[T]`."""
        return self.best + (self.tied - 1) / 2


@dataclass(frozen=True)
class Metric:
    """A metric of one relevant item. All are means over users, and larger is better."""

    name: str
    """As users write it before the cut-off: lower case letters, digits and `_`."""
    label: str
    """As tables print it before the cut-off."""
    gain: Callable[[Floats], Floats]
    """Ranks from 1, any shape -> what the relevant item adds at each; ranks below the cut-off add nothing."""
    title: str = ""
    """What it is, in a few words."""
    cutoff: bool = True
    """Whether it needs a cut-off; one that does not may still have one."""


BUILT_IN = {
    metric.name: metric
    for metric in (
        Metric("recall", "R", np.ones_like, "share of users whose item is among the first k (hit rate)"),
        Metric("ndcg", "N", lambda rank: 1 / np.log2(rank + 1), "1 / log2(rank + 1) within the first k"),
        Metric("mrr", "MRR", lambda rank: 1 / rank, "1 / rank, within the first k if any", cutoff=False),
    )
}


@dataclass(frozen=True)
class Measure:
    """A metric at a cut-off."""

    metric: Metric
    k: int | None

    @property
    def name(self) -> str:
        """`ndcg@10`, as users and records write it."""
        return self.metric.name + self._at

    @property
    def label(self) -> str:
        """`N@10`, as tables print it."""
        return self.metric.label + self._at

    @property
    def _at(self) -> str:
        return "" if self.k is None else f"@{self.k}"

    def gains(self, ranks: Ranks | Floats) -> Floats:
        """What each target adds, `[T]`: the expectation over the order of tied items.

        An array holds mean ranks of ties, which records before version 2 of their schema have: those metrics
        were taken at the mean rank, which is no expectation.
        """
        if not isinstance(ranks, Ranks):
            within = ranks <= (self.k or np.inf)
            return np.where(within, self.metric.gain(ranks), 0.0)
        last = ranks.best - 1 + ranks.tied
        k = int(last.max(initial=1)) if self.k is None else self.k
        through = np.zeros(k + 1)  # sum of the gains of the first places
        through[1:] = np.cumsum(self.metric.gain(np.arange(1, k + 1, dtype=np.float64)))
        total: Floats = through[np.minimum(last, k)] - through[np.minimum(ranks.best - 1, k)]  # [T]
        return total / ranks.tied


def registered() -> dict[str, Metric]:
    """Name -> metric: the built-in ones, then those of other packages that can be used.

    Imports all of these packages.
    """
    found = dict(BUILT_IN)
    for point in offered(GROUP):
        metric = load_metric(point)
        if isinstance(metric, Metric):
            found.setdefault(point.name, metric)
    return found


def _find(name: str) -> Metric | str | None:
    """The metric of this name, or why it cannot be used; None where there is none.

    A built-in one is never replaced, and no package is imported for it.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    return next((load_metric(point) for point in offered(GROUP) if point.name == name), None)


@cache
def load_metric(point: EntryPoint) -> Metric | str:
    """The metric of an entry point, or why it cannot be used."""
    source = (
        f"metric '{point.name}' of {point.dist.name if point.dist else 'an unknown package'} ({point.value})"
    )
    try:
        metric = point.load()
    except BROKEN as error:
        return f"{source} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}."
    if not isinstance(metric, Metric) or metric.name != point.name or not _PLAIN.fullmatch(point.name):
        return (
            f"{source} must be an instance of benchmark.results.metrics.Metric whose name is that of its "
            "entry point: a letter, then letters, digits and _, in lower case."
        )
    return metric


@cache
def measure(name: str) -> Measure:
    """The measure of ranks that a user names, such as `ndcg@10` or `mrr`.

    Raises `UserError` for an unknown metric, one that cannot be used, a measure of lists, and a cut-off that
    is missing or no whole number.
    """
    if is_list_measure(name):
        raise UserError(
            f"'{name}' is a measure of the lists of all users together, and this needs a metric of each "
            "user's rank, such as recall@10, ndcg@10 or mrr."
        )
    kind, sign, written = name.partition("@")
    metric = _find(kind)
    if metric is None:
        raise unknown("metric", name, [*map(_spelling, registered().values())])
    if isinstance(metric, str):
        raise UserError(metric)
    if not sign and not metric.cutoff:
        return Measure(metric, None)
    if not re.fullmatch(r"[1-9][0-9]*", written, re.ASCII) or int(written) > MOST:
        raise UserError(
            f"metric '{name}' needs a cut-off from 1 to {MOST:,}, such as {kind}@10"
            f"{'' if metric.cutoff else f', or none: {kind}'}."
        )
    return Measure(metric, int(written))


@cache
def any_measure(name: str) -> Measure | ListMeasure:
    """The measure of ranks or of lists that a user names, `ndcg@10` or `coverage@10`; raises as `measure`."""
    if is_list_measure(name):
        return list_measure(name)
    if _find(name.partition("@")[0]) is None:
        lists = [f"{kind}@k" for kind in LIST_METRICS]
        raise unknown("metric", name, [*map(_spelling, registered().values()), *lists])
    return measure(name)


def chosen_measures(names: Iterable[str], lists: bool = True) -> tuple[str, ...]:
    """The measures that a user names, each once, METRICS where there is none; of ranks alone without `lists`.

    Raises `UserError` for other names.
    """
    read = any_measure if lists else measure
    return tuple(dict.fromkeys(read(name).name for name in names)) or METRICS


def of_ranks(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the named measures that are not measures of lists."""
    return tuple(name for name in names if not is_list_measure(name))


def of_lists(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the named measures that are measures of lists."""
    return tuple(name for name in names if is_list_measure(name))


def _spelling(metric: Metric) -> str:
    return f"{metric.name}@k" if metric.cutoff else f"{metric.name}, {metric.name}@k"


def target_weights(user: NDArray[Any]) -> Floats:
    """The weight of each target `[T]`, one over the number of targets of its `user` `[T]`."""
    _, place, count = np.unique(user, return_inverse=True, return_counts=True)
    weights: Floats = 1 / count[place]
    return weights


def metrics_of(
    ranks: Ranks | Floats, names: Iterable[str] = METRICS, weight: Floats | None = None
) -> dict[str, float]:
    """Means of the named measures, those of a record by default: `[T]` ranks -> name -> value.

    `weight` `[T]` is that of each target (`target_weights`), all alike where it is None. Raises ValueError on
    no targets, whose mean would be a silent nan.
    """
    if not len(ranks):
        raise ValueError("no ranks to average")
    return {name: float(np.average(measure(name).gains(ranks), weights=weight)) for name in names}


def chance(
    left: NDArray[np.int64], names: Iterable[str] = METRICS, weight: Floats | None = None
) -> dict[str, float]:
    """Expected measures of a random order of the `left` `[T]` items that remain for each target."""
    return metrics_of(Ranks(np.ones_like(left), left), names, weight)
