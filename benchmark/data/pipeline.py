"""From raw interactions and items to sequences, targets and fingerprint: the steps of docs/datasets.md.

What needs all names at once is done in SQL on disk (`staging`); here are the steps on numbers, in chunks,
with a few numbers per user and item in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.data import filters
from benchmark.data.amazon import EDITIONS, read_amazon
from benchmark.data.database import Scratch, scratch
from benchmark.data.movielens import read_movielens
from benchmark.data.raw import RawData, read_external
from benchmark.data.recipe import Recipe
from benchmark.data.staging import Staged, stage
from benchmark.data.tables import read_tables
from benchmark.data.timestamps import TICKS, clock_unit
from benchmark.data.unisrec import read_unisrec
from methods.errors import UserError

MISSING_WORDS = (
    "nan", "null", "none", "nil", "n/a", "#n/a", "na", "<na>", "nat", "undefined", "-", "--", "?",
)  # fmt: skip
"""How programs write a value that is missing."""


_READERS: dict[str, Callable[[Mapping[str, Path], Recipe, Counter[str]], RawData]] = {
    **dict.fromkeys(("tsv", "csv", "parquet", "recbole"), read_tables),
    "unisrec": read_unisrec,
    **dict.fromkeys(EDITIONS, read_amazon),
    "movielens": read_movielens,
}
"""Format -> its reader."""

Ints = npt.NDArray[np.int64]
Begin = Callable[[str], None]
"""Called with the name of each step when it begins."""


@dataclass
class Built:
    """What the filters and the split leave, before it is written; other fields as in `Prepared`."""

    user_ids: Any
    """`[U]` Arrow column of strings."""
    items: npt.NDArray[np.int32]
    """`[N]`, on disk."""
    offsets: Ints
    split: filters.Split
    catalogue: Callable[[], Iterator[Any]]
    """Record batches of `item_id` and `text`, all I in order, for as often as they are asked for."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    ceiling: dict[str, dict[str, float]] | None = None


@contextmanager
def build(recipe: Recipe, files: Mapping[str, Path], parent: Path, begin: Begin) -> Iterator[Built]:
    """Read (or generate), filter and split; the order of the steps is the one of docs/datasets.md.

    What is built lies in a temporary folder below `parent` and goes with the context.
    """
    raw, ceiling = read(recipe, files)
    with scratch(parent) as database:
        staged = stage(raw, recipe, database, begin)
        chosen = _choose(staged, recipe, raw, begin)
        begin("sort")
        items, times = _sequences(staged, chosen, recipe)
        begin("fingerprint")
        built = _finish(staged, chosen, recipe, items, times)
        built.ceiling = ceiling
        built.fingerprint["dropped"] = dict(staged.dropped)
        built.fingerprint["repairs"] = {what: count for what, count in raw.repairs.items() if count}
        yield built


def read(recipe: Recipe, files: Mapping[str, Path]) -> tuple[RawData, dict[str, dict[str, float]] | None]:
    """What the recipe's files hold, or what is generated, and then also the ceiling.

    A fault that the recipe does not repair is a `UserError` naming file and row, when the streams are read.
    """
    if recipe.format == "synthetic":
        from benchmark.data.synthetic import generate

        return generate(recipe)
    if recipe.format not in _READERS:
        return read_external(files, recipe), None
    return _READERS[recipe.format](files, recipe, Counter()), None


@dataclass
class _Chosen:
    """Which interactions are left, before they are put in order."""

    before: Ints
    """`[U of the files]` interactions of each user of whom some are kept (the most recent), else 0."""
    lengths: Ints
    """`[U of the files]` how many are kept."""
    narrow: str
    """What narrows the table `kept` to the interactions counted in `before`, in SQL."""
    tables: dict[str, Any]
    """The tables that `narrow` names."""


def _choose(staged: Staged, recipe: Recipe, raw: RawData, begin: Begin) -> _Chosen:
    """Apply what needs counts only: k-core, most recent interactions, short users."""
    chosen = _core(staged, recipe.core, begin)
    if recipe.recent is not None:
        chosen.lengths = np.minimum(chosen.before, recipe.recent)
        earlier = int((chosen.before - chosen.lengths).sum())
        staged.drop(earlier, f"interactions before the {recipe.recent} most recent")
    if recipe.split == "leave-one-out":
        _drop_short_users(staged, chosen, recipe, raw)
    if (chosen.before == 0).any():
        chosen.narrow += ' SEMI JOIN kept_users USING ("user")'
        chosen.tables["kept_users"] = numbers(user=np.flatnonzero(chosen.before))
    return chosen


