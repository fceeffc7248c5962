"""What a reader returns: interactions and items as streams of Arrow batches, with repaired rows.

A reader is a function `read(files, recipe, repairs) -> RawData`. It handles what can be wrong in a row
(bytes, fields, an empty id, a timestamp that is no number). What is wrong between rows (an item twice, an
interaction with an unknown item) and texts that are too long are handled by `benchmark.data.staging`, for
all formats alike. Nothing is read before the batches are requested, and no batch is kept, so a reader of any
number of rows needs the memory of one batch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data.formats import load_reader
from benchmark.data.recipe import Recipe
from methods.errors import UserError
from methods.plugins import BROKEN, one_line

T = TypeVar("T")
Batches = Iterable[Any]
"""Of `pyarrow.RecordBatch`."""
ITEMS = pa.schema([("item_id", pa.string()), ("text", pa.string()), ("row", pa.int64())])
BATCH_ROWS = 1 << 17
"""Rows that a reader puts into a batch, about: enough to be quick, few enough to be small."""
MILLISECONDS = 100_000_000_000
"""From here on a time is read as milliseconds: 1973, while as seconds it is the year 5138."""
_WHOLE = re.compile(r"-?[0-9]{1,18}")
Row = tuple[int, str, str, int]
"""Line, user, item, time in the format's unit."""


class Location(NamedTuple):
    """Where a row is, for an error: `str()` is "path, line 3"."""

    path: Path
    what: str
    """Such as "line 3"."""

    def __str__(self) -> str:
        return f"{self.path}, {self.what}"


@dataclass(frozen=True)
class RawData:
    """Interactions and items as the files have them. `build` reads the items first, each stream once."""

    interactions: Batches
    """Batches of `user_id`, `item_id` (string, none empty), `timestamp` (int64, or float64 and finite: all
    times become float64 if one batch has them) and `row` (int64), as `interactions_batch` makes them.

    `row` numbers the interactions in the order of the files: ascending, each once; gaps are allowed. Users
    are numbered by their first row, and equal times of a user keep the order of the rows.
    """
    items: Batches
    """Batches of `item_id` (string, not empty; may come again), `text` (as `join_texts` makes it; empty where
    there is none) and `row` (int64, numbered apart, in any order): the catalogue in its order."""
    place: Callable[[int], Location]
    """Row of an interaction -> its location. Called for an error only, so it may read the file again."""
    item_place: Callable[[int], Location]
    """The same for a row of `items`."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Repair -> how often it was made; complete once both streams are consumed."""


def read_external(files: Mapping[str, Path], recipe: Recipe) -> RawData:
    """Read with another package's reader; an error in it is one line that names it."""
    reader, title = load_reader(recipe.format)
    with _errors_of(title):
        raw = reader.read(files, recipe, Counter())
        if not isinstance(raw, RawData):
            raise TypeError(f"it returned {type(raw).__name__}, not RawData")
    items = {field.name: {field.type} for field in ITEMS}
    times = {pa.int64(), pa.float64()}
    interactions = {
        "user_id": {pa.string()}, "item_id": {pa.string()}, "timestamp": times, "row": {pa.int64()},
    }  # fmt: skip
    return replace(
        raw,
        interactions=_checked_batches(raw.interactions, interactions, title),
        items=_checked_batches(raw.items, items, title),
        place=_errors_of(title)(raw.place),
        item_place=_errors_of(title)(raw.item_place),
    )


@contextmanager
def _errors_of(title: str) -> Iterator[None]:
    """Turn what the code of another package raises into one line that names it."""
    try:
        yield
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{title} failed: {one_line(error)}.") from error


def _checked_batches(batches: Batches, types: Mapping[str, set[Any]], title: str) -> Iterator[Any]:
    """The batches; raises `UserError` for one that `RawData` does not allow, and where there is none."""
    last, count = -math.inf, 0
    with _errors_of(title):
        for batch in batches:
            for name, allowed in types.items():
                column = batch.column(name)
                if column.type not in allowed or column.null_count:
                    nulls = " with nulls" if column.null_count else ""
                    names = " or ".join(sorted(map(str, allowed)))
                    raise TypeError(f"the column {name} is {column.type}{nulls}; it must be {names}")
                if name.endswith("_id") and pc.any(pc.equal(column, "")).as_py():
                    raise ValueError(f"a value of {name} is empty")
                if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py():
                    raise ValueError(f"a value of {name} is not finite")
            if "timestamp" in types and len(batch):
                rows = np.asarray(batch.column("row"))
                if rows[0] <= last or (np.diff(rows) <= 0).any():
                    raise ValueError("the rows of the interactions do not ascend")
                last = rows[-1]
            count += len(batch)
            yield batch.select(list(types))
        if not count:
            raise ValueError(f"there are no {'interactions' if 'timestamp' in types else 'items'}")


def interactions_batch(user_id: Any, item_id: Any, timestamp: Any, row: Any) -> Any:
    """A batch of interactions from four arrays `[n]` (Arrow, NumPy or lists); times int64 or float64."""
    times = pa.array(timestamp) if not isinstance(timestamp, pa.Array) else timestamp
    kind = pa.float64() if pa.types.is_floating(times.type) else pa.int64()
    names = {"user_id": _array(user_id, pa.string()), "item_id": _array(item_id, pa.string())}
    return pa.RecordBatch.from_pydict(
        {**names, "timestamp": _array(times, kind), "row": _array(row, pa.int64())}
    )


