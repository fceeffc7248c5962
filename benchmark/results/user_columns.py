"""Parquet files beside a record with a value, or a list of equal length, for each test target."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.files import write_atomically
from benchmark.results.record import below_results
from methods.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


POSITION = "position"
"""Column with the position of each target in its user's sequence; where a user has several targets."""


@dataclass(frozen=True)
class UserColumns:
    """What such a file holds."""

    values: dict[str, NDArray[Any]]
    """Column -> `[T]`, or `[T, L]` for a column of lists, in the order of the key."""
    numbers: dict[str, int]
    """Name -> a whole number of the data, which holds for all targets."""
    sha256: str
    """Digest of the file."""


def write_columns(
    file: Path, values: Mapping[str, NDArray[Any]], numbers: Mapping[str, int] | None = None
) -> str:
    """Write columns `[T]` or `[T, L]`, with `numbers` in the file's metadata: -> SHA-256 of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _to_arrow(column) for name, column in values.items()})
    if numbers:
        table = table.replace_schema_metadata({name: str(number) for name, number in numbers.items()})
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
    file: Path, columns: Collection[str], numbers: Collection[str] = (), position: str = POSITION
) -> UserColumns:
    """The named columns and numbers of a file, its rows by user and then by the column `position`.

    A file without this column has one row for each user. Raises `UserError` where the file is missing, lacks
    a column or number, or has a target twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = below_results(file)
    try:
        data = file.read_bytes()
        # by this thread alone: Arrow's own may be there when the interpreter ends, and then abort it
        parquet = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        keys = ["user", *({position} & set(parquet.schema_arrow.names))]
        table = parquet.read(columns=[*columns, *keys], use_threads=False)
        values = {column: _to_numpy(table.column(column)) for column in {*columns, *keys}}
        metadata = table.schema.metadata or {}
        known = {number: int(metadata[number.encode()]) for number in numbers}
    except FileNotFoundError as error:
        raise UserError(f"{name} is missing.") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{name} cannot be read: it is no table of {', '.join(columns)}.") from error
    order = np.lexsort([values[key] for key in reversed(keys)])
    targets = np.stack([values[key][order] for key in keys])  # [1 or 2, T]
    if not len(order) or (targets[:, 1:] == targets[:, :-1]).all(axis=0).any():
        raise UserError(f"{name} does not have each {'user' if len(keys) == 1 else 'target'} once.")
    values = {column: value[order] for column, value in values.items()}
    return UserColumns(values, known, hashlib.sha256(data).hexdigest())


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """`[T]`, or `[T, L]` of a column of lists of equal length."""
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(flat).reshape(len(column), column.type.list_size)
