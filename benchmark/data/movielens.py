"""Reader of MovieLens 1M's archive (GroupLens): `ratings.dat` and `movies.dat`, Latin-1, parted by `::`.

Format as the README in the archive has it: UserID::MovieID::Rating::Timestamp, and MovieID::Title::Genres,
the genres apart by `|`. Titles are text as they stand: `Toy Story (1995)`.
"""

from __future__ import annotations

import errno
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
    RawFile,
    Row,
    items_batch,
    join_texts,
    row_batches,
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
_MEMBERS = ("ratings.dat", "movies.dat")


def read_movielens(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> RawData:
    """Read the archive in place; nothing is unpacked to the disk."""
    for name in recipe.text_fields:
        if name not in FIELDS:
            raise unknown(f"text field of '{recipe.name}':", name, FIELDS, "Mend text_fields in the recipe.")
    archive = files["archive"]
    ratings, movies = (RawFile(archive, recipe, repairs, f"{name} line") for name in _MEMBERS)
    interactions = ratings.require_rows(row_batches(_ratings(ratings)))
    return RawData(interactions, movies.require_rows(_movies(movies)), ratings.at, movies.at, repairs)


def _ratings(file: RawFile) -> Iterator[Row]:
    def parse(line: str) -> tuple[str, str, int]:
        user, item, _, time = _fields(line, 4)
        return user, item, whole_number(time)

    return file.corrected_times(file.usable(_lines(file, _MEMBERS[0]), parse), 1)


def _movies(file: RawFile) -> Iterator[Any]:
    """Batches of the films, their text from the recipe's fields."""
    rows = file.usable(_lines(file, _MEMBERS[1]), lambda line: _fields(line, 3))
    while block := list(islice(rows, BATCH_ROWS)):
        numbers, movies = zip(*block, strict=True)
        names, titles, genres = zip(*movies, strict=True)
        texts = {"title": titles, "genres": [listed.replace("|", ", ") for listed in genres]}
        clean = file.recipe.clean
        columns = [
            [field_text(text, clean, file.repairs) for text in texts[key]] for key in file.recipe.text_fields
        ]
        yield items_batch(names, join_texts(columns), numbers)


def _lines(file: RawFile, name: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a file of the archive, in whichever folder it lies there."""
    archive = file.path
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
                            f"{file.at(number)} has more than {_LONGEST:,} bytes: the archive "
                            "is not MovieLens 1M's; delete it and get it again."
                        )
                    # every byte is a character of Latin-1: there is nothing that could not be decoded
                    if content := data.decode("latin-1").strip():
                        yield number, content
    except UserError:
        raise
    except (OSError, *_DAMAGED) as error:
        # of the disk; bzip2's have no number, and a member before the file's beginning is an invalid place
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{archive} is damaged ({error}); delete it and get it again.") from error


def _fields(line: str, count: int) -> list[str]:
    values = line.split("::")
    if len(values) != count or not all(values[: count - 1]):
        raise BadRowError(f"not {count} fields apart by ::")
    return values
