"""Text files, compressed or not: numbered lines, and delimited rows.

Python's `csv` in strict mode defines which rows a delimited file has, on which line each begins, and what
is a fault. A block without quotes, lone carriage returns, blank lines, ragged rows or bad bytes is the same
to Arrow, which reads it many times as fast; any other block is read row by row. So an error names the line
whatever the size of the file, and only the blocks that need it are read slowly.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as arrow

from benchmark.data.formats import shortened
from benchmark.data.raw import RawFile
from methods.errors import UserError

BLOCK = 8 << 20
LONGEST = 64 << 20
_GZIP = b"\x1f\x8b"


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, from 1; whole lines), some megabytes at a time, a byte order mark dropped.

    Raises `UserError` for a file that is cut short or cannot be read.
    """
    number, rest = 1, b""
    try:
        with path.open("rb") as plain:
            packed = plain.peek(2)[:2] == _GZIP
            file: Any = gzip.GzipFile(fileobj=plain) if packed else plain
            while data := file.read(BLOCK):
                rest += data
                end = rest.rfind(b"\n") + 1
                if end:
                    yield number, rest[:end].removeprefix(codecs.BOM_UTF8) if number == 1 else rest[:end]
                    number, rest = number + rest.count(b"\n", 0, end), rest[end:]
                elif len(rest) > LONGEST:
                    raise UserError(
                        f"{path}, line {number}: no line end within {LONGEST >> 20} MiB; is it a text file?"
                    )
        if rest:
            yield number, rest
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or cut short after line {number - 1:,} ({error}); delete it and get it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; check it.") from error


def numbered_lines(file: RawFile, block: bytes, first: int) -> Iterator[tuple[int, str]]:
    """(number, text) of every line of a block that is not blank; `first` is the number of the first."""
    for number, line in enumerate(block.split(b"\n"), start=first):
        if content := line.strip():
            yield number, file.decoded(content, number)


MERGED = "quoted fields of several lines that look like rows of their own"
"""Begins the name under which such fields are counted among the repairs."""


TEXT_TYPES = ("token", "token_seq")
"""RecBole field types that hold text."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file."""

    columns: dict[str, Any]
    """Name -> Arrow array `[n]`; of strings, or in Parquet of numbers."""
    rows: npt.NDArray[np.int64]
    """`[n]` where each row begins in the file, from 1."""


