"""Readers of the plain formats and of RecBole's: TSV, CSV and Parquet files become one `Raw`.

A fault is an error that names file and row unless the recipe declares its repair; repairs are counted.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data.delimited import Delimited, Part
from benchmark.data.raw import BATCH_ROWS, Place, Raw, interactions_batch, items_batch, join_texts
from benchmark.data.recipe import Recipe
from methods.errors import UserError

TEXT_TYPES = ("token", "token_seq")
"""RecBole field types that hold text."""
_COLUMNS = ("user_id", "item_id", "timestamp")
_UNITS = {"parquet": "row"}


class Table(Protocol):
    """A file with named columns."""

    path: Path
    names: tuple[str, ...]
    """Columns that can be read."""
    texts: tuple[str, ...]
    """Columns that can be item text, in file order."""

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """Rows with the columns `wanted`; raises `UserError` when there are none."""


def read_tables(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> Raw:
    """Read a file of interactions and one of items: TSV, CSV, Parquet, or RecBole's atomic files."""
    interactions, items = files["interactions"], files["items"]
    unit = _UNITS.get(recipe.format, "line")
    return Raw(
        interactions=_interactions(interactions, recipe, repairs),
        items=item_batches(items, recipe, repairs),
        place=partial(_place, interactions, unit),
        item_place=partial(_place, items, unit),
        repairs=repairs,
    )


def _place(path: Path, unit: str, row: int) -> Place:
    return Place(path, f"{unit} {row}")


def _interactions(path: Path, recipe: Recipe, repairs: Counter[str]) -> Iterator[Any]:
    table = open_table(path, recipe, repairs)
    need(table, *_COLUMNS)
    place = partial(_place, path, _UNITS.get(recipe.format, "line"))
    first_bad, any_row = 0, False
    for part in table.parts(_COLUMNS):
        users, items, written = (part.columns[name] for name in _COLUMNS)
        times = _numbers(written)
        named = _filled(users) & _filled(items)
        good = named & np.isfinite(times)
        if not good.all():
            first = int(np.argmin(good))
            if recipe.bad_rows == "error":
                shown = written[first].as_py()
                fault = (
                    f"timestamp '{'' if shown is None else shown}' is not a number"
                    if named[first]
                    else "user_id or item_id is empty"
                )
                raise UserError(
                    f"{place(int(part.rows[first]))}: {fault}; mend the row, or set bad_rows = "
                    '"skip" in the recipe.'
                )
            first_bad = first_bad or int(part.rows[first])
            repairs["bad rows skipped"] += int((~good).sum())
            users, items, written = (part.columns[name].filter(pa.array(good)) for name in _COLUMNS)
            times = _numbers(written)  # whole where only the bad ones were not
        if len(times):
            any_row = True
            yield interactions_batch(users, items, times, part.rows[good])
    if not any_row:
        raise UserError(
            f"{path} has no usable rows: all of them were skipped, the first at {place(first_bad)}."
        )


def _numbers(written: Any) -> npt.NDArray[Any]:
    """Times `[n]`: int64 where all are whole, else float64, NaN where one is no number."""
    if not pa.types.is_string(written.type):
        kind = pa.float64() if written.null_count or pa.types.is_floating(written.type) else pa.int64()
        numbers: npt.NDArray[Any] = pc.fill_null(written.cast(kind), np.nan if written.null_count else 0)
        return np.asarray(numbers)
    hexadecimal = pc.any(pc.match_substring(written, "x", ignore_case=True)).as_py()
    for kind in () if hexadecimal else (pa.int64(), pa.float64()):  # Arrow reads 0x10 as a number
        try:
            return np.asarray(written.cast(kind))
        except pa.ArrowInvalid:
            continue
    import pandas as pd

    series = pd.Series(written.to_pylist(), dtype=object)
    coerced = pd.to_numeric(series, errors="coerce").to_numpy()
    return coerced if coerced.dtype == np.int64 else coerced.astype(np.float64)


def _filled(names: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.binary_length(names)) > 0


