"""What a reader hands over: interactions and items as streams of Arrow batches, faults of single rows mended.

A reader is a function `read_x(files, recipe, repairs) -> Raw`. It deals with what can be wrong in a row
(bytes, fields, an empty id, a timestamp that is no number). What is wrong between rows (an item twice, an
interaction with an unknown item) and a text that is too long are dealt with by `benchmark.data.build`, for
all formats alike. Nothing is read before the batches are asked for, and no batch outlives its turn, so a
reader of any number of rows needs the memory of one batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

Batches = Iterable[Any]
"""Of `pyarrow.RecordBatch`."""
ITEMS = pa.schema([("item_id", pa.string()), ("text", pa.string()), ("row", pa.int64())])
BATCH_ROWS = 1 << 17
"""Rows that a reader puts into a batch, about: enough to be quick, few enough to be small."""


class Place(NamedTuple):
    """Where a row stands, for an error: `str()` is "path, line 3"."""

    path: Path
    what: str
    """Such as "line 3"."""

    def __str__(self) -> str:
        return f"{self.path}, {self.what}"


@dataclass(frozen=True)
class Raw:
    """Interactions and items as they stand in the files. `build` reads the items first, each stream once."""

    interactions: Batches
    """Batches of `user_id`, `item_id` (string, none empty), `timestamp` (int64, or float64 and finite: all
    times become float64 if one batch has them) and `row` (int64), as `interactions_batch` makes them.

    `row` numbers the interactions in the order of the files: ascending, each once; gaps are allowed. Users
    are numbered by their first row, and equal times of a user keep the order of the rows.
    """
    items: Batches
    """Batches of `item_id` (string, not empty; may come again), `text` (as `join_texts` makes it; empty where
    there is none) and `row` (int64, numbered apart, in any order): the catalogue in its order."""
    place: Callable[[int], Place]
    """Row of an interaction -> where it stands. Called for an error only, so it may read the file again."""
    item_place: Callable[[int], Place]
    """The same for a row of `items`."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Repair -> how often it was made; complete once both streams are consumed."""


def interactions_batch(user_id: Any, item_id: Any, timestamp: Any, row: Any) -> Any:
    """A batch of interactions from four arrays `[n]` (Arrow, NumPy or lists); times int64 or float64."""
    times = pa.array(timestamp) if not isinstance(timestamp, pa.Array) else timestamp
    kind = pa.float64() if pa.types.is_floating(times.type) else pa.int64()
    columns = {
        "user_id": _array(user_id, pa.string()),
        "item_id": _array(item_id, pa.string()),
        "timestamp": _array(times, kind),
        "row": _array(row, pa.int64()),
    }
    return pa.RecordBatch.from_pydict(columns)


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