class Delimited:
    """A delimited file whose first row is the header; raises `UserError` for faults that are not repaired.

    If `typed`, as in RecBole's files, the cells of the header are `name:type`.
    """

    def __init__(self, file: RawFile, delimiter: str, typed: bool = False) -> None:
        self.file, self._delimiter, path, recipe = file, delimiter, file.path, file.recipe
        self._merged = ""
        """How fields that may have swallowed rows are counted, once there is one."""
        self._blocks = (block for _, block in blocks(path))
        self._number = 1
        """Of the next line."""
        self._text, self._length = io.StringIO(), 0
        """The lines at hand, and their characters."""
        self._separators: set[int] = set()
        """How many delimiters the lines of the present row have, quoted or not."""
        quoting: Literal[0, 3] = csv.QUOTE_NONE if recipe.quotes == "none" else csv.QUOTE_MINIMAL
        csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters; ours is `max_text`
        self._csv = csv.reader(self._lines(), delimiter=delimiter, quoting=quoting, strict=True)
        if (block := self._skip_blank(next(self._blocks, None))) is None:
            raise UserError(f"{path} is empty; it needs a header line and rows.")
        self._put(block)
        header = next(self._careful(), None)
        assert header is not None  # the block has a line that is not blank
        rest = self._text.read().encode() or next(self._blocks, None)
        self._block = self._skip_blank(rest, b"\r\n")
        if self._block is None:
            raise UserError(f"{path} has a header but no rows.")
        self.columns, texts = _header(header[1], path, typed)
        """The names in the file."""
        self.names = recipe.renamed(self.columns)
        """The same columns by the names that the recipe gives them."""
        self.texts = tuple(name for name, own in zip(self.names, self.columns, strict=True) if own in texts)
        """Those of `names` that can be item text, in file order."""
        self.no_texts = tuple(own for own in self.columns if own not in texts and own != "item_id")
        """The others but `item_id`, with their types where the file has some, for an error."""

    def _skip_blank(self, block: bytes | None, blank: bytes | None = None) -> bytes | None:
        """`block` or the first one after it that has more than `blank` characters (any whitespace)."""
        while block is not None and not block.strip(blank):
            self._number += block.count(b"\n")
            block = next(self._blocks, None)
        return block

    def _put(self, block: bytes) -> None:
        """Make the lines of `block` the ones at hand."""
        try:
            text = block.decode()
        except UnicodeDecodeError:
            lines = enumerate(block.split(b"\n"), start=self._number)
            text = "\n".join(self.file.decoded(line, number) for number, line in lines)
        # newline="" leaves line ends to the csv module, so that one inside quotes does not end a row.
        self._text, self._length = io.StringIO(text, newline=""), len(text)

    def _lines(self) -> Iterator[str]:
        """The lines at hand, and those of the next blocks as long as a quoted field goes on."""
        while True:
            while line := self._text.readline():
                self._number += 1
                self._separators.add(line.count(self._delimiter))
                yield line
            if (block := next(self._blocks, None)) is None:
                return
            self._put(block)

    def parts(self, chosen: Sequence[str]) -> Iterator[RowBlock]:
        """Rows with the columns `chosen` of `names`; raises `UserError` when there are none."""
        block, any_row = self._block, False
        while block is not None:
            part = self._fast(block, chosen)
            if part is None:
                self._put(block)
                part = self._slow(chosen)
            if len(part.rows):
                any_row = True
                yield part
            block = next(self._blocks, None)
        if not any_row:
            raise UserError(f"{self.file.path} has a header but no usable rows.")

    def _fast(self, block: bytes, chosen: Sequence[str]) -> RowBlock | None:
        """The block as Arrow reads it, None where that might not be as Python's `csv` does."""
        if self.file.recipe.quotes != "none" and b'"' in block:
            return None
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return None
        count = block.count(b"\n") + (not block.endswith(b"\n"))
        try:
            if not block.isascii():
                block.decode()
            table = arrow.read_csv(
                pa.BufferReader(block),
                arrow.ReadOptions(column_names=list(self.names), block_size=len(block) + 1),
                arrow.ParseOptions(delimiter=self._delimiter, quote_char=False, double_quote=False),
                arrow.ConvertOptions(
                    include_columns=list(chosen), column_types=dict.fromkeys(chosen, pa.string()),
                    check_utf8=False, strings_can_be_null=False,
                ),
            )  # fmt: skip
        except (UnicodeDecodeError, pa.ArrowInvalid):
            return None
        if table.num_rows != count:  # blank lines, which Arrow leaves out without saying where
            return None
        first = self._number
        self._number += count
        columns = {name: table.column(name).combine_chunks() for name in chosen}
        return RowBlock(columns, np.arange(first, first + count, dtype=np.int64))

    def _slow(self, chosen: Sequence[str]) -> RowBlock:
        """The rows that begin in the lines at hand; a quoted field may take further ones."""
        rows, numbers = [], []
        for number, row in self._careful():
            if len(row) == len(self.names):
                self._check_merged(number, len(self.names))
                rows.append(row)
                numbers.append(number)
            else:
                fault = f"{len(row)} fields where the header has {len(self.names)}"
                self.file.skip_or_raise(number, fault, "quote a field that holds the delimiter")
        positions = {name: self.names.index(name) for name in chosen}
        columns = {name: pa.array([row[i] for row in rows], pa.string()) for name, i in positions.items()}
        return RowBlock(columns, np.asarray(numbers, dtype=np.int64))

    def _check_merged(self, number: int, columns: int) -> None:
        """Look at a row that has just been read, from line `number` on: is it several, merged by a quote?

        The lines of a field in quotes seldom have as many tabs as rows have. Commas and the like stand in
        texts, so there such fields are counted only.
        """
        if self._number - number < 2 or self._separators != {columns - 1}:
            return
        do = 'set quotes = "none" in the recipe if quotes are ordinary characters'
        if self._delimiter == "\t":
            raise UserError(
                f"{self.file.at(number)}: lines {number} to {self._number - 1} are one row, as a "
                f"quote opens on the first of them, but each has the {columns} fields of a row; {do}, or "
                "take the tabs out of the field."
            )
        self._merged = self._merged or f"{MERGED} (the first on line {number} of {self.file.path.name}; {do})"
        self.file.repairs[self._merged] += 1

    def _careful(self) -> Iterator[tuple[int, list[str]]]:
        """Rows of the lines at hand that are not blank, with the line that each begins on."""
        while self._text.tell() < self._length:
            number = self._number
            self._separators.clear()
            try:
                row = next(self._csv)
            except csv.Error as error:
                open_quote = "unexpected end" in str(error)
                # An unclosed quote swallows the rest of the file: never a row to skip.
                if self.file.recipe.bad_rows == "skip" and not open_quote and number > 1:
                    self.file.repairs["bad rows skipped"] += 1
                    continue
                fault = "a quoted field is never closed" if open_quote else f"bad quoting ({error})"
                raise UserError(
                    f"{self.file.at(number)}: {fault}; double the quotes inside a quoted field, or set "
                    'quotes = "none" in the recipe if they are ordinary characters.'
                ) from error
            if row:
                yield number, row


def _header(cells: list[str], path: Path, typed: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Column names, and those that can be text."""
    split = [cell.partition(":") for cell in cells]
    names = tuple(name for name, _, _ in split) if typed else tuple(cells)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}, line 1: the column '{shortened(name)}' occurs twice; rename one.")
    for cell, (_, _, kind) in zip(cells, split, strict=True):
        if typed and kind not in (*TEXT_TYPES, "float", "float_seq"):
            raise UserError(
                f"{path}, line 1: the header cell '{shortened(cell)}' is not name:type; types are "
                f"{', '.join(TEXT_TYPES)}, float, float_seq."
            )
    if typed:
        return names, tuple(name for name, _, kind in split if kind in TEXT_TYPES)
    return names, names
