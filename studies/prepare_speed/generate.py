"""Long-tailed interactions and their catalogue, as CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_CHUNK = 1 << 20
_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
_WORDS = (
    "classic", "portable", "stainless", "steel", "adjustable", "wireless", "cotton", "kitchen", "garden",
    "travel", "set", "large", "small", "black", "replacement", "cover", "case", "organizer", "holder",
    "light", "cable", "brush", "paper", "storage", "outdoor", "water", "filter", "pro", "kit",
)  # fmt: skip


def make_interactions(path: Path, rows: int, seed: int = 0) -> None:
    """Write `user_id,item_id,rating,timestamp`, in no order.

    A user for 3.4 and an item for 17 interactions, as in Amazon's book reviews. The activity of users is
    lognormal, the popularity of items falls with the power 2/3 of their rank; 1 row in 100 repeats the one
    before, 1 in 50 repeats its user and item at another time.
    """
    rng = np.random.default_rng(seed)
    users, items = max(rows * 5 // 17, 10), max(rows // 17, 10)
    ends = np.cumsum(rng.lognormal(0, 1.4, users))
    with path.open("wb") as file:
        file.write(b"user_id,item_id,rating,timestamp\n")
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            # sorted draws walk through `ends` in order, which is many times as fast; then they are dealt out
            user = np.searchsorted(ends, np.sort(rng.random(count)) * ends[-1])[rng.permutation(count)]
            item = (items * rng.random(count) ** 3).astype(np.int64)
            moment = rng.integers(1_000_000_000, 1_600_000_000, count)
            chance = rng.random(count)
            for again, columns in (
                (chance < 0.01, (user, item, moment)),
                ((chance >= 0.01) & (chance < 0.03), (user, item)),
            ):
                at = np.flatnonzero(again[1:]) + 1
                for column in columns:
                    column[at] = column[at - 1]
            lines: list[npt.NDArray[np.uint8] | bytes] = [
                _code(user, 13, b"A"), b",", _code(item, 8, b"B0"), b",", _digit(rng.integers(1, 6, count)),
                b".0,", _decimal(moment, 10), b"\n",
            ]  # fmt: skip
            file.write(_side_by_side(lines, count))


def make_items(path: Path, rows: int, seed: int = 0) -> None:
    """Write `item_id,title` of every item that may occur; 1 in 100 has no title."""
    rng = np.random.default_rng([seed, 1])
    items = max(rows // 17, 10)
    with path.open("w", encoding="utf-8") as file:
        file.write("item_id,title\n")
        for start in range(0, items, _CHUNK // 8):
            number = np.arange(start, min(start + _CHUNK // 8, items))
            names = _side_by_side([_code(number, 8, b"B0"), b"\n"], len(number)).decode().split()
            words = rng.integers(0, len(_WORDS), (len(number), 8)).tolist()
            bare = rng.random(len(number)) < 0.01
            for index, name in enumerate(names):
                title = "" if bare[index] else " ".join([_WORDS[word] for word in words[index]])
                file.write(f"{name},{title}{'' if bare[index] else f' {number[index]}'}\n")


def _code(number: Ints, width: int, head: bytes) -> npt.NDArray[np.uint8]:
    """`[n, len(head) + width]` characters: a number in base 36, scattered so that neighbours look unlike."""
    mixed = number * 2_654_435_761 % 36 ** min(width, 12)
    columns = np.empty((len(number), width), np.uint8)
    for column in reversed(range(width)):
        columns[:, column] = _DIGITS[mixed % 36]
        mixed //= 36
    heads = np.broadcast_to(np.frombuffer(head, np.uint8), (len(number), len(head)))
    return np.concatenate([heads, columns], axis=1)


def _decimal(number: Ints, width: int) -> npt.NDArray[np.uint8]:
    return (number[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)


def _digit(number: Ints) -> npt.NDArray[np.uint8]:
    return _decimal(number, 1)


def _side_by_side(parts: Sequence[npt.NDArray[np.uint8] | bytes], count: int) -> bytes:
    """Lines of equal length from columns `[count, width]` and constants."""
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        if isinstance(part, bytes)
        else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1).tobytes()


def make(folder: Path, rows: int) -> Path:
    """A folder with both files, made unless it is there."""
    if not (folder / "items.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_interactions(folder / "interactions.csv", rows)
        make_items(folder / "items.csv", rows)
    return folder
