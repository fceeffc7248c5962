"""The stored ranks of the test targets of runs, checked against their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.results.metrics import Floats, Ranks, metrics_of, target_weights
from benchmark.results.record import RunRecord, below_results, ranks_path
from benchmark.results.user_columns import read_columns
from methods.errors import UserError

COLUMNS = ("user", "rank", "tied", "rank_masked", "tied_masked")
MEAN_RANKS = ("user", "rank", "rank_masked")
"""Columns beside records of schema version 1: mean ranks of ties."""


@dataclass(frozen=True)
class StoredRanks:
    """Test ranks of one run, by user and then by time: `[T]` each; arrays are mean ranks of ties."""

    user: NDArray[np.int64]
    """The user of each target."""
    raw: Ranks | Floats
    masked: Ranks | Floats

    @cached_property
    def weight(self) -> Floats:
        """`[T]` weight of each target, by which every user has weight one."""
        return target_weights(self.user)

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """`[U]` the users, ascending."""
        return np.unique(self.user)

    def user_means(self, values: Floats) -> Floats:
        """The mean over each user's targets: `[T, M]` -> `[U, M]`."""
        first = np.searchsorted(self.user, self.users)
        means: Floats = np.add.reduceat(values * self.weight[:, None], first)
        return means


def read_ranks(path: Path, run: RunRecord) -> StoredRanks:
    """The ranks beside the record at `path`.

    Raises `UserError` where they are missing, cannot be read, or are not those that the record was made with.
    """
    file = ranks_path(path)
    name = below_results(file)
    columns = MEAN_RANKS if run.schema_version == 1 else COLUMNS
    stored = read_columns(file, columns)
    user, *values = (stored.values[column] for column in columns)
    targets = StoredRanks(user.astype(np.int64), *_ranks(values))
    for split, ranks in (("test", targets.raw), ("test_masked", targets.masked)):
        known = run.metrics.get(split, {})
        again = metrics_of(ranks, known, targets.weight)
        if not all(np.isclose(again[metric], value, rtol=0, atol=1e-9) for metric, value in known.items()):
            raise UserError(f"{name} does not give the {split} metrics of its record.")
    if run.ranks_sha256 not in (None, stored.sha256):
        raise UserError(f"{name} is not the file whose checksum its record has.")
    return targets


def _ranks(columns: Sequence[NDArray[Any]]) -> tuple[Ranks | Floats, Ranks | Floats]:
    """Raw and masked ranks from the columns after the users: two of mean ranks, or four."""
    if len(columns) == 2:
        raw, masked = (column.astype(np.float64) for column in columns)
        return raw, masked
    best, tied, best_masked, tied_masked = (column.astype(np.int64) for column in columns)
    return Ranks(best, tied), Ranks(best_masked, tied_masked)
