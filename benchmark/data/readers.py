"""Readers: files of every supported format become one `Raw`, with each fault named by file and row.

A fault is an error unless the recipe declares its repair; repairs are counted in `Raw.repairs`.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmark.data.recipe import Recipe
from methods.errors import UserError

TEXT_TYPES = ("token", "token_seq")
"""RecBole field types that hold text."""
_LIST_FIELD = "item_id_list"


@dataclass
class Table:
    """Columns of text read from one file."""

    path: Path
    columns: dict[str, list[str]]
    rows: npt.NDArray[np.int64]
    """`[N]`, where each row begins in the file, from 1."""
    unit: str
    """What `rows` counts: `line`, or `row` where a file has no lines."""
    texts: tuple[str, ...]
    """Columns that can be item text, in file order."""

    def at(self, index: int) -> str:
        """Where row `index` of the table stands, for an error."""
        return f"{self.path}, {self.unit} {self.rows[index]}"

    def need(self, *names: str) -> None:
        """Raise `UserError` unless all the columns are there."""
        for name in names:
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, n=1)
                hint = f" Rename '{near[0]}'?" if near else ""
                have = ", ".join(self.columns)
                raise UserError(f"{self.path} has no column '{name}'; its columns are {have}.{hint}")

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Keep the rows where `mask` `[N]` is true."""
        kept = np.flatnonzero(mask)
        self.columns = {name: [values[i] for i in kept] for name, values in self.columns.items()}
        self.rows = self.rows[kept]


@dataclass
class Raw:
    """Interactions and items as they stand in the files, faults mended or refused."""

    users: list[str]
    """`[N]` user id of each interaction, in file order."""
    items: list[str]
    """`[N]` item id."""
    times: npt.NDArray[Any]
    """`[N]` int64 or float64, finite."""
    places: Table
    """Where interaction n stands: `places.at(n)`."""
    item_ids: list[str]
    """`[I]`, without duplicates, in file order."""
    texts: list[str]
    """`[I]` joined text, whitespace normalised; empty where there is none."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Repair -> how often it was made."""


