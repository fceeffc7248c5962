"""Reader of TSV, CSV, Parquet and RecBole files.

A fault is an error that names file and row unless the recipe declares its repair; repairs are counted. Ids in
Parquet are read where every value keeps what it was; a type that lost something, or that is not read at all,
is an error that names the column, its type, and what to store it as.
"""

from __future__ import annotations

import difflib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data.cleaning import field_text
from benchmark.data.formats import COLUMNS, MAPPED, SEPARATED, SUFFIXES, shortened
from benchmark.data.raw import BATCH_ROWS, RawData, RawFile, interactions_batch, items_batch, join_texts
from benchmark.data.recipe import UNUSED, Recipe
from benchmark.data.text_files import Delimited, RowBlock
from benchmark.data.timestamps import Times
from methods.errors import UserError

_USES = {"user_id": "name", "item_id": "name", "timestamp": "time"}
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
        kind, use = self._types[name], _USES.get(name, "text")
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
        kind, use = self._types[name], _USES.get(name, "text")
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


TableFile = Delimited | ParquetTable
"""A file with named columns: both kinds have the same attributes and `parts`."""


def read_tables(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> RawData:
    """Read a file of interactions and one of items: TSV, CSV, Parquet, or RecBole's atomic files."""
    interactions, items = (raw_file(files[role], recipe, repairs) for role in ("interactions", "items"))
    batches = _interactions(interactions, items)
    return RawData(batches, item_batches(items), interactions.at, items.at, repairs)


def raw_file(path: Path, recipe: Recipe, repairs: Counter[str]) -> RawFile:
    """A file of the recipe's format."""
    return RawFile(path, recipe, repairs, "row" if recipe.format == "parquet" else "line")


def _interactions(file: RawFile, items_file: RawFile) -> Iterator[Any]:
    table, times_of = open_table(file), Times()
    _require_interaction_columns(table, items_file)
    first_bad, any_row = 0, False
    for part in table.parts(COLUMNS):
        users, items, written = (part.columns[name] for name in COLUMNS)
        times = times_of.read(written)
        named = _filled(users) & _filled(items)
        good = named & np.isfinite(times)
        if not good.all():
            first = int(np.argmin(good))
            fault = times_of.fault(written[first]) if named[first] else "user_id or item_id is empty"
            file.skip_or_raise(int(part.rows[first]), fault, count=int((~good).sum()))
            first_bad = first_bad or int(part.rows[first])
            users, items, written = (part.columns[name].filter(pa.array(good)) for name in COLUMNS)
            times = times_of.read(written)  # whole where only the bad ones were not
        if len(times):
            any_row = True
            yield interactions_batch(users, items, times, part.rows[good])
    if not any_row:
        raise UserError(
            f"{file.path} has no usable rows: all of them were skipped, the first at {file.at(first_bad)}."
        )


def _require_interaction_columns(table: TableFile, items: RawFile) -> None:
    """As `require_columns`, but `item_id` may have its other name in the file of items alone."""
    column = items.recipe.column("item_id")
    other = column not in table.columns and "item_id" in table.columns
    items_have_it = other and column in open_table(replace(items, repairs=Counter())).columns
    require_columns(table, *(name for name in COLUMNS if name != "item_id" or not items_have_it))


def _filled(names: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.binary_length(names)) > 0


def item_batches(file: RawFile) -> Iterator[Any]:
    """Batches of the items of a file, in its order; raises `UserError` as `read_tables` does."""
    table, text_fields = open_table(file), file.recipe.text_fields
    # where only the interactions have the other name, the items have ours
    require_columns(table, *text_fields, *(() if "item_id" in table.names else ("item_id",)))
    others = tuple(name for name in table.texts if name != "item_id" and not name.startswith(UNUSED))
    chosen = text_fields or others
    if not chosen:
        unread = f": {', '.join(table.no_texts)} cannot be text" if table.no_texts else ""
        raise UserError(f"{file.path} has no text column{unread}; give each item at least a title.")
    for part in table.parts(tuple(dict.fromkeys(("item_id", *chosen)))):
        good = _filled(part.columns["item_id"])
        if not good.all():
            first = int(part.rows[int(np.argmin(good))])
            file.skip_or_raise(first, "item_id is empty", "fill it in", int((~good).sum()))
        columns = {name: column.filter(pa.array(good)) for name, column in part.columns.items()}
        yield items_batch(columns["item_id"], join_texts([columns[name] for name in chosen]), part.rows[good])


def require_columns(table: TableFile, *names: str) -> None:
    """Raise `UserError` unless the table has all the columns, under the names that the recipe gives them."""
    recipe = table.file.recipe
    missing = [name for name in names if recipe.column(name) not in table.columns]
    if not missing:
        return
    listed = shortened(", ".join(table.columns), 500)
    column = recipe.column(missing[0])
    fault = f"{table.file.path} has no column '{column}'"
    if column != missing[0]:
        raise UserError(f"{fault}, which is to be {missing[0]}; its columns are {listed}.")
    if len(table.columns) == 1 and recipe.format in SEPARATED:
        for character in ";,|\t":
            if character in table.columns[0]:
                shown = character.replace("\t", "\\t")
                raise UserError(
                    f"{fault}: its first line is one column, {shortened(repr(table.columns[0]), 500)}; "
                    f"name what is between the columns with --separator '{shown}'"
                    + (f', or separator = "{shown}" in recipe.toml.' if recipe.source else ".")
                )
    hint = f"; {_mapping_hint(missing, table.columns)}" if recipe.format in MAPPED else ""
    more = ", or in a table [columns] of recipe.toml" if hint and recipe.source else ""
    raise UserError(f"{fault}; its columns are {listed}{hint}{more}.")


def open_table(file: RawFile) -> TableFile:
    """A file of the recipe's format."""
    recipe = file.recipe
    if recipe.format == "parquet":
        return ParquetTable(file)
    delimiter = recipe.separator or ("," if recipe.format == "csv" else "\t")
    return Delimited(file, delimiter, typed=recipe.format in SUFFIXES)


def _mapping_hint(needed: Iterable[str], have: Iterable[str]) -> str:
    """What to do about columns that have other names: an option to copy, the likely columns filled in."""
    columns = list(have)
    likely = ((name, difflib.get_close_matches(name, columns, n=1)) for name in needed)
    pairs = ",".join(f"{name}={near[0] if near else 'COLUMN'}" for name, near in likely)
    return f"name yours with --columns {shlex.quote(pairs)}"