def item_batches(path: Path, recipe: Recipe, repairs: Counter[str]) -> Iterator[Any]:
    """Batches of the items of a file, in its order; raises `UserError` as `read_tables` does."""
    table = open_table(path, recipe, repairs)
    need(table, "item_id", *recipe.text_fields)
    chosen = recipe.text_fields or tuple(name for name in table.texts if name != "item_id")
    if not chosen:
        raise UserError(f"{path} has no text column; give each item at least a title.")
    place = partial(_place, path, _UNITS.get(recipe.format, "line"))
    for part in table.parts(tuple(dict.fromkeys(("item_id", *chosen)))):
        good = _filled(part.columns["item_id"])
        if not good.all():
            if recipe.bad_rows == "error":
                raise UserError(
                    f"{place(int(part.rows[int(np.argmin(good))]))}: item_id is empty; fill it in, or set "
                    'bad_rows = "skip" in the recipe.'
                )
            repairs["bad rows skipped"] += int((~good).sum())
        columns = {name: column.filter(pa.array(good)) for name, column in part.columns.items()}
        yield items_batch(columns["item_id"], join_texts([columns[name] for name in chosen]), part.rows[good])


def need(table: Table, *names: str) -> None:
    """Raise `UserError` unless the table has all the columns."""
    for name in names:
        if name not in table.names:
            near = difflib.get_close_matches(name, table.names, n=1)
            hint = f" Rename '{near[0]}'?" if near else ""
            have = ", ".join(table.names)
            raise UserError(f"{table.path} has no column '{name}'; its columns are {have}.{hint}")


def open_table(path: Path, recipe: Recipe, repairs: Counter[str]) -> Table:
    """A file of the recipe's format."""
    if recipe.format == "parquet":
        return _Parquet(path)
    comma, typed = recipe.format == "csv", recipe.format in ("recbole", "unisrec")
    return _DelimitedTable(path, "," if comma else "\t", recipe, repairs, typed)


class _DelimitedTable:
    """TSV, CSV or (`typed`) a RecBole atomic file, whose header cells are `name:type`."""

    def __init__(
        self, path: Path, delimiter: str, recipe: Recipe, repairs: Counter[str], typed: bool = False
    ) -> None:
        self.path = path
        self._file = Delimited(path, delimiter, recipe, repairs)
        self.names, self.texts = _header(self._file.header, path, typed)

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """Rows with the columns `wanted`; raises `UserError` when there are none."""
        return self._file.parts(self.names, wanted)


def _header(cells: list[str], path: Path, typed: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Column names, and those that can be text."""
    split = [cell.partition(":") for cell in cells]
    names = tuple(name for name, _, _ in split) if typed else tuple(cells)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}, line 1: the column '{name}' occurs twice; rename one.")
    for cell, (_, _, kind) in zip(cells, split, strict=True):
        if typed and kind not in (*TEXT_TYPES, "float", "float_seq"):
            raise UserError(
                f"{path}, line 1: the header cell '{cell}' is not name:type; types are "
                f"{', '.join(TEXT_TYPES)}, float, float_seq."
            )
    if typed:
        return names, tuple(name for name, _, kind in split if kind in TEXT_TYPES)
    return names, names


class _Parquet:
    """A Parquet file: columns of text, numbers and times; others are as if they were not there."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        if not self._file.metadata.num_rows:
            raise UserError(f"{path} has no rows.")
        kinds = {field.name: _value_type(field.type) for field in self._file.schema_arrow}
        self.names = tuple(name for name, kind in kinds.items() if _is_text(kind) or _is_number(kind))
        self.texts = tuple(name for name, kind in kinds.items() if _is_text(kind))

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} is not a readable Parquet file: {str(error).splitlines()[0]}")

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """Rows with the columns `wanted`: times as numbers, the others as text, nulls as empty text."""
        done = 1
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, columns=list(wanted)):
                columns = {name: _plain(batch.column(name), name == "timestamp") for name in wanted}
                yield Part(columns, np.arange(done, done + len(batch), dtype=np.int64))
                done += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp, pa.types.is_date)
    return any(test(kind) for test in tests)


def _plain(column: Any, is_time: bool) -> Any:
    kind = _value_type(column.type)
    column = column.cast(kind)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    if is_time and not _is_text(kind):
        return column
    return pc.fill_null(column.cast(pa.string()), "")
