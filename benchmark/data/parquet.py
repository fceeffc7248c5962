"""Parquet files: columns by name, ids and texts as strings, times as they are stored.

Ids are read where every value keeps what it was; a type that lost something, or that is not read at all, is
an error that names the column, its type, and what to store it as.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data.cleaning import field_text
from benchmark.data.raw import BATCH_ROWS, RawFile
from benchmark.data.text_files import RowBlock
from methods.errors import UserError

_KINDS = {"user_id": "name", "item_id": "name", "timestamp": "time"}
_CAST = {"name": "string or int64", "time": "int64, double or timestamp", "text": "string"}
"""What a column is for -> the types to store it as."""
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""From here on a float stands for several whole numbers."""

Rows = npt.NDArray[np.int64]


class ParquetTable:
    """A Parquet file; raises `UserError` where it is damaged."""

    def __init__(self, file: RawFile) -> None:
        import pyarrow.parquet as pq  # slow to import

        self.file, path = file, file.path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        if not self._file.metadata.num_rows:
            raise UserError(f"{path} has no rows.")
        schema = self._file.schema_arrow
        self.columns = tuple(schema.names)
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            raise UserError(f"{path}: the column '{twice[0]}' occurs twice; rename one.")
        self.names = file.recipe.renamed(self.columns)
        self._types = {name: _stored(field.type) for name, field in zip(self.names, schema, strict=True)}
        self._sources = dict(zip(self.names, self.columns, strict=True))
        self.texts = tuple(name for name, kind in self._types.items() if _is_text(kind) or _is_texts(kind))
        self.no_texts = tuple(
            f"{name} ({kind})" for name, kind in self._types.items() if name not in (*self.texts, "item_id")
        )

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.file.path} is not a readable Parquet file: {str(error).splitlines()[0]}")

    def parts(self, chosen: Sequence[str]) -> Iterator[RowBlock]:
        """Rows with the columns `chosen`: times as they are stored, the others as text, nulls as no text."""
        for name in chosen:
            self._check(name)
        done = 1
        batches = self._file.iter_batches(BATCH_ROWS, columns=[self._sources[name] for name in chosen])
        while (batch := self._next(batches)) is not None:
            rows = np.arange(done, done + len(batch), dtype=np.int64)
            columns = {name: self._read(batch.column(self._sources[name]), name, rows) for name in chosen}
            yield RowBlock(columns, rows)
            done += len(batch)

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _check(self, name: str) -> None:
        """Raise where a column is of a type that is not read for what it is."""
        kind, use = self._types[name], _KINDS.get(name, "text")
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        moment = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        also = moment if use == "time" else _is_texts(kind) if use == "text" else False
        if not (number or _is_text(kind) or also):
            raise UserError(
                f"{self.file.path}: the column '{self._sources[name]}' has the type {kind}, which is not "
                f"read as {name if use != 'text' else 'text'}; store it as {_CAST[use]}."
            )

    def _read(self, column: Any, name: str, rows: Rows) -> Any:
        """A column as `parts` gives it."""
        kind, use = self._types[name], _KINDS.get(name, "text")
        column = column if column.type == kind else column.cast(kind)
        if _is_texts(kind) or _is_text(kind):
            column = self._decoded(column, name, rows)
        if _is_texts(kind):
            texts = (field_text(value, "none", self.file.repairs) for value in column.to_pylist())
            return pa.array(texts, pa.string())
        if use == "time" and not _is_text(kind):
            return column
        if use == "name" and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            column = self._whole(column, name, rows)
        return pc.fill_null(column.cast(pa.string()), "")

    def _decoded(self, column: Any, name: str, rows: Rows) -> Any:
        """A column whose texts are UTF-8; bytes that are not are refused, or replaced and counted."""
        try:
            column.validate(full=True)
            return column
        except pa.ArrowInvalid as error:
            if not _is_text(column.type):
                raise UserError(
                    f"{self.file.path}: the column '{self._sources[name]}' has bytes that are not UTF-8, "
                    f"between the rows {rows[0]:,} and {rows[-1]:,}; store its texts as UTF-8."
                ) from error
        pairs = zip(column.cast(pa.binary()).to_pylist(), rows, strict=True)
        texts = (data if data is None else self.file.decoded(data, row) for data, row in pairs)
        return pa.array(texts, pa.string())

    def _whole(self, column: Any, name: str, rows: Rows) -> Any:
        """Ids that are stored as floats or decimals, as whole numbers; NaN, pandas' gap, as a null."""
        kind = column.type
        limit = _EXACT.get(kind)
        if limit is None:  # a decimal
            wrong = np.asarray(pc.fill_null(pc.not_equal(column, pc.trunc(column)), False))
        else:
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
            values = np.asarray(pc.fill_null(column, 0), dtype=np.float64)
            wrong = (np.trunc(values) != values) | (np.abs(values) >= limit)
        if wrong.any():
            first = int(np.argmax(wrong))
            many = f", and from {limit:,} on this type cannot tell neighbours apart" if limit else ""
            raise UserError(
                f"{self.file.at(rows[first])}: the column '{self._sources[name]}' has the type {kind} and "
                f"here the value {column[first].as_py()}; ids must be whole numbers{many}. Store the column "
                f"as {_CAST['name']}, from data that never were of this type."
            )
        return column.cast(pa.decimal128(38, 0)) if limit is None else column.cast(pa.int64())


def _stored(kind: Any) -> Any:
    """The type that a column is read as: without dictionary, views and 64-bit offsets."""
    if pa.types.is_dictionary(kind):
        return _stored(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind))


def _is_texts(kind: Any) -> bool:
    """Whether the type is of lists of texts, also of lists of such lists."""
    if not hasattr(kind, "value_field"):  # which lists of all sorts have, and no other type
        return False
    inner = _stored(kind.value_type)
    return _is_text(inner) or _is_texts(inner)