def _core(staged: Staged, k: int, begin: Begin) -> _Chosen:
    """All interactions, or those of the k-core."""
    before = np.zeros(staged.users, np.int64)
    if not k:
        for batch in staged.scratch.stream('SELECT "user", count(*) FROM kept GROUP BY "user"'):
            before[np.asarray(batch.column(0))] = np.asarray(batch.column(1))
        return _Chosen(before, before, "", {})
    begin("core")
    path = staged.scratch.folder / "pairs.bin"
    with path.open("wb") as file:
        for batch in staged.scratch.stream('SELECT "user", item FROM kept'):
            file.write(np.stack([np.asarray(column) for column in batch.columns], axis=1).tobytes())
    core_items, per_user = filters.k_core(path, staged.users, len(staged.allowed), k)
    path.unlink()
    before = per_user.astype(np.int64)
    staged.drop(staged.interactions - int(before.sum()), f"interactions outside the {k}-core")
    items = numbers(item=np.flatnonzero(core_items))
    return _Chosen(before, before, " SEMI JOIN core_items USING (item)", {"core_items": items})


def _drop_short_users(staged: Staged, chosen: _Chosen, recipe: Recipe, raw: RawData) -> None:
    """Leave-one-out needs three interactions: one for training, one for validation, one for test."""
    short = (chosen.lengths > 0) & (chosen.lengths < 3)
    affected = int(short.sum())
    if not affected:
        return
    if recipe.short_users == "error":
        user = int(np.argmax(short))
        (name,) = staged.scratch.run(f'SELECT user_id FROM users WHERE "user" = {user}')
        (row,) = staged.scratch.run(
            f'SELECT min("row") FROM kept {chosen.narrow} WHERE "user" = {user}', **chosen.tables
        )
        raise UserError(
            f"{raw.place(row)}: user '{name}' has {chosen.lengths[user]} interactions left, leave-one-out "
            f'needs three ({affected:,} such users); set short_users = "drop" in the recipe.'
        )
    raw.repairs["users with fewer than three interactions dropped"] += affected
    staged.drop(int(chosen.lengths[short].sum()), "interactions of users with fewer than three")
    chosen.before = np.where(short, 0, chosen.before)
    chosen.lengths = np.where(short, 0, chosen.lengths)


def _sequences(
    staged: Staged, chosen: _Chosen, recipe: Recipe
) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """Items and times `[N]`, on disk, by user, then time, then the order of the file or a random one."""
    paths = [staged.scratch.folder / f"{name}.bin" for name in ("items", "times")]
    ends = np.cumsum(chosen.before)
    # a digest, as DuckDB's own random numbers depend on the number of threads
    tie = f"""md5(concat({recipe.seed}, ':', "row")), """ if recipe.tie_order == "random" else ""
    query = f'SELECT "user", item, time FROM kept {chosen.narrow} ORDER BY "user", time, {tie}"row"'
    done = 0
    with paths[0].open("wb") as items_file, paths[1].open("wb") as times_file:
        for batch in staged.scratch.stream(query, **chosen.tables):
            users, items, times = (np.asarray(column) for column in batch.columns)
            from_end = ends[users] - np.arange(done, done + len(users))  # [n] 1 for a user's last
            recent = from_end <= chosen.lengths[users]
            items_file.write(items[recent].tobytes())
            times_file.write(times[recent].tobytes())
            done += len(users)
    sorted_items = np.memmap(paths[0], np.int32, "r+")
    assert done == chosen.before.sum() and len(sorted_items) == chosen.lengths.sum()
    return sorted_items, np.memmap(paths[1], np.float64 if staged.real_times else np.int64, "r")


