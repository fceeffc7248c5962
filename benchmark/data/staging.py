"""From names to numbers, in SQL: the part of a preparation whose tables may be larger than the memory.

Strings are met once. Items become numbers in the order of their file, users in the order in which they first
appear, and what follows works on 32-bit numbers (`benchmark.data.pipeline`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data.database import Scratch
from benchmark.data.raw import RawData
from benchmark.data.recipe import Recipe
from methods.errors import UserError

_ITEMS = pa.schema({"item": pa.int32(), "item_id": pa.string(), "text": pa.string(), "row": pa.int64()})
_INTERACTIONS = pa.schema(
    {
        **dict.fromkeys(("user_id", "item_id"), pa.string()),
        "whole": pa.int64(), "real": pa.float64(), "row": pa.int64(),
    }
)  # fmt: skip


@dataclass
class Staged:
    """Interactions as numbers, in the table `kept` (user, item, time, row), and who is who.

    The tables `users` (user, user_id) and `items` (item, item_id, text, row) of the scratch database give the
    names. Items of `[I]` include those that are not `allowed`.
    """

    scratch: Scratch
    interactions: int
    """N, rows of `kept`."""
    users: int
    """U, users of the files; some may have lost all their interactions."""
    allowed: npt.NDArray[np.bool_]
    """`[I]` items that may be in the catalogue."""
    no_text: npt.NDArray[np.bool_]
    """`[I]`"""
    real_times: bool
    """Whether times are float64, not int64."""
    dropped: Counter[str]
    """What was left out, by reason."""
    where: str
    """The dataset, for an error."""

    def drop(self, count: int, why: str) -> None:
        """Count interactions that are left out; raises `UserError` when none is left."""
        if not count:
            return
        self.dropped[why] += count
        self.interactions -= count
        if not self.interactions:
            raise UserError(
                f"{self.where}: no interaction is left ({why}); loosen that option of the recipe."
            )


def stage(raw: RawData, recipe: Recipe, scratch: Scratch, begin: Callable[[str], None]) -> Staged:
    """Read `raw` into the scratch database, and drop what the recipe drops before any sequence is made.

    `begin` is called with the name of each step.
    """
    begin("read items")
    stream = scratch.reader(_ITEMS, _items(raw, recipe))
    scratch.run("CREATE TABLE items AS SELECT * FROM batches", batches=stream)
    no_text = np.asarray(scratch.column("SELECT text = '' FROM items ORDER BY item"))
    known = _drop_duplicate_items(raw, recipe, scratch, len(no_text))
    begin("read interactions, join with items")
    stream = scratch.reader(_INTERACTIONS, _interactions(raw))
    scratch.run(
        """CREATE TABLE events AS
        SELECT b.user_id, c.item, c.has_text, b.whole, b."real", b."row",
               CASE WHEN c.item IS NULL THEN b.item_id END AS unknown
        FROM batches b LEFT JOIN codes c USING (item_id)""",
        batches=stream,
    )
    _match_whole_numbers(raw, scratch)
    total, unknown, without, real = scratch.run(
        """SELECT count(*), count(*) FILTER (item IS NULL), count(*) FILTER (NOT has_text), count("real")
        FROM events"""
    )
    begin("number users")
    scratch.run(
        """CREATE TABLE users AS
        SELECT user_id, (row_number() OVER (ORDER BY first) - 1)::INTEGER AS "user"
        FROM (SELECT user_id, min("row") AS first FROM events GROUP BY user_id)"""
    )
    (users,) = scratch.run("SELECT count(*) FROM users")
    drops = recipe.no_text == "drop"
    staged = Staged(
        scratch=scratch,
        interactions=total,
        users=users,
        allowed=known & ~no_text if drops else known,
        no_text=no_text & known,
        real_times=bool(real),
        dropped=Counter(),
        where=f"dataset '{recipe.name}'",
    )
    if unknown:
        _unknown_items(raw, recipe, scratch, unknown)
        staged.drop(unknown, "interactions with unknown items")
    if drops and staged.no_text.any():
        staged.dropped["items without text"] += int(staged.no_text.sum())
        staged.drop(without, "interactions with items without text")
    time = 'coalesce("real", whole::DOUBLE)' if real else "whole"
    scratch.run(
        f"""CREATE TABLE kept AS SELECT u."user", e.item, {time} AS time, e."row"
        FROM events e JOIN users u USING (user_id)
        WHERE e.item IS NOT NULL {"AND e.has_text" if drops else ""}"""
    )
    scratch.run("DROP TABLE events")
    scratch.run("DROP TABLE codes")
    begin("drop repeats")
    _drop_repeats(recipe, staged)
    return staged


def _items(raw: RawData, recipe: Recipe) -> Iterator[Any]:
    """The batches of items with their numbers; long texts are refused or cut."""
    done = 0
    for batch in raw.items:
        names, texts, rows = batch.columns
        long = pc.greater(pc.utf8_length(texts), recipe.max_text)
        if pc.any(long).as_py():
            first = pc.index(long, True).as_py()
            if recipe.long_texts == "error":
                raise UserError(
                    f"{raw.item_place(rows[first].as_py())}: the text has {len(texts[first].as_py()):,} "
                    f"characters, {recipe.max_text:,} are allowed; shorten it, raise max_text, or set "
                    'long_texts = "cut" in the recipe.'
                )
            raw.repairs["long texts cut"] += pc.sum(long).as_py()
            cut = pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(texts, 0, recipe.max_text))
            texts = pc.if_else(long, cut, texts)
        numbers = pa.array(np.arange(done, done + len(batch), dtype=np.int32))
        done += len(batch)
        yield pa.RecordBatch.from_arrays([numbers, names, texts, rows], schema=_ITEMS)


def _drop_duplicate_items(
    raw: RawData, recipe: Recipe, scratch: Scratch, count: int
) -> npt.NDArray[np.bool_]:
    """Fill the table `codes` with the first item of each id; returns which `[I]` are the first."""
    scratch.run(
        """CREATE TABLE codes AS
        SELECT item_id, min(item) AS item, arg_min(text <> '', item) AS has_text FROM items GROUP BY 1"""
    )
    first = np.ones(count, dtype=bool)
    (ids,) = scratch.run("SELECT count(*) FROM codes")
    if ids == count:
        return first
    later = scratch.column("SELECT item FROM items ANTI JOIN codes USING (item) ORDER BY item")
    if recipe.duplicate_items == "error":
        again, name, earlier = scratch.run(
            f"""SELECT i."row", i.item_id, f."row" FROM items i JOIN codes c USING (item_id)
            JOIN items f ON f.item = c.item WHERE i.item = {later[0].as_py()}"""
        )
        raise UserError(
            f"{raw.item_place(again)}: item_id '{name}' is already on {raw.item_place(earlier).what}; "
            'remove one, or set duplicate_items = "first" in the recipe.'
        )
    raw.repairs["duplicate items dropped"] += len(later)
    first[np.asarray(later)] = False
    return first


def _interactions(raw: RawData) -> Iterator[Any]:
    """The batches with whole and other times in columns of their own: which they are is known at the end."""
    for batch in raw.interactions:
        users, items, times, rows = (
            batch.column(name) for name in ("user_id", "item_id", "timestamp", "row")
        )
        nothing = pa.nulls(len(batch))
        real = pa.types.is_floating(times.type)
        columns = [users, items, nothing if real else times, times if real else nothing, rows]
        cast = [column.cast(kind) for column, kind in zip(columns, _INTERACTIONS.types, strict=True)]
        yield pa.RecordBatch.from_arrays(cast, schema=_INTERACTIONS)


def _match_whole_numbers(raw: RawData, scratch: Scratch) -> None:
    """Give interactions with an unknown item `12.0` the item `12`, or the other way round; counted.

    Programs that know no gap in a column of whole numbers write them so. Where one file has both ids they
    stay two items, and nothing changes for ids that both files write alike.
    """
    whole = "regexp_full_match({0}, '-?[0-9]+(\\.0+)?')"
    count = "SELECT count(*) FROM events WHERE item IS NULL"
    if not (before := scratch.run(f"{count} AND {whole.format('unknown')}")[0]):
        return
    scratch.run(
        f"""UPDATE events SET item = same.item, has_text = same.has_text, unknown = NULL
        FROM (
            SELECT split_part(item_id, '.', 1) AS number, min(item) AS item, bool_or(has_text) AS has_text
            FROM codes WHERE {whole.format("item_id")} GROUP BY 1 HAVING count(*) = 1
        ) same
        WHERE events.item IS NULL AND {whole.format("unknown")}
        AND split_part(unknown, '.', 1) = same.number"""
    )
    matched = before - scratch.run(f"{count} AND {whole.format('unknown')}")[0]
    raw.repairs["interactions matched with an item by its whole number (12.0 is 12)"] += matched


def _unknown_items(raw: RawData, recipe: Recipe, scratch: Scratch, count: int) -> None:
    """Interactions whose item the items file lacks: an error, or a counted repair."""
    if recipe.unknown_items == "error":
        row, name = scratch.run('SELECT min("row"), arg_min(unknown, "row") FROM events WHERE item IS NULL')
        raise UserError(
            f"{raw.place(row)}: item '{name}' is not in the items file ({count:,} such interactions); add it "
            'there, or set unknown_items = "drop" in the recipe.'
        )
    raw.repairs["interactions with unknown items dropped"] += count


def _drop_repeats(recipe: Recipe, staged: Staged) -> None:
    """Exact repeats of user, item and time, then repeats of user and item: the first stays."""
    if recipe.duplicate_reviews == "drop":
        _replace(staged, 'time, min("row") AS "row"', "time", "duplicate reviews")
    if recipe.repeats == "first":
        first = 'min(struct_pack(t := time, r := "row"))'
        _replace(staged, f'{first}.t AS time, {first}.r AS "row"', "", "repeated pairs")


def _replace(staged: Staged, columns: str, more: str, why: str) -> None:
    groups = ", ".join(['"user"', "item", *([more] if more else [])])
    staged.scratch.run(f'CREATE TABLE fewer AS SELECT "user", item, {columns} FROM kept GROUP BY {groups}')
    staged.scratch.run("DROP TABLE kept")
    staged.scratch.run("ALTER TABLE fewer RENAME TO kept")
    (left,) = staged.scratch.run("SELECT count(*) FROM kept")
    staged.drop(staged.interactions - left, why)
