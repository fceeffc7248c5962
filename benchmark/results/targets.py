"""The files beside a record with a value or a list for each test target: its ranks, the best items for it.

A list leaves out the user's history, but never the target. Equal scores stand in the order of item indices.
The file of lists also has what the measures of lists need of the data, so that they need no prepared dataset.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.files import write_atomically
from benchmark.results.list_metrics import TOP, ListMeasure
from benchmark.results.metrics import Floats, Ranks, metrics_of, of_lists, target_weights
from benchmark.results.record import RunRecord, below_results, ranks_path, top_path
from methods.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

POSITION = "position"
"""Column with the position of each target in its user's sequence; where a user has several targets."""
RANKS = ("user", "rank", "tied", "rank_masked", "tied_masked")
MEAN_RANKS = ("user", "rank", "rank_masked")
"""Columns beside records of schema version 1: mean ranks of ties."""
NO_ITEM = -1
"""Fills a list where fewer items than TOP are left."""
PER_TARGET = ("user", "target", "history")
PER_PLACE = ("items", "scores")
"""Columns of the file of lists."""
TRAINED = "trained"
"""What its metadata have: the training interactions of each item, int32 in zlib in base64."""
OLDER = ("target_count", "counts")
"""What files of an earlier version have instead: those of each target and of each place, as columns, and the
numbers `catalogue` and `interactions`."""


@dataclass(frozen=True)
class UserColumns:
    """What such a file holds."""

    values: dict[str, NDArray[Any]]
    """Column -> `[T]`, or `[T, L]` for a column of lists, in the order of the key."""
    metadata: dict[str, str]
    """What holds for all targets."""
    sha256: str
    """Digest of the file."""


