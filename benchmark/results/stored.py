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
    """What each user adds to metrics under one configuration, the mean over its seeds."""

    user: NDArray[np.int64]
    """`[U]`."""
    mean: Floats
    """`[U, M]`, a column a metric."""
    by_seed: dict[int, Floats]
    """Seed -> the metrics themselves, `[M]`: what differs from seed to seed."""

    def spread(self, column: int) -> float | None:
        """Standard deviation over seeds of a metric; None for one seed."""
        values = [figures[column] for figures in self.by_seed.values()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def user_gains(
    runs: Sequence[StoredRun], metrics: Sequence[str], masked: bool = False
) -> tuple[UserGains | None, list[str]]:
    """Gains of the runs of one configuration, one a seed, and why ranks of some could not be used.

    Seeds are repeated measures of the same users: they are averaged user by user, never stacked, so that `U`
    is the number of users whatever the number of seeds. None where no run has usable ranks.
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
        if users is not None and not np.array_equal(users, ranks.user):
            faults.append(f"{below_results(ranks_path(run.path))} has other users than the other seeds.")
            continue
        users = ranks.user
        chosen = ranks.masked if masked else ranks.raw
        by_seed[run.record.seed] = np.stack([measure(metric).gains(chosen) for metric in metrics], axis=1)
    if users is None:
        return None, faults
    mean = np.mean(list(by_seed.values()), axis=0)
    return UserGains(users, mean, {seed: values.mean(0) for seed, values in by_seed.items()}), faults
