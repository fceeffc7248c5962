"""What the readers of publishers' files share: faults of single rows, times, batches of interactions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmark.data.raw import BATCH_ROWS, interactions_batch
from benchmark.data.recipe import Recipe
from methods.errors import UserError

MILLISECONDS = 100_000_000_000
"""From here on a time is read as milliseconds: 1973, while as seconds it is the year 5138."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")

Row = tuple[int, str, str, int]
"""Line, user, item, time in the edition's unit."""


class BadRowError(Exception):
    """A row that cannot be used; `str()` says why."""


def row_batches(rows: Iterator[Row]) -> Iterator[Any]:
    """Batches of interactions, `BATCH_ROWS` each."""
    while block := list(islice(rows, BATCH_ROWS)):
        number, user, item, time = zip(*block, strict=True)
        yield interactions_batch(user, item, time, number)


def some(batches: Iterator[Any], path: Path, recipe: Recipe) -> Iterator[Any]:
    """The batches; raises `UserError` where there is not one."""
    batch = None
    for batch in batches:
        yield batch
    if batch is None:
        raise UserError(
            f"{path} has no usable rows; if it is not the file that the recipe "
            f"'{recipe.name}' names, delete it and get it again."
        )


def whole_number(written: Any) -> int:
    """A time as it stands in a file; raises `BadRowError` unless it is a whole number."""
    if isinstance(written, str) and _WHOLE.fullmatch(written):
        return int(written)
    number = isinstance(written, int | float) and not isinstance(written, bool)
    if number and abs(written) < 2**62 and written == int(written):
        return int(written)
    raise BadRowError(f"timestamp {written!r} is not a whole number")


def mended_time(time: int, unit: int, where: str, recipe: Recipe, repairs: Counter[str]) -> int | None:
    """`time` in the edition's unit, None where it is to be dropped; raises `UserError` for an odd one."""
    if time < 0:
        if recipe.negative_times == "error":
            raise UserError(
                f'{where}: the timestamp {time} is negative; set negative_times = "drop" in the recipe.'
            )
        repairs["interactions with a negative timestamp dropped"] += 1
        return None
    # The first hours of 1970 are the same in both units, and nobody bought anything then.
    if (time >= MILLISECONDS) == (unit == 1000) or not time:
        return time
    if recipe.mixed_times == "error":
        has, wants = ("milliseconds", "seconds") if unit == 1 else ("seconds", "milliseconds")
        raise UserError(
            f"{where}: the timestamp {time} seems to be in {has}, {recipe.format} has {wants}; set "
            'mixed_times = "mend" in the recipe.'
        )
    repairs["timestamps brought to the unit of the others"] += 1
    return time // 1000 if unit == 1 else time * 1000


def skip_or_raise(where: str, fault: str, recipe: Recipe, repairs: Counter[str]) -> None:
    """Count a bad row, or raise `UserError` where the recipe does not skip it."""
    if recipe.bad_rows == "error":
        raise UserError(f'{where}: {fault}; mend the row, or set bad_rows = "skip" in the recipe.')
    repairs["bad rows skipped"] += 1


def encodable(text: str, where: str, recipe: Recipe, repairs: Counter[str]) -> str:
    """`text` with halves of surrogate pairs joined; one that stands alone is no character of UTF-8."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError as error:
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        alone = joined.count("\ufffd") - text.count("\ufffd")
        if alone and recipe.bad_bytes == "error":
            raise UserError(
                f"{where}: the text has half a surrogate pair, which is no character; set bad_bytes = "
                '"replace" in the recipe.'
            ) from error
        repairs["undecodable bytes replaced"] += alone
        return joined
