"""The stored per-user ranks of runs, checked against their records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.results.metrics import Floats, Ranks, measure, metrics_of
from benchmark.results.record import RunRecord, Stored, below_results, ranks_path
from methods.errors import UserError

COLUMNS = ("user", "rank", "tied", "rank_masked", "tied_masked")
MEAN_RANKS = ("user", "rank", "rank_masked")
"""Columns beside records of schema version 1: mean ranks of ties."""


@dataclass(frozen=True)
class UserRanks:
    """Test ranks of one run, in the order of users: `[U]` each; arrays are mean ranks of ties."""

    user: NDArray[np.int64]
    raw: Ranks | Floats
    masked: Ranks | Floats


def read_ranks(path: Path, run: RunRecord) -> UserRanks:
    """The ranks beside the record at `path`.

    Raises `UserError` where they are missing, cannot be read, or are not those that the record was made with.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = ranks_path(path)
    name = below_results(file)
    columns = MEAN_RANKS if run.schema_version == 1 else COLUMNS
    try:
        data = file.read_bytes()
        # by this thread alone: Arrow's own may be there when the interpreter ends, and then abort it
        file_of_ranks = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        table = file_of_ranks.read(columns=list(columns), use_threads=False)
        user, *values = (table.column(column).to_numpy() for column in columns)
    except FileNotFoundError as error:
        raise UserError(f"{name} is missing.") from error
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{name} cannot be read: it is no table of {', '.join(columns)}.") from error
    if not len(user) or len(np.unique(user)) != len(user):
        raise UserError(f"{name} does not have each user once.")
    found = UserRanks(user.astype(np.int64), *_ranks(values))
    for split, ranks in (("test", found.raw), ("test_masked", found.masked)):
        known = run.metrics.get(split, {})
        again = metrics_of(ranks, known)
        if not all(np.isclose(again[metric], value, rtol=0, atol=1e-9) for metric, value in known.items()):
            raise UserError(f"{name} does not give the {split} metrics of its record.")
    if run.ranks_sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise UserError(f"{name} is not the file whose checksum its record has.")
    order = np.argsort(found.user, kind="stable")
    return UserRanks(found.user[order], found.raw[order], found.masked[order])


def _ranks(columns: Sequence[NDArray[Any]]) -> tuple[Ranks | Floats, Ranks | Floats]:
    """Raw and masked ranks from the columns after the users: two of mean ranks, or four."""
    if len(columns) == 2:
        raw, masked = (column.astype(np.float64) for column in columns)
        return raw, masked
    best, tied, best_masked, tied_masked = (column.astype(np.int64) for column in columns)
    return Ranks(best, tied), Ranks(best_masked, tied_masked)


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
    runs: Sequence[Stored], metrics: Sequence[str], masked: bool = False
) -> tuple[UserGains | None, list[str]]:
    """Gains of the runs of one configuration, one a seed, and why ranks of some could not be used.

    Seeds are repeated measures of the same users: they are averaged user by user, never stacked, so that `U`
    is the number of users whatever the number of seeds. None where no run has usable ranks.
    """
    users: NDArray[np.int64] | None = None
    found: dict[int, Floats] = {}
    faults = []
    for path, run in runs:
        try:
            ranks = read_ranks(path, run)
        except UserError as error:
            faults.append(str(error))
            continue
        if users is not None and not np.array_equal(users, ranks.user):
            faults.append(f"{below_results(ranks_path(path))} has other users than the other seeds.")
            continue
        users = ranks.user
        chosen = ranks.masked if masked else ranks.raw
        found[run.seed] = np.stack([measure(metric).gains(chosen) for metric in metrics], axis=1)
    if users is None:
        return None, faults
    mean = np.mean(list(found.values()), axis=0)
    return UserGains(users, mean, {seed: values.mean(0) for seed, values in found.items()}), faults