def _finish(
    staged: Staged, chosen: _Chosen, recipe: Recipe, items: npt.NDArray[np.int32], times: npt.NDArray[Any]
) -> Built:
    """Renumber items without gaps, split, and take the fingerprint."""
    kept = np.flatnonzero(chosen.lengths)
    lengths = chosen.lengths[kept]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)  # [U+1]
    touched = np.zeros(len(staged.allowed), dtype=bool)  # [I in the file]
    for chunk in chunks(len(items)):
        touched[items[chunk]] = True
    in_catalogue = staged.allowed if recipe.untouched == "keep" else touched
    catalogue = np.flatnonzero(in_catalogue)
    if missed := int((staged.allowed & ~touched).sum()) if recipe.untouched == "drop" else 0:
        staged.dropped["items without interactions"] += missed
    renumber = np.cumsum(in_catalogue, dtype=np.int32) - 1
    for chunk in chunks(len(items)):
        items[chunk] = renumber[items[chunk]]
    if recipe.split == "temporal":
        shares = (recipe.valid_share, recipe.test_share)
        split = filters.temporal(times, offsets, *shares, staged.where, recipe.target, recipe.seed)
    else:
        split = filters.leave_one_out(lengths)
    users = numbers(user=kept)
    names = 'SELECT user_id FROM users SEMI JOIN in_catalogue USING ("user") ORDER BY "user"'
    built = Built(
        user_ids=staged.scratch.column(names, in_catalogue=users),
        items=items,
        offsets=offsets,
        split=split,
        catalogue=lambda: _catalogue(staged.scratch, in_catalogue),
    )
    if len(catalogue) < 2:
        raise UserError(
            f"{staged.where}: the catalogue has one item, so nothing can be ranked; it needs at least two "
            "items with interactions."
        )
    built.fingerprint = fingerprint(built, staged, catalogue, times)
    return built


def _catalogue(scratch: Scratch, in_catalogue: filters.Mask) -> Iterator[Any]:
    """Batches of `item_id` and `text` of the items `in_catalogue` `[I in the file]`."""
    last = -1
    for batch in scratch.stream("SELECT item, item_id, text FROM items"):
        numbers = np.asarray(batch.column(0))
        # DuckDB returns a table in the order in which it was filled (preserve_insertion_order).
        assert numbers[0] > last and (np.diff(numbers) > 0).all()
        last = int(numbers[-1])
        names, texts = (column.filter(pa.array(in_catalogue[numbers])) for column in batch.columns[1:])
        texts = pc.if_else(pc.equal(pc.binary_length(texts), 0), UNKNOWN_ITEM, texts)
        yield pa.RecordBatch.from_pydict({"item_id": names, "text": texts})


UNKNOWN_ITEM = "unknown item"
"""Text of an item that has none, where the recipe keeps such items."""


def fingerprint(built: Built, staged: Staged, catalogue: Ints, times: npt.NDArray[Any]) -> dict[str, Any]:
    """Counts, shares and digest of what was built; cold items are those that never occur in training.

    `catalogue` `[I]` are the items among those of the file, `times` `[N]` those of the interactions.
    """
    items = len(catalogue)
    users, interactions = len(built.offsets) - 1, len(built.items)
    trained, held_out = np.zeros(items, dtype=bool), np.zeros(items, dtype=bool)  # [I]
    equal_times = 0
    for first, last in _user_chunks(built.offsets):
        offsets = built.offsets[first : last + 1]
        part = built.items[offsets[0] : offsets[-1]]
        trained[part[filters.in_training(offsets, built.split.train_end[first:last])]] = True
        held_out[part] = True
        same = np.diff(times[offsets[0] : offsets[-1]]) == 0
        same[offsets[1:-1] - offsets[0] - 1] = False  # between two users
        equal_times += int(same.sum())
    shared_texts, missing_texts = _text_counts(staged.scratch, catalogue)
    statistics: dict[str, Any] = {
        "users": users,
        "items": items,
        "interactions": interactions,
        "interactions_per_user": interactions / users,
        "interactions_per_item": interactions / items,
        "share_without_text": int(staged.no_text[catalogue].sum()) / items,
        "share_duplicate_text": shared_texts / items,
        "share_equal_times": equal_times / max(1, interactions - users),
        "texts_like_missing": missing_texts,
        "cold_items": int((~trained & held_out).sum()),
        "items_without_interactions": int((~held_out).sum()),
    }
    split = built.split
    for name, at, end in (
        ("valid", split.valid_at, split.valid_end),
        ("test", split.test_at, split.test_end),
    ):
        user, position = filters.target_positions(at, end)
        targets = built.items[built.offsets[user] + position]
        if split.has_several:
            statistics[f"{name}_users"] = int((at >= 0).sum())
        statistics[f"{name}_targets"] = len(targets)
        statistics[f"cold_{name}_targets"] = int((~trained)[targets].sum())
    statistics |= _time_statistics(built, times)
    statistics["sha256"] = _content_digest(built)
    return statistics


