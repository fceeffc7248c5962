"""The rows that SASRec reads: slices of users, and how they are packed into bins of equal width.

A row is one run through the recommender: a slice of a user, and where in it a next item is predicted.
`packed` training cuts few rows and predicts at every position; `prefixes` cuts one row per (prefix, target)
pair, as published code does. Both give the same pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmark.data.filters import positions_within, target_positions
from benchmark.model.chunks import Ints


@dataclass(frozen=True)
class Rows:
    """Rows over a flat array of item indices. All fields are `[R]` int64."""

    user: Ints
    start: Ints
    """Index of the first input in the flat array."""
    length: Ints
    """Number of inputs; the targets are the inputs shifted by one."""
    first: Ints
    """Position of the row from which on a next item is predicted."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def predictions(self) -> Ints:
        """`[R]`, predictions of each row."""
        return self.length - self.first

    @property
    def inputs(self) -> Ints:
        """Index in the flat array of every input, row by row."""
        return ranges(self.start, self.length)

    @property
    def targets(self) -> Ints:
        """Index in the flat array of the target of every prediction, row by row."""
        return ranges(self.start + self.first + 1, self.predictions)

    def take(self, index: Ints) -> Rows:
        """The rows at `index`."""
        return Rows(self.user[index], self.start[index], self.length[index], self.first[index])


def training_rows(
    offsets: Ints, train_end: Ints, window: int, mode: str, slide: int = 0, stride: int = 1
) -> Rows:
    """Rows of all training pairs: item j of a training sequence from at most `window` items before it.

    `offsets` `[U + 1]` delimits users in the flat array, `train_end` `[U]` counts training interactions.
    A packed user is one row while the prefix grows up to `window`, then one row per `stride` further targets.
    With stride 1 each target has exactly the history that its literal prefix has; with more, a target is
    predicted from the last `window - stride + 1` to `window` items, and a row of `window` inputs serves
    `stride` targets instead of one.

    With `slide`, every run of `slide` successive interactions of a user is read as a sequence of its own
    (slide-window augmentation, arXiv 2403.11136), so that a target occurs after several lengths of history.
    """
    owner = np.arange(len(train_end))  # user of each sequence; without augmentation a user has one
    begin, length = offsets[:-1], train_end
    if slide:
        runs = np.maximum(length - slide, 0) + 1
        owner = np.repeat(owner, runs)
        begin = begin[owner] + positions_within(runs)
        length = np.minimum(length[owner], slide)
    pairs = np.maximum(length - 1, 0)
    growing = np.minimum(pairs, window) if mode == "packed" else np.zeros_like(pairs)
    whole = np.flatnonzero(growing)
    head = Rows(owner[whole], begin[whole], growing[whole], np.zeros_like(whole))
    rest = pairs - growing
    runs = -(-rest // stride)
    sequence = np.repeat(np.arange(len(pairs)), runs)
    done = growing[sequence] + positions_within(runs) * stride  # targets before those of the row
    last = np.minimum(done + stride, pairs[sequence])  # position in the sequence of its last target
    history = np.minimum(last, window)
    tail = Rows(owner[sequence], begin[sequence] + last - history, history, history - (last - done))
    return Rows(
        *(np.concatenate([getattr(head, f), getattr(tail, f)]) for f in ("user", "start", "length", "first"))
    )


def evaluation_rows(offsets: Ints, target_at: Ints, window: int, target_end: Ints | None = None) -> Rows:
    """A row for each target, by user and then by time: the `window` items before it.

    A user's targets stand from `target_at` `[U]` (-1: none) up to before `target_end` `[U]`; he has one where
    that is None.
    """
    end = target_at + 1 if target_end is None else target_end
    user, at = target_positions(np.where(target_at > 0, target_at, -1), end)
    length = np.minimum(at, window)
    return Rows(user, offsets[:-1][user] + at - length, length, length - 1)


def joined(rows: Rows) -> Rows:
    """The same predictions in fewer rows: a row that only goes on where the one before it ends, from the same
    start, becomes one with it.

    A state sees what stands before it in its row, so that a user's next items within one window need one pass
    over his history. The predictions keep their order.
    """
    goes_on = (rows.start[1:] == rows.start[:-1]) & (rows.first[1:] == rows.length[:-1])
    last = np.flatnonzero(np.append(~goes_on, True))
    begin = np.flatnonzero(np.insert(~goes_on, 0, True))
    return replace(rows.take(last), first=rows.first[begin])


def share_of_users(rows: Rows, rank: int, world: int) -> Ints:
    """Which of `rows` are those of every `world`-th user, from number `rank` on: `[r]` places."""
    _, number = np.unique(rows.user, return_inverse=True)
    return np.flatnonzero(number % world == rank)


@dataclass(frozen=True)
class Packed:
    """Rows laid one after another into bins of equal width, so that hardly a slot is padding."""

    source: Ints
    """`[N, S]` index into the flat item array; -1 is padding."""
    position: Ints
    """`[N, S]` position within the row."""
    segment: Ints
    """`[N, S]` number of the row; -1 is padding."""
    slot: Ints
    """`[P]` flat slot (bin * S + column) of each prediction."""
    row: Ints
    """`[P]` row of each prediction."""


def pack(rows: Rows, width: int) -> Packed:
    """Lay `rows` (each at most `width` long) into bins of `width` slots, next fit.

    The predictions come row by row, in the order of `rows`.
    """
    place = _places(rows.length, width)
    bins = int(place[-1] // width) + 1 if len(place) else 0
    row_of = np.repeat(np.arange(len(rows)), rows.length)
    position = positions_within(rows.length)
    at = place[row_of] + position
    source, positions, segment = (np.full(bins * width, fill, np.int64) for fill in (-1, 0, -1))
    source[at] = rows.inputs
    positions[at] = position
    segment[at] = row_of
    predicted = position >= rows.first[row_of]
    shape = (bins, width)
    return Packed(
        source.reshape(shape),
        positions.reshape(shape),
        segment.reshape(shape),
        at[predicted],
        row_of[predicted],
    )


def _places(lengths: Ints, width: int) -> Ints:
    """First flat slot of each row under next fit. Each bin takes rows until one does not fit."""
    ends = np.cumsum(lengths)
    places = np.empty_like(lengths)
    row, bin_start = 0, 0
    while row < len(lengths):  # one turn a bin, not a row
        base = ends[row] - lengths[row]
        stop = int(np.searchsorted(ends, base + width, side="right"))
        places[row:stop] = bin_start + (ends[row:stop] - lengths[row:stop] - base)
        row, bin_start = stop, bin_start + width
    return places


def bin_width(window: int) -> int:
    """Slots of a bin: room for the longest row, in a multiple of 64 that attention kernels like."""
    return -(-window // 64) * 64


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """`start, start + 1, ...` for each start, one after another."""
    return np.repeat(starts, lengths) + positions_within(lengths)
