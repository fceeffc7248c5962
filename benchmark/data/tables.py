"""Reader of TSV, CSV, Parquet and RecBole files.

A fault is an error that names file and row unless the recipe declares its repair; repairs are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data.formats import COLUMNS, MAPPED, SEPARATED, SUFFIXES
from benchmark.data.parquet import ParquetTable
from benchmark.data.raw import RawData, RawFile, interactions_batch, items_batch, join_texts
from benchmark.data.recipe import UNUSED, Recipe, mapping_hint
from benchmark.data.text_files import Delimited
from benchmark.data.timestamps import Times
from methods.errors import UserError

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
    column = recipe.column(missing[0])
    fault = f"{table.file.path} has no column '{column}'"
    if column != missing[0]:
        raise UserError(f"{fault}, which is to be {missing[0]}; its columns are {', '.join(table.columns)}.")
    if len(table.columns) == 1 and recipe.format in SEPARATED:
        for character in ";,|\t":
            if character in table.columns[0]:
                shown = character.replace("\t", "\\t")
                raise UserError(
                    f"{fault}: its first line is one column, {table.columns[0]!r}; name what is between the "
                    f"columns with --separator '{shown}', or separator = \"{shown}\" in recipe.toml."
                )
    hint = f"; {mapping_hint(missing, table.columns)}" if recipe.format in MAPPED else ""
    raise UserError(f"{fault}; its columns are {', '.join(table.columns)}{hint}.")


def open_table(file: RawFile) -> TableFile:
    """A file of the recipe's format."""
    recipe = file.recipe
    if recipe.format == "parquet":
        return ParquetTable(file)
    delimiter = recipe.separator or ("," if recipe.format == "csv" else "\t")
    return Delimited(file, delimiter, typed=recipe.format in SUFFIXES)