def _time_statistics(built: Built, times: npt.NDArray[Any]) -> dict[str, Any]:
    """How the test targets lie in time; None where the times `[N]` do not tell.

    The share needs clock times, the days also their unit. A split always leaves training interactions and
    test targets.
    """
    unit = "position" if filters.are_positions(times, built.offsets) else clock_unit(times)
    older = days = None
    begin, split = built.offsets[:-1], built.split
    user, position = filters.target_positions(split.test_at, split.test_end)
    targets = begin[user] + position  # [T]
    if unit != "position":
        newest = times[(begin + split.train_end - 1)[split.train_end > 0]].max()
        older = float((times[targets] < newest).mean())
    if unit in TICKS:
        days = (times[targets] - times[targets - 1]) / (86_400 * TICKS[unit])  # [T]
    return {
        "time_unit": unit,
        "share_older_test_targets": older,
        "median_days_to_test_target": None if days is None else float(np.median(days)),
        "p90_days_to_test_target": None if days is None else float(np.quantile(days, 0.9)),
    }


def _text_counts(scratch: Scratch, catalogue: Ints) -> tuple[int, int]:
    """Items of the catalogue with the text of another one, and with nothing but words for a missing value."""
    word = "|".join(map(re.escape, MISSING_WORDS))
    shared, missing = scratch.run(
        f"""WITH texts AS (SELECT text FROM items SEMI JOIN catalogue USING (item)),
        copies AS (
            SELECT count(*) AS count FROM texts WHERE text NOT IN ('', '{UNKNOWN_ITEM}') GROUP BY text
        )
        SELECT (SELECT coalesce(sum(count), 0) FROM copies WHERE count > 1),
               (SELECT count(*) FROM texts WHERE regexp_full_match(lower(text), '({word})( ({word}))*'))""",
        catalogue=numbers(item=catalogue),
    )
    return int(shared), int(missing)


def numbers(**columns: Ints) -> Any:
    """A table of 32-bit numbers, for a query."""
    return pa.table({name: pa.array(values.astype(np.int32)) for name, values in columns.items()})


def chunks(length: int) -> Iterator[slice]:
    """Parts of an array that may be larger than the memory."""
    return (slice(start, start + filters.CHUNK) for start in range(0, length, filters.CHUNK))


def _user_chunks(offsets: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of users that together have about `filters.CHUNK` interactions each."""
    edges = np.searchsorted(offsets, np.arange(0, offsets[-1], filters.CHUNK), side="left")
    edges = np.unique(np.append(edges, len(offsets) - 1))
    return zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _content_digest(built: Built) -> str:
    """SHA-256 over sequences, split, ids and texts, the same on every machine."""
    result = hashlib.sha256()
    split = built.split
    ends = (split.valid_end, split.test_end) if split.has_several else ()
    for array in (built.offsets, built.items, split.train_end, split.valid_at, split.test_at, *ends):
        for chunk in chunks(len(array)):
            result.update(array[chunk].astype("<i8").tobytes())
    for chunk in built.user_ids.chunks:
        result.update(_framed(chunk))
    for name in ("item_id", "text"):
        for batch in built.catalogue():
            result.update(_framed(batch.column(name)))
    return result.hexdigest()


def _framed(strings: Any) -> bytes:
    """Every string as its length in bytes (8 bytes, little-endian) and its UTF-8, one after another."""
    column = strings.cast(pa.large_string())
    _, ends, data = column.buffers()
    edges = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    lengths, before = np.diff(edges), edges[:-1] - edges[0]
    result = np.empty(edges[-1] - edges[0] + 8 * len(column), np.uint8)
    heads = (before + 8 * np.arange(len(column)))[:, None] + np.arange(8)  # [n, 8]
    result[heads] = lengths.astype("<i8")[:, None].view(np.uint8)
    body = np.ones(len(result), dtype=bool)
    body[heads] = False
    result[body] = np.frombuffer(data, np.uint8)[edges[0] : edges[-1]] if data else []
    return result.tobytes()
