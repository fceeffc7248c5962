"""Reader of MovieLens 1M's archive (GroupLens): `ratings.dat` and `movies.dat`, Latin-1, parted by `::`.

Format as the README in the archive has it: UserID::MovieID::Rating::Timestamp, and MovieID::Title::Genres,
the genres apart by `|`. Titles are text as they stand: `Toy Story (1995)`.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.data.raw import Place, Raw, items_batch, join_texts
from benchmark.data.recipe import Recipe
from benchmark.data.rows import (
    BadRowError,
    Row,
    mended_time,
    row_batches,
    skip_or_raise,
    some,
    whole_number,
)
from benchmark.data.texts import field_text
from methods.errors import UserError, unknown

FIELDS = ("title", "genres")
_MEMBERS = {"interactions": "ratings.dat", "items": "movies.dat"}


def read_movielens(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> Raw:
    """Read the archive in place; nothing is unpacked to the disk."""
    archive = files["archive"]
    for name in recipe.text_fields:
        if name not in FIELDS:
            raise unknown(f"text field of '{recipe.name}':", name, FIELDS, "Mend text_fields in the recipe.")
    return Raw(
        interactions=some(row_batches(_ratings(archive, recipe, repairs)), archive, recipe),
        items=some(_movies(archive, recipe, repairs), archive, recipe),
        place=lambda row: Place(archive, f"{_MEMBERS['interactions']} line {row}"),
        item_place=lambda row: Place(archive, f"{_MEMBERS['items']} line {row}"),
        repairs=repairs,
    )


def _ratings(archive: Path, recipe: Recipe, repairs: Counter[str]) -> Iterator[Row]:
    for number, line in _lines(archive, _MEMBERS["interactions"]):
        where = f"{archive}, {_MEMBERS['interactions']} line {number}"
        try:
            user, item, _, written = _fields(line, 4)
            time = whole_number(written)
        except BadRowError as fault:
            skip_or_raise(where, str(fault), recipe, repairs)
            continue
        checked = mended_time(time, 1, where, recipe, repairs)
        if checked is not None:
            yield number, user, item, checked


def _movies(archive: Path, recipe: Recipe, repairs: Counter[str]) -> Iterator[Any]:
    """One batch: there are four thousand."""
    rows = []
    for number, line in _lines(archive, _MEMBERS["items"]):
        try:
            name, title, genres = _fields(line, 3)
        except BadRowError as fault:
            skip_or_raise(f"{archive}, {_MEMBERS['items']} line {number}", str(fault), recipe, repairs)
            continue
        texts = {"title": title, "genres": genres.replace("|", ", ")}
        chosen = (field_text(texts[key], recipe.clean, repairs) for key in recipe.text_fields)
        rows.append((number, name, *chosen))
    if rows:
        numbers, names, *columns = zip(*rows, strict=True)
        yield items_batch(names, join_texts(columns), numbers)


def _lines(archive: Path, name: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a file of the archive, whichever folder it lies in there."""
    try:
        with zipfile.ZipFile(archive) as files:
            members = [member for member in files.namelist() if member.rpartition("/")[2] == name]
            if len(members) != 1:
                raise UserError(f"{archive} has no {name}; is it the archive of MovieLens 1M?")
            with files.open(members[0]) as plain:
                # Every byte is a character of Latin-1: there is nothing that could not be decoded.
                for number, line in enumerate(io.TextIOWrapper(plain, "latin-1"), start=1):
                    if content := line.strip():
                        yield number, content
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged ({error}); delete it and get it again.") from error


def _fields(line: str, count: int) -> list[str]:
    found = line.split("::")
    if len(found) != count or not all(found[: count - 1]):
        raise BadRowError(f"not {count} fields apart by ::")
    return found
