"""Readers of the three editions of the Amazon review data as the McAuley lab (UCSD) publishes them.

| edition | reviews | ratings only | metadata |
|---|---|---|---|
| 2014 | JSON lines: reviewerID, asin, unixReviewTime | user,item,rating,time | Python literals: asin, title, brand, categories (paths), description |
| 2018 | JSON lines, the same keys | item,user,rating,time | JSON lines: asin, title, brand, category (list), description (list) |
| 2023 | JSON lines: user_id, parent_asin, timestamp | a header, then user,item,rating,time | JSON lines: parent_asin, title, store, categories, features, description, details |

All may be gzipped. Times are seconds, in 2023 milliseconds. Sources: cseweb.ucsd.edu/~jmcauley/datasets/amazon,
nijianmo.github.io/amazon, amazon-reviews-2023.github.io.
"""  # noqa: E501

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from benchmark.data.cleaning import field_text
from benchmark.data.raw import (
    MILLISECONDS,
    BadRowError,
    RawData,
    RawFile,
    interactions_batch,
    items_batch,
    join_texts,
    row_batches,
    whole_number,
)
from benchmark.data.recipe import Recipe
from benchmark.data.text_files import blocks, numbered_lines
from methods.errors import unknown

_LONGEST = 4 << 20
"""Characters of a line of metadata that is parsed as a literal: a longer one is no item."""


@dataclass(frozen=True)
class Edition:
    """Names and order of the fields of an edition."""

    user: str
    item: str
    time: str
    columns: tuple[int, int, int]
    """Where user, item and time stand in the ratings."""
    unit: int
    """Ticks of its clock in a second."""
    literals: bool = False
    """Whether the metadata are Python literals."""


EDITIONS = {
    "amazon-2014": Edition("reviewerID", "asin", "unixReviewTime", (0, 1, 3), 1, literals=True),
    "amazon-2018": Edition("reviewerID", "asin", "unixReviewTime", (1, 0, 3), 1),
    "amazon-2023": Edition("user_id", "parent_asin", "timestamp", (0, 1, 3), 1000),
}


def read_amazon(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> RawData:
    """Read reviews or ratings, and metadata, of the edition that `recipe.format` names."""
    edition = EDITIONS[recipe.format]
    reviews, metadata = (RawFile(files[role], recipe, repairs) for role in ("interactions", "items"))
    interactions = reviews.require_rows(_interactions(reviews, edition))
    items = metadata.require_rows(_items(metadata, edition))
    return RawData(interactions, items, reviews.at, metadata.at, repairs)


def _interactions(file: RawFile, edition: Edition) -> Iterator[Any]:
    """Batches of a file of reviews or of ratings, whichever it is."""
    read: Any = None
    for first, block in blocks(file.path):
        if read is None:
            read = _review if block.lstrip().startswith(b"{") else _rating
        batch = _quick_ratings(block, first, edition) if read is _rating else None
        if batch is not None:
            yield batch
        else:
            lines = numbered_lines(file, block, first)
            if read is _rating and first == 1:
                lines = ((number, line) for number, line in lines if not _is_header(number, line, edition))
            rows = file.usable(lines, partial(read, edition=edition))
            yield from row_batches(file.corrected_times(rows, edition.unit))


def _quick_ratings(block: bytes, first: int, edition: Edition) -> Any:
    """The batch of a block of ratings without any fault, else None: then they are read line by line."""
    if b" " in block or b"\r" in block:
        return None
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(column_names=["0", "1", "2", "3"], block_size=len(block) + 1, use_threads=False),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types={"0": pa.string(), "1": pa.string(), "2": pa.string(), "3": pa.int64()},
                null_values=[],
            ),
        )
    except pa.ArrowInvalid:
        return None
    user, item, time = (table.column(str(column)) for column in edition.columns)
    least, most = pc.min_max(time).values()
    bounds = (1, MILLISECONDS - 1) if edition.unit == 1 else (MILLISECONDS, 2**62)
    full = all(pc.min(pc.binary_length(names)).as_py() for names in (user, item))
    if not full or least.as_py() < bounds[0] or most.as_py() > bounds[1]:
        return None
    return interactions_batch(user, item, time.combine_chunks(), range(first, first + len(table)))


def _is_header(number: int, line: str, edition: Edition) -> bool:
    return number == 1 and line.split(",")[edition.columns[2] :] == ["timestamp"]


def _rating(line: str, edition: Edition) -> tuple[str, str, int]:
    fields = line.split(",")
    if len(fields) != 4:
        raise BadRowError(f"{len(fields)} fields where ratings have 4")
    user, item, time = (fields[column].strip() for column in edition.columns)
    if not user or not item:
        raise BadRowError("the user or the item is empty")
    return user, item, whole_number(time)


def _review(line: str, edition: Edition) -> tuple[str, str, int]:
    review = _parsed(line, literal=False)
    user, item = _id(review, edition.user), _id(review, edition.item)
    return user, item, whole_number(review.get(edition.time))


def _parsed(line: str, literal: bool) -> dict[str, Any]:
    """The table that a line holds, as JSON or as a Python literal, which is read without running anything."""
    try:
        if literal and len(line) > _LONGEST:
            raise ValueError("too long")
        record = ast.literal_eval(line) if literal else json.loads(line)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise BadRowError(f"not {'a Python literal' if literal else 'JSON'} ({str(error)[:60]})") from error
    if not isinstance(record, dict):
        raise BadRowError(f"a {type(record).__name__} where a table of fields is needed")
    return record


def _id(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"no {key}")
    if not value.isascii():
        raise BadRowError(f"{key} {value!r} is no id")
    return value.strip()


def _items(file: RawFile, edition: Edition) -> Iterator[Any]:
    """Batches of items, their text from the recipe's fields, an empty one where the item has none of them."""
    fields, clean = file.recipe.text_fields, file.recipe.clean
    seen: dict[str, None] = {}

    def parse(line: str) -> tuple[dict[str, Any], str]:
        record = _parsed(line, edition.literals)
        return record, _id(record, edition.item)

    for first, block in blocks(file.path):
        rows = []
        for number, (record, name) in file.usable(numbered_lines(file, block, first), parse):
            seen.update(dict.fromkeys(record))
            texts = (field_text(record[key], clean, file.repairs) if key in record else "" for key in fields)
            rows.append((number, name, *(file.encodable(text, number) for text in texts)))
        if rows:
            numbers, names, *columns = zip(*rows, strict=True)
            yield items_batch(names, join_texts(columns), numbers)
    for name in fields if seen else ():
        if name not in seen:
            do = "Mend text_fields in the recipe."
            raise unknown(f"text field: no item of {file.path} has", name, seen, do)
