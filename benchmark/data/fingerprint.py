"""What is known of a dataset once it is built: counts, shares, and a digest of the content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmark.data import filters
from benchmark.data.cautions import MISSING_WORDS
from benchmark.data.scratch import Scratch
from benchmark.data.staging import Staged

if TYPE_CHECKING:
    from benchmark.data.build import Built

UNKNOWN_ITEM = "unknown item"
"""Text of an item that has none, where the recipe keeps such items."""
Ints = npt.NDArray[np.int64]


def fingerprint(built: Built, staged: Staged, catalogue: Ints, times: npt.NDArray[Any]) -> dict[str, Any]:
    """Counts, shares and digest of what was built; cold items are those that never occur in training.

    `catalogue` `[I]` are the items among those of the file, `times` `[N]` those of the interactions.
    """
    items = len(catalogue)
    users, interactions = len(built.offsets) - 1, len(built.items)
    trained, held_out = np.zeros(items, dtype=bool), np.zeros(items, dtype=bool)  # [I]
    for first, last in _user_chunks(built.offsets):
        begin = built.offsets[first]
        part = built.items[begin : built.offsets[last]]
        lengths = np.diff(built.offsets[first : last + 1])
        position = np.arange(len(part)) - np.repeat(built.offsets[first:last] - begin, lengths)
        trained[part[position < np.repeat(built.split.train_end[first:last], lengths)]] = True
        held_out[part] = True
    facts: dict[str, Any] = {
        "users": users,
        "items": items,
        "interactions": interactions,
        "interactions_per_user": interactions / users,
        "interactions_per_item": interactions / items,
        "share_without_text": int(staged.no_text[catalogue].sum()) / items,
        "share_duplicate_text": _shared_texts(staged.scratch, catalogue) / items,
        "share_equal_times": _equal_neighbours(times, built.offsets) / max(1, interactions - users),
        "texts_like_missing": _texts_like_missing(staged.scratch, catalogue),
        "cold_items": int((~trained & held_out).sum()),
        "items_without_interactions": int((~held_out).sum()),
    }
    for name, at in (("valid", built.split.valid_at), ("test", built.split.test_at)):
        targets = built.items[(built.offsets[:-1] + at)[at >= 0]]
        facts[f"{name}_targets"] = len(targets)
        facts[f"cold_{name}_targets"] = int((~trained)[targets].sum())
    facts["sha256"] = _content_digest(built)
    return facts


def _shared_texts(scratch: Scratch, catalogue: Ints) -> int:
    """How many items of the catalogue have a text that another one has too."""
    (count,) = scratch.row(
        f"""SELECT coalesce(sum(copies), 0) FROM (
            SELECT count(*) AS copies FROM items SEMI JOIN catalogue USING (item)
            WHERE text NOT IN ('', '{UNKNOWN_ITEM}') GROUP BY text HAVING count(*) > 1
        )""",
        catalogue=numbers(item=catalogue),
    )
    return int(count)


def _texts_like_missing(scratch: Scratch, catalogue: Ints) -> int:
    """How many items of the catalogue have a text of nothing but words for a missing value."""
    word = "|".join(map(re.escape, MISSING_WORDS))
    (count,) = scratch.row(
        f"""SELECT count(*) FROM items SEMI JOIN catalogue USING (item)
        WHERE regexp_full_match(lower(text), '({word})( ({word}))*')""",
        catalogue=numbers(item=catalogue),
    )
    return int(count)


def _equal_neighbours(times: npt.NDArray[Any], offsets: Ints) -> int:
    """How many interactions have the time of the one before them of the same user."""
    count = 0
    for first, last in _user_chunks(offsets):
        part = times[offsets[first] : offsets[last]]
        same = part[1:] == part[:-1]
        same[offsets[first + 1 : last] - offsets[first] - 1] = False  # between two users
        count += int(same.sum())
    return count


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
    for array in (built.offsets, built.items, split.train_end, split.valid_at, split.test_at):
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