def read_tables(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> Raw:
    """Read a file of interactions and one of items: TSV, CSV, Parquet, or RecBole's atomic files."""
    places, items = (_table(files[role], recipe, repairs) for role in ("interactions", "items"))
    times = check_interactions(places, recipe, repairs)
    item_ids, texts = check_items(items, recipe, repairs)
    users = places.columns["user_id"]
    return Raw(users, places.columns["item_id"], times, places, item_ids, texts, repairs)


def _table(path: Path, recipe: Recipe, repairs: Counter[str]) -> Table:
    if recipe.format == "parquet":
        return read_parquet(path)
    comma = recipe.format == "csv"
    typed = recipe.format == "recbole"
    return read_delimited(path, "," if comma else "\t", recipe, repairs, typed=typed)


def read_text(path: Path, recipe: Recipe, repairs: Counter[str]) -> str:
    """The file's text, a byte order mark dropped; undecodable bytes are refused, or replaced and counted."""
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error
    if not data.strip():
        raise UserError(f"{path} is empty; it needs a header line and rows.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if recipe.bad_bytes == "error":
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8, "
                f'or set bad_bytes = "replace" in the recipe.'
            ) from error
    text = data.decode(errors="replace")
    repairs["undecodable bytes replaced"] += text.count("\ufffd") - data.count("\ufffd".encode())
    return text


def read_delimited(
    path: Path, delimiter: str, recipe: Recipe, repairs: Counter[str], typed: bool = False
) -> Table:
    """Read TSV, CSV or (`typed`) a RecBole atomic file, whose header cells are `name:type`."""
    text = read_text(path, recipe, repairs)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if recipe.quotes == "none" else csv.QUOTE_MINIMAL
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters; ours is `max_text`
    # newline="" leaves line ends to the csv module, so that one inside quotes does not end a row.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    lines = _numbered(reader, path, recipe, repairs)
    _, header = next(lines)
    names, texts = _header(header, path, typed)
    rows, numbers = [], []
    for number, row in lines:
        if len(row) == len(names):
            rows.append(row)
            numbers.append(number)
        elif recipe.bad_rows == "skip":
            repairs["bad rows skipped"] += 1
        else:
            raise UserError(
                f"{path}, line {number}: {len(row)} fields where the header has {len(names)}; quote a field "
                'that holds the delimiter, or set bad_rows = "skip" in the recipe.'
            )
    if not rows:
        raise UserError(f"{path} has a header but no {'usable ' if repairs else ''}rows.")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return Table(path, columns, np.asarray(numbers, dtype=np.int64), "line", texts)


def _numbered(
    reader: Any, path: Path, recipe: Recipe, repairs: Counter[str]
) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line that each begins on."""
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            open_quote = "unexpected end" in str(error)
            # An unclosed quote swallows the rest of the file: never a row to skip.
            if recipe.bad_rows == "skip" and not open_quote and number > 1:
                repairs["bad rows skipped"] += 1
                continue
            fault = "a quoted field is never closed" if open_quote else f"bad quoting ({error})"
            raise UserError(
                f"{path}, line {number}: {fault}; double the quotes inside a quoted field, or set "
                'quotes = "none" in the recipe if they are ordinary characters.'
            ) from error
        if row:
            yield number, row


def _header(cells: list[str], path: Path, typed: bool) -> tuple[list[str], tuple[str, ...]]:
    """Column names, and those that can be text."""
    split = [cell.partition(":") for cell in cells]
    names = [name for name, _, _ in split] if typed else cells
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
    return names, tuple(names)


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; columns of text, numbers and times become text, nulls become empty."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from error
    if not table.num_rows:
        raise UserError(f"{path} has no rows.")
    columns, texts = {}, []
    for name in table.column_names:
        kind = table.schema.field(name).type
        column = table.column(name)
        if pa.types.is_dictionary(kind):
            kind, column = kind.value_type, column.cast(kind.value_type)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            texts.append(name)
        elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            column = column.cast(pa.timestamp("ns")).cast(pa.int64())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            continue  # neither an id, nor a time, nor text: `need` names it if it was wanted
        columns[name] = pc.fill_null(column.cast(pa.string()), "").to_pylist()
    rows = np.arange(1, table.num_rows + 1, dtype=np.int64)
    return Table(path, columns, rows, "row", tuple(texts))


def check_interactions(table: Table, recipe: Recipe, repairs: Counter[str]) -> npt.NDArray[Any]:
    """Times `[N]` of the interactions, int64 where all are whole; drops bad rows where the recipe says so."""
    import pandas as pd

    table.need("user_id", "item_id", "timestamp")
    written = table.columns["timestamp"]
    times = pd.to_numeric(pd.Series(written, dtype=object), errors="coerce").to_numpy()
    whole = np.array(
        [bool(u and i) for u, i in zip(table.columns["user_id"], table.columns["item_id"], strict=True)]
    )
    good = whole & np.isfinite(times.astype(np.float64))
    if good.all():
        return times
    first = int(np.flatnonzero(~good)[0])
    if recipe.bad_rows == "error":
        fault = (
            f"timestamp '{written[first]}' is not a number" if whole[first] else "user_id or item_id is empty"
        )
        raise UserError(f'{table.at(first)}: {fault}; mend the row, or set bad_rows = "skip" in the recipe.')
    repairs["bad rows skipped"] += int((~good).sum())
    table.keep(good)
    kept = pd.to_numeric(pd.Series(table.columns["timestamp"], dtype=object)).to_numpy()
    if not len(kept):
        raise UserError(
            f"{table.path} has no usable rows: all of them were skipped, the first at {table.at(first)}."
        )
    return kept


def check_items(table: Table, recipe: Recipe, repairs: Counter[str]) -> tuple[list[str], list[str]]:
    """Item ids `[I]` without duplicates, and their texts `[I]`."""
    table.need("item_id")
    ids = table.columns["item_id"]
    good = np.array([bool(name) for name in ids])
    if not good.all():
        if recipe.bad_rows == "error":
            where = table.at(int(np.flatnonzero(~good)[0]))
            raise UserError(f'{where}: item_id is empty; fill it in, or set bad_rows = "skip" in the recipe.')
        repairs["bad rows skipped"] += int((~good).sum())
        table.keep(good)
    _drop_duplicates(table, recipe, repairs)
    return table.columns["item_id"], _join_texts(table, recipe, repairs)


def _drop_duplicates(table: Table, recipe: Recipe, repairs: Counter[str]) -> None:
    seen: dict[str, int] = {}
    first = np.ones(len(table.rows), dtype=bool)
    for index, name in enumerate(table.columns["item_id"]):
        earlier = seen.setdefault(name, index)
        if earlier == index:
            continue
        if recipe.duplicate_items == "error":
            raise UserError(
                f"{table.at(index)}: item_id '{name}' is already on {table.unit} {table.rows[earlier]}; "
                'remove one, or set duplicate_items = "first" in the recipe.'
            )
        first[index] = False
    if not first.all():
        repairs["duplicate items dropped"] += int((~first).sum())
        table.keep(first)


def _join_texts(table: Table, recipe: Recipe, repairs: Counter[str]) -> list[str]:
    """`[I]` texts: the fields joined by a space in the declared order, runs of whitespace made one space."""
    table.need(*recipe.text_fields)
    chosen = recipe.text_fields or tuple(name for name in table.texts if name != "item_id")
    if not chosen:
        raise UserError(f"{table.path} has no text column; give each item at least a title.")
    texts = [
        " ".join(" ".join(parts).split())
        for parts in zip(*(table.columns[name] for name in chosen), strict=True)
    ]
    for index, text in enumerate(texts):
        if len(text) > recipe.max_text:
            if recipe.long_texts == "error":
                raise UserError(
                    f"{table.at(index)}: the text has {len(text):,} characters, {recipe.max_text:,} are "
                    'allowed; shorten it, raise max_text, or set long_texts = "cut" in the recipe.'
                )
            texts[index] = text[: recipe.max_text].rstrip()
            repairs["long texts cut"] += 1
    return texts
