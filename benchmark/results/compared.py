"""The rows of one table compared user by user: intervals of their means and differences, and which are shown.

Marks of best rows, tables of differences and printed intervals all read the same bootstrap samples and the
same corrected p-values, so that they cannot contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmark.results.metrics import Floats, measure
from benchmark.results.record import below_results, ranks_path
from benchmark.results.statistics import LEVEL, PairTest, all_pairs, bootstrap, interval
from benchmark.results.store import StoredRun
from methods.errors import UserError


@dataclass(frozen=True)
class UserGains:
    """What each user adds to metrics under one configuration; one value a user, however many targets."""

    user: NDArray[np.int64]
    """`[U]`."""
    columns: tuple[tuple[str, str], ...]
    """Split, `test` or `test_masked`, and metric of each column."""
    by_seed: dict[int, Floats]
    """Seed -> `[U, C]`."""

    def values(self, split: str, metric: str) -> Floats:
        """One column, the mean over seeds, `[U]`."""
        column = self.columns.index((split, metric))
        mean: Floats = np.mean([gains[:, column] for gains in self.by_seed.values()], axis=0)
        return mean

    def spread(self, split: str, metric: str) -> float | None:
        """Standard deviation of a metric over seeds; None for one seed."""
        column = self.columns.index((split, metric))
        means = [gains[:, column].mean() for gains in self.by_seed.values()]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None


def user_gains(runs: Sequence[StoredRun], metrics: Sequence[str]) -> tuple[UserGains | None, list[str]]:
    """Gains of the runs of one configuration, one a seed, and why ranks of some could not be used.

    Columns are the metrics with the history masked, then raw. None where no run has usable ranks.
    """
    users: NDArray[np.int64] | None = None
    by_seed: dict[int, Floats] = {}
    faults = []
    for run in runs:
        try:
            ranks = run.ranks
        except UserError as error:
            faults.append(str(error))
            continue
        if users is not None and not np.array_equal(users, ranks.users):
            faults.append(f"{below_results(ranks_path(run.path))} has other users than the other seeds.")
            continue
        users = ranks.users
        gains = [measure(metric).gains(split) for split in (ranks.masked, ranks.raw) for metric in metrics]
        by_seed[run.record.seed] = ranks.user_means(np.stack(gains, axis=1))  # [T, C] -> [U, C]
    if users is None:
        return None, faults
    columns = tuple((split, metric) for split in ("test_masked", "test") for metric in metrics)
    return UserGains(users, columns, by_seed), faults


@dataclass(frozen=True, eq=False)
class ComparedRows:
    """The rows of a table that have ranks of the same users."""

    gains: Mapping[str, UserGains]
    """Label -> gains of the users."""
    faults: Sequence[str] = ()
    """Why ranks could not be used."""
    _tests: dict[tuple[str, str], dict[tuple[str, str], PairTest]] = field(default_factory=dict)

    @cached_property
    def _samples(self) -> Floats:
        """`[draws, R, C]` means of the rows."""
        return bootstrap([gains.by_seed for gains in self.gains.values()])

    def _column(self, split: str, metric: str) -> Floats:
        """`[draws, R]`."""
        columns = next(iter(self.gains.values())).columns
        return self._samples[:, :, columns.index((split, metric))]

    def half_width(self, label: str, split: str, metric: str) -> float | None:
        """Half the width of the interval of a row's mean; None where its users are not known."""
        if label not in self.gains:
            return None
        low, high = interval(self._column(split, metric)[:, list(self.gains).index(label)])
        return float(high - low) / 2

    def tests(self, split: str, metric: str) -> dict[tuple[str, str], PairTest]:
        """Labels of two rows -> their difference under a metric; all pairs, in the order of rows."""
        key = (split, metric)
        if key not in self._tests:
            labels = list(self.gains)
            means = np.array([gains.values(split, metric).mean() for gains in self.gains.values()])
            pairs = all_pairs(self._column(split, metric), means) if len(labels) > 1 else {}
            self._tests[key] = {(labels[a], labels[b]): test for (a, b), test in pairs.items()}
        return self._tests[key]

    def test(self, a: str, b: str, split: str, metric: str) -> PairTest:
        """The difference of two rows, `a` less `b`."""
        tests = self.tests(split, metric)
        if (a, b) in tests:
            return tests[a, b]
        difference, low, high, *p = tests[b, a]
        return PairTest(-difference, -high, -low, *p)

    def leaders(self, split: str, metric: str) -> set[str]:
        """The best row, and all rows whose difference from it is not shown; empty for fewer than two rows."""
        if len(self.gains) < 2:
            return set()
        best = max(self.gains, key=lambda label: self.gains[label].values(split, metric).mean())
        others = [label for label in self.gains if label != best]
        return {best, *(label for label in others if not shown(self.test(best, label, split, metric)))}


def shown(test: PairTest) -> bool:
    """Whether the data show a difference."""
    return test.p_corrected < 1 - LEVEL


def compared(rows: Mapping[str, Sequence[StoredRun]], metrics: Sequence[str]) -> ComparedRows:
    """Compare rows, label -> finished runs, by the stored ranks of their users.

    Rows without usable ranks, or with ranks of other users than the rows before, are left out.
    """
    known: dict[str, UserGains] = {}
    faults: list[str] = []
    for label, runs in rows.items():
        gains, problems = user_gains(runs, metrics)
        faults += [f"{label}: {fault}" for fault in problems]
        if gains is None:
            continue
        first = next(iter(known), label)
        if first != label and not np.array_equal(gains.user, known[first].user):
            faults.append(f"{label}: its ranks are of other users than those of {first}.")
            continue
        known[label] = gains
    return ComparedRows(known, faults)
