"""Reader of MovieLens 1M's archive (GroupLens): `ratings.dat` and `movies.dat`, Latin-1, parted by `::`.

Format as the README in the archive has it: UserID::MovieID::Rating::Timestamp, and MovieID::Title::Genres,
the genres apart by `|`. Titles are text as they stand: `Toy Story (1995)`.
"""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from benchmark.data.cleaning import field_text
from benchmark.data.raw import (
    BATCH_ROWS,
    BadRowError,
    RawData,
    Row,
    corrected_time,
    items_batch,
    join_texts,
    locator,
    require_rows,
    row_batches,
    usable,
    whole_number,
)
from benchmark.data.recipe import Recipe
from methods.errors import UserError, unknown

FIELDS = ("title", "genres")
_LONGEST, _BUFFER = 1 << 16, 1 << 20
"""Bytes that a line may have, and that are unpacked at a time."""
_ENCRYPTED = 1
"""The bit of a member's flags."""
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError,
    RuntimeError, ValueError,
)  # fmt: skip
"""What `zipfile` raises for an archive that is not whole, or packed in a way that it does not know."""
_MEMBERS = {"interactions": "ratings.dat", "items": "movies.dat"}


def read_movielens(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> RawData:
    """Read the archive in place; nothing is unpacked to the disk."""
    archive = files["archive"]
    for name in recipe.text_fields:
        if name not in FIELDS:
            raise unknown(f"text field of '{recipe.name}':", name, FIELDS, "Mend text_fields in the recipe.")
    return RawData(
        interactions=require_rows(row_batches(_ratings(archive, recipe, repairs)), archive, recipe),
        items=require_rows(_movies(archive, recipe, repairs), archive, recipe),
        place=locator(archive, f"{_MEMBERS['interactions']} line"),
        item_place=locator(archive, f"{_MEMBERS['items']} line"),
        repairs=repairs,
    )


def _ratings(archive: Path, recipe: Recipe, repairs: Counter[str]) -> Iterator[Row]:
    def parse(line: str) -> tuple[str, str, int]:
        user, item, _, time = _fields(line, 4)
        return user, item, whole_number(time)

    name = _MEMBERS["interactions"]
    ratings = usable(_lines(archive, name), parse, archive, f"{name} line", recipe, repairs)
    for number, where, (user, item, time) in ratings:
        checked = corrected_time(time, 1, where, recipe, repairs)
        if checked is not None:
            yield number, user, item, checked


def _movies(archive: Path, recipe: Recipe, repairs: Counter[str]) -> Iterator[Any]:
    """Batches of the films, their text from the recipe's fields."""
    name = _MEMBERS["items"]
    lines = _lines(archive, name)
    rows = usable(lines, lambda line: _fields(line, 3), archive, f"{name} line", recipe, repairs)
    while block := list(islice(rows, BATCH_ROWS)):
        numbers, _, movies = zip(*block, strict=True)
        names, titles, genres = zip(*movies, strict=True)
        texts = {"title": titles, "genres": [each.replace("|", ", ") for each in genres]}
        columns = [
            [field_text(text, recipe.clean, repairs) for text in texts[key]] for key in recipe.text_fields
        ]
        yield items_batch(names, join_texts(columns), numbers)


def _lines(archive: Path, name: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a file of the archive, whichever folder it lies in there."""
    try:
        with zipfile.ZipFile(archive) as files:
            members = [member for member in files.infolist() if member.filename.rpartition("/")[2] == name]
            if len(members) != 1:
                raise UserError(f"{archive} has no {name}; is it the archive of MovieLens 1M?")
            if members[0].flag_bits & _ENCRYPTED:
                raise UserError(f"{archive} is encrypted; delete it and get it again.")
            with files.open(members[0]) as packed:
                plain = io.BufferedReader(packed, _BUFFER)  # type: ignore[type-var]
                number = 0
                while data := plain.readline(_LONGEST + 1):
                    number += 1
                    if len(data) > _LONGEST:
                        raise UserError(
                            f"{archive}, {name} line {number} has more than {_LONGEST:,} bytes: the archive "
                            "is not MovieLens 1M's; delete it and get it again."
                        )
                    # every byte is a character of Latin-1: there is nothing that could not be decoded
                    if content := data.decode("latin-1").strip():
                        yield number, content
    except UserError:
        raise
    except (OSError, *_DAMAGED) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; bzip2's have no number
            raise
        raise UserError(f"{archive} is damaged ({error}); delete it and get it again.") from error


def _fields(line: str, count: int) -> list[str]:
    values = line.split("::")
    if len(values) != count or not all(values[: count - 1]):
        raise BadRowError(f"not {count} fields apart by ::")
    return values
