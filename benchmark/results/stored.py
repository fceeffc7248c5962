"""A run as it is stored: its record, the file of the record, and the verified ranks of its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.results.lists import StoredLists, read_lists
from benchmark.results.metrics import Floats, measure
from benchmark.results.ranks import StoredRanks, read_ranks
from benchmark.results.record import RunRecord, below_results, ranks_path
from methods.errors import UserError


@dataclass(frozen=True)
class StoredRun:
    """A record and the file that it was read from, `.../<dataset>/<llm>/<method>/<hash>-s<seed>.json`."""

    path: Path
    record: RunRecord

    @property
    def name(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>-s<seed>`: the run, below the folder of the results."""
        return below_results(self.path).removesuffix(".json")

    @property
    def configuration(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>`: the name of its configuration, the same for all its seeds."""
        return self.name.removesuffix(f"-s{self.record.seed}")

    @cached_property
    def ranks(self) -> StoredRanks:
        """Its test ranks, read and compared with the record at the first access and kept from then on.

        Raises `UserError` where they are missing, cannot be read, or are not those of the record.
        """
        return read_ranks(self.path, self.record)

    @cached_property
    def lists(self) -> StoredLists | None:
        """The best items of its test users, read and compared with its ranks at the first access; None where
        the run stored none, as older ones.

        Raises `UserError` where they are missing, cannot be read, or are not those of the record.
        """
        return read_lists(self.path, self.record, self.ranks) if self.record.top_sha256 else None


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