def items_batch(item_id: Any, text: Any, row: Any) -> Any:
    """A batch of items from three arrays `[n]` (Arrow, NumPy or lists)."""
    columns = zip((item_id, text, row), ITEMS.types, strict=True)
    return pa.RecordBatch.from_arrays([_array(values, kind) for values, kind in columns], schema=ITEMS)


def join_texts(columns: Sequence[Any]) -> Any:
    """Text `[n]` of each item: the columns `[n]` of strings joined by a space, in their order.

    Runs of whitespace become one space, nulls nothing; as `" ".join(" ".join(parts).split())` would have it.
    """
    space = pa.scalar(" ", pa.large_string())
    filled = [pc.fill_null(_array(column, pa.large_string()), "") for column in columns]
    joined = pc.binary_join_element_wise(*filled, space)
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(joined))
    return pc.cast(pc.binary_join(words, space), pa.string())


def _array(values: Any, kind: Any) -> Any:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def row_batches(rows: Iterator[Row]) -> Iterator[Any]:
    """Batches of interactions, `BATCH_ROWS` each."""
    while block := list(islice(rows, BATCH_ROWS)):
        number, user, item, time = zip(*block, strict=True)
        yield interactions_batch(user, item, time, number)


class BadRowError(Exception):
    """A row that cannot be used; `str()` says why."""


def whole_number(written: Any) -> int:
    """A time as the file has it; raises `BadRowError` unless it is a whole number."""
    if isinstance(written, str) and _WHOLE.fullmatch(written):
        return int(written)
    number = isinstance(written, int | float) and not isinstance(written, bool)
    if number and abs(written) < 2**62 and written == int(written):
        return int(written)
    raise BadRowError(f"timestamp {written!r} is not a whole number")


@dataclass(frozen=True)
class RawFile:
    """A file that a reader reads row by row, and what the recipe allows where a row is faulty.

    A repair is counted; a fault that the recipe does not repair raises `UserError` with file and row.
    """

    path: Path
    recipe: Recipe
    repairs: Counter[str]
    unit: str = "line"
    """What is numbered: "line" or "row"."""

    def at(self, row: int) -> Location:
        """The location of a row."""
        return Location(self.path, f"{self.unit} {row}")

    def skip_or_raise(self, row: int, fault: str, do: str = "mend the row", count: int = 1) -> None:
        """Count `count` bad rows from `row` on, or raise `UserError` where the recipe does not skip them."""
        if self.recipe.bad_rows == "error":
            raise UserError(f'{self.at(row)}: {fault}; {do}, or set bad_rows = "skip" in the recipe.')
        self.repairs["bad rows skipped"] += count

    def usable(self, lines: Iterable[tuple[int, str]], parse: Callable[[str], T]) -> Iterator[tuple[int, T]]:
        """(number, what `parse` makes of it) of each line; one for which it raises `BadRowError` is bad."""
        for number, line in lines:
            try:
                parsed = parse(line)
            except BadRowError as fault:
                self.skip_or_raise(number, str(fault))
            else:
                yield number, parsed

    def decoded(self, data: bytes, row: int) -> str:
        """`data` as UTF-8; other bytes are refused, or replaced and counted."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if self.recipe.bad_bytes == "error":
                raise UserError(
                    f"{self.at(row)}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8, "
                    'or set bad_bytes = "replace" in the recipe.'
                ) from error
        text = data.decode(errors="replace")
        self.repairs["undecodable bytes replaced"] += text.count("\ufffd") - data.count("\ufffd".encode())
        return text

    def encodable(self, text: str, row: int) -> str:
        """`text` with halves of surrogate pairs joined; a lone half is no character of UTF-8."""
        try:
            text.encode()
            return text
        except UnicodeEncodeError as error:
            joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            alone = joined.count("\ufffd") - text.count("\ufffd")
            if alone and self.recipe.bad_bytes == "error":
                raise UserError(
                    f"{self.at(row)}: the text has half a surrogate pair, which is no character; set "
                    'bad_bytes = "replace" in the recipe.'
                ) from error
            self.repairs["undecodable bytes replaced"] += alone
            return joined

    def corrected_times(self, rows: Iterable[tuple[int, tuple[str, str, int]]], unit: int) -> Iterator[Row]:
        """The interactions (row; user, item, time) with times in the format's unit, `unit` ticks a second."""
        for row, (user, item, time) in rows:
            if time < 0:
                if self.recipe.negative_times == "error":
                    raise UserError(
                        f"{self.at(row)}: the timestamp {time} is negative; set negative_times = "
                        '"drop" in the recipe.'
                    )
                self.repairs["interactions with a negative timestamp dropped"] += 1
                continue
            if time and (time >= MILLISECONDS) != (unit == 1000):  # 0 is the same in both units
                if self.recipe.mixed_times == "error":
                    has, wants = ("milliseconds", "seconds") if unit == 1 else ("seconds", "milliseconds")
                    raise UserError(
                        f"{self.at(row)}: the timestamp {time} seems to be in {has}, {self.recipe.format} "
                        f'has {wants}; set mixed_times = "mend" in the recipe.'
                    )
                self.repairs["timestamps brought to the unit of the others"] += 1
                yield row, user, item, time // 1000 if unit == 1 else time * 1000
            else:
                yield row, user, item, time

    def require_rows(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; raises `UserError` if there is none."""
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise UserError(
                f"{self.path} has no usable rows; if it is not the file that the recipe "
                f"'{self.recipe.name}' names, delete it and get it again."
            )