def write_columns(
    file: Path, values: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> str:
    """Write columns `[T]` or `[T, L]`: -> SHA-256 of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _to_arrow(column) for name, column in values.items()})
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_atomically(file, data)
    return hashlib.sha256(data).hexdigest()


def _to_arrow(column: NDArray[Any]) -> pa.Array:
    """As `pa.array`, which would import pandas."""
    import pyarrow as pa

    flat = np.ascontiguousarray(column).reshape(-1)
    array = pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])
    return array if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(array, column.shape[1])


def read_columns(
    file: Path, columns: Collection[str], optional: Collection[str] = (), position: str = POSITION
) -> UserColumns:
    """The named columns of a file, and those `optional` ones that it has, its rows by user and then by the
    column `position`.

    A file without this column has one row for each user. Raises `UserError` where the file is missing, lacks
    a column, or has a target twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = below_results(file)
    try:
        data = file.read_bytes()
        # by this thread alone: Arrow's own may be there when the interpreter ends, and then abort it
        parquet = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        names = set(parquet.schema_arrow.names)
        keys = ["user", *({position} & names)]
        wanted = {*columns, *keys, *(names & {*optional})}
        table = parquet.read(columns=[*wanted], use_threads=False)
        values = {column: _to_numpy(table.column(column)) for column in wanted}
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except FileNotFoundError as error:
        raise UserError(f"{name} is missing.") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{name} cannot be read: it is no table of {', '.join(columns)}.") from error
    order = np.lexsort([values[key] for key in reversed(keys)])
    targets = np.stack([values[key][order] for key in keys])  # [1 or 2, T]
    if not len(order) or (targets[:, 1:] == targets[:, :-1]).all(axis=0).any():
        raise UserError(f"{name} does not have each {'user' if len(keys) == 1 else 'target'} once.")
    values = {column: value[order] for column, value in values.items()}
    return UserColumns(values, metadata, hashlib.sha256(data).hexdigest())


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """`[T]`, or `[T, L]` of a column of lists of equal length."""
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(flat).reshape(len(column), column.type.list_size)


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
    targets, sha256 = load_ranks(path, run)
    name = below_results(ranks_path(path))
    for split, ranks in (("test", targets.raw), ("test_masked", targets.masked)):
        known = run.metrics.get(split, {})
        again = metrics_of(ranks, known, targets.weight)
        if not all(np.isclose(again[metric], value, rtol=0, atol=1e-9) for metric, value in known.items()):
            raise UserError(f"{name} does not give the {split} metrics of its record.")
    if run.ranks_sha256 not in (None, sha256):
        raise UserError(f"{name} is not the file whose checksum its record has.")
    return targets


def load_ranks(path: Path, run: RunRecord) -> tuple[StoredRanks, str]:
    """The ranks beside the record at `path`, compared with nothing, and the SHA-256 of their file.

    Raises `UserError` where they are missing or cannot be read.
    """
    columns = MEAN_RANKS if run.schema_version == 1 else RANKS
    stored = read_columns(ranks_path(path), columns)
    user, *values = (stored.values[column] for column in columns)
    return StoredRanks(user.astype(np.int64), *_ranks(values)), stored.sha256


def _ranks(columns: Sequence[NDArray[Any]]) -> tuple[Ranks | Floats, Ranks | Floats]:
    """Raw and masked ranks from the columns after the users: two of mean ranks, or four."""
    if len(columns) == 2:
        raw, masked = (column.astype(np.float64) for column in columns)
        return raw, masked
    best, tied, best_masked, tied_masked = (column.astype(np.int64) for column in columns)
    return Ranks(best, tied), Ranks(best_masked, tied_masked)


@dataclass(frozen=True)
class StoredLists:
    """Lists of one run, one for each test target, by user and then by time."""

    user: NDArray[np.int32]
    """`[T]` index in the prepared data."""
    target: NDArray[np.int32]
    """`[T]` item of the test target."""
    history: NDArray[np.int32]
    """`[T]` number of interactions before the target."""
    items: NDArray[np.int32]
    """`[T, TOP]` item indices, the best first; NO_ITEM where no item is left."""
    scores: NDArray[np.float16]
    """`[T, TOP]` their scores; minus infinity where no item is left."""
    trained: NDArray[np.int32]
    """`[I]` training interactions of each item; from a file of an earlier version 0 for an item that stands
    in no list and is no target."""
    interactions: int
    """Training interactions of the dataset."""

    @property
    def catalogue(self) -> int:
        """Items of the dataset."""
        return len(self.trained)

    @property
    def target_count(self) -> NDArray[np.int32]:
        """`[T]` training interactions of the target."""
        return self.trained[self.target]

    @cached_property
    def counts(self) -> NDArray[np.int32]:
        """`[T, TOP]` training interactions of the items of the lists; 0 where no item is left."""
        return np.where(self.items == NO_ITEM, np.int32(0), self.trained[self.items])

    @cached_property
    def weight(self) -> Floats:
        """`[T]` weight of each list, by which every user has weight one."""
        return target_weights(self.user)

    @property
    def has_several(self) -> bool:
        """Whether a user has several lists."""
        return bool((self.weight < 1).any())

    def value(self, measure: ListMeasure) -> float:
        """A measure of all these lists together."""
        weight = self.weight[:, None]  # [T, 1]
        return measure.of(self.items, self.counts, self.catalogue, self.interactions, weight)


def write_lists(lists: StoredLists, record_path: Path) -> str:
    """Write them beside the record at `record_path`: -> SHA-256 of the file."""
    columns = {name: getattr(lists, name) for name in (*PER_TARGET, *PER_PLACE)}
    trained = base64.b64encode(zlib.compress(lists.trained.astype("<i4").tobytes())).decode()
    return write_columns(top_path(record_path), columns, {TRAINED: trained})


def read_lists(path: Path, run: RunRecord, ranks: StoredRanks) -> StoredLists:
    """The lists beside the record at `path`, whose ranks are `ranks`.

    Raises `UserError` where they are missing, cannot be read, or do not agree with ranks and record.
    """
    file = top_path(path)
    name = below_results(file)
    columns = (*PER_TARGET, *PER_PLACE)
    stored = read_columns(file, columns, OLDER, position="history")
    try:
        trained, interactions = _training_counts(stored)
    except (KeyError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{name} cannot be read: it has no training interactions of the items.") from error
    if fault := _fault(stored.values, len(trained)):
        raise UserError(f"{name} cannot be read: {fault}.")
    fields: dict[str, Any] = {column: stored.values[column] for column in columns}
    lists = StoredLists(**fields, trained=trained, interactions=interactions)
    if not np.array_equal(lists.user, ranks.user):
        raise UserError(f"{name} has other users than the ranks of its record.")
    if not isinstance(ranks.masked, Ranks) or not _agree(lists, ranks.masked):
        raise UserError(f"{name} does not have the targets at the ranks of its record.")
    if run.top_sha256 != stored.sha256:
        raise UserError(f"{name} is not the file whose checksum its record has.")
    return lists


def _training_counts(stored: UserColumns) -> tuple[NDArray[np.int32], int]:
    """Training interactions of each item `[I]`, as far as the file has them, and of the dataset.

    Raises an error where the file does not have them.
    """
    if TRAINED in stored.metadata:
        packed = base64.b64decode(stored.metadata[TRAINED], validate=True)
        trained = np.frombuffer(zlib.decompress(packed), "<i4").astype(np.int32)
        return trained, int(trained.sum(dtype=np.int64))
    values = stored.values
    trained = np.zeros(int(stored.metadata["catalogue"]), np.int32)
    filled = values["items"] != NO_ITEM  # [T, TOP]
    trained[values["items"][filled]] = values["counts"][filled]
    trained[values["target"]] = values["target_count"]
    return trained, int(stored.metadata["interactions"])


def _fault(values: dict[str, NDArray[Any]], catalogue: int) -> str:
    """Why columns are no lists of a catalogue of this size; empty where they are."""
    for column in PER_TARGET:
        if values[column].ndim != 1 or values[column].dtype != np.int32:
            return f"its column {column} is not int32"
    for column in PER_PLACE:
        kind = np.float16 if column == "scores" else np.int32
        if values[column].shape[1:] != (TOP,) or values[column].dtype != kind:
            return f"its column {column} has no lists of {TOP} {np.dtype(kind).name}"
    items, scores = values["items"], values["scores"]
    if items.min() < NO_ITEM or max(items.max(), values["target"].max()) >= catalogue:
        return f"it has items that are not in a catalogue of {catalogue:,}"
    ordered = np.sort(items, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM)).any():
        return "a list has an item twice"
    if not (scores[:, 1:] <= scores[:, :-1]).all():
        return "its scores are not in descending order"
    return ""


def _agree(lists: StoredLists, masked: Ranks) -> bool:
    """Whether each target whose rank has no tie stands at its rank, or is in no list where it is below."""
    alone = masked.tied == 1
    place = np.arange(1, TOP + 1)
    at_rank = place == masked.best[:, None]  # [T, TOP]
    at_target = lists.items == lists.target[:, None]  # [T, TOP]
    return bool((at_rank == at_target)[alone].all())


def without_lists(runs: Iterable[RunRecord], metrics: Sequence[str]) -> str:
    """A line that says which finished runs have no measures of lists; empty where none were asked for."""
    finished = [run for run in runs if run.status == "ok"]
    bare = [run for run in finished if run.top_sha256 is None]
    if not bare or not (names := of_lists(metrics)):
        return ""
    return (
        f"{len(bare)} of {len(finished)} finished runs stored no lists of items, so that they have no "
        f"{', '.join(names)}; --fresh runs them anew."
    )
