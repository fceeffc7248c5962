"""The stored per-user ranks of runs, checked against their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.results.metrics import Floats, Ranks, metrics_of
from benchmark.results.record import RunRecord, below_results, ranks_path
from benchmark.results.user_columns import read_columns
from methods.errors import UserError

COLUMNS = ("user", "rank", "tied", "rank_masked", "tied_masked")
MEAN_RANKS = ("user", "rank", "rank_masked")
"""Columns beside records of schema version 1: mean ranks of ties."""


@dataclass(frozen=True)
class StoredRanks:
    """Test ranks of one run, in the order of users: `[U]` each; arrays are mean ranks of ties."""

    user: NDArray[np.int64]
    raw: Ranks | Floats
    masked: Ranks | Floats


def read_ranks(path: Path, run: RunRecord) -> StoredRanks:
    """The ranks beside the record at `path`.

    Raises `UserError` where they are missing, cannot be read, or are not those that the record was made with.
    """
    file = ranks_path(path)
    name = below_results(file)
    columns = MEAN_RANKS if run.schema_version == 1 else COLUMNS
    stored = read_columns(file, columns)
    user, *values = stored.values.values()
    unsorted = StoredRanks(user.astype(np.int64), *_ranks(values))
    for split, ranks in (("test", unsorted.raw), ("test_masked", unsorted.masked)):
        known = run.metrics.get(split, {})
        again = metrics_of(ranks, known)
        if not all(np.isclose(again[metric], value, rtol=0, atol=1e-9) for metric, value in known.items()):
            raise UserError(f"{name} does not give the {split} metrics of its record.")
    if run.ranks_sha256 not in (None, stored.sha256):
        raise UserError(f"{name} is not the file whose checksum its record has.")
    order = np.argsort(unsorted.user, kind="stable")
    return StoredRanks(unsorted.user[order], unsorted.raw[order], unsorted.masked[order])


def _ranks(columns: Sequence[NDArray[Any]]) -> tuple[Ranks | Floats, Ranks | Floats]:
    """Raw and masked ranks from the columns after the users: two of mean ranks, or four."""
    if len(columns) == 2:
        raw, masked = (column.astype(np.float64) for column in columns)
        return raw, masked
    best, tied, best_masked, tied_masked = (column.astype(np.int64) for column in columns)
    return Ranks(best, tied), Ranks(best_masked, tied_masked)
