"""Filters and splits on plain arrays: interactions `[N]` as user and item indices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from methods.errors import UserError

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]

CHUNK = 1 << 22
"""Interactions that are looked at at a time where all of them might not fit into memory."""


def k_core(path: Path, n_users: int, n_items: int, k: int) -> tuple[Mask, Counts]:
    """The largest subset of the interactions in which every user and every item has at least `k`.

    Returns which items `[I]` it has, and the interactions of each user `[U]` in it. `path` holds the (user,
    item) pairs, `[N, 2]` int32, and afterwards those of the core. The memory needed is a counter for each
    user and item and a chunk of pairs: semi-external, as Cheng et al., "Efficient core decomposition in
    massive networks", ICDE 2011, have it. All pairs are counted once; a round then looks up the pairs that
    are left, and subtracts those that leave.
    """
    per_user, per_item = np.zeros(n_users, np.int32), np.zeros(n_items, np.int32)
    one = np.int32(1)  # of the counters' type, and indices below of numpy's own: ten times as fast
    for pairs in _pairs(path):
        np.add.at(per_user, pairs[:, 0].astype(np.intp), one)
        np.add.at(per_item, pairs[:, 1].astype(np.intp), one)
    while True:
        users, items = per_user >= k, per_item >= k
        gone = 0
        for pairs in _leaving(path, users, items):
            np.subtract.at(per_user, pairs[:, 0].astype(np.intp), one)
            np.subtract.at(per_item, pairs[:, 1].astype(np.intp), one)
            gone += len(pairs)
        if not gone:
            return items, per_user


def _pairs(path: Path) -> Iterator[Counts]:
    """The pairs of a file, a chunk `[n, 2]` at a time."""
    with path.open("rb") as file:
        while len(pairs := np.fromfile(file, np.int32, 2 * CHUNK).reshape(-1, 2)):
            yield pairs


def _leaving(path: Path, users: Mask, items: Mask) -> Iterator[Counts]:
    """The pairs that are of no such user or item, `[n, 2]` of each chunk; they are taken out of the file."""
    seen = end = 0
    with path.open("r+b") as file:
        for pairs in _pairs(path):
            stays = users[pairs[:, 0]] & items[pairs[:, 1]]
            left = pairs if stays.all() else _rows(pairs, stays)
            if len(left) < len(pairs):
                yield _rows(pairs, ~stays)
            if seen > end or len(left) < len(pairs):
                file.seek(end)  # never beyond what has been read
                file.write(left.tobytes())
            seen += pairs.nbytes
            end += left.nbytes
        file.truncate(end)


def _rows(pairs: Counts, mask: Mask) -> Counts:
    """`pairs[mask]`, a pair taken as one number of 64 bits: twenty times as fast."""
    return pairs.view(np.int64)[mask[:, None]].view(np.int32).reshape(-1, 2)


@dataclass(frozen=True)
class Split:
    """Where training ends and the targets stand in each user's sequence, all `[U]` int64."""

    train_end: Ints
    valid_at: Ints
    """Position of the first validation target, -1 where there is none."""
    test_at: Ints
    valid_end: Ints
    """Position after the last validation target; `valid_at + 1` where a user has one target at most."""
    test_end: Ints

    @property
    def has_several(self) -> bool:
        """Whether a user has several targets in a period."""
        ends = ((self.valid_at, self.valid_end), (self.test_at, self.test_end))
        return any((end > at + 1).any() for at, end in ends)


def leave_one_out(lengths: Ints) -> Split:
    """Last interaction for test, second last for validation; every length `[U]` is at least 3."""
    return Split(lengths - 2, lengths - 2, lengths - 1, lengths - 1, lengths)


def target_positions(at: Ints, end: Ints) -> tuple[Ints, Ints]:
    """User and position in the user's sequence of each target, by user and then by time: two of `[T]`.

    The targets of a user stand from `at` `[U]` (-1: none) up to before `end` `[U]`.
    """
    count = np.where(at >= 0, end - at, 0)
    user = np.repeat(np.arange(len(at)), count)
    return user, at[user] + positions_within(count)


def distinct_before(items: Counts, offsets: Ints, n_items: int, user: Ints, position: Ints) -> Ints:
    """Distinct items in the history of each target, the target itself left out: `[T]`.

    Targets stand at `position` `[T]` in the sequence of their `user` `[T]`; the sequences are `items` `[N]`,
    from `offsets` `[U+1]`.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))  # [N]
    is_first = np.zeros(len(owner), dtype=bool)  # [N] the user's first interaction with the item
    is_first[np.unique(owner * n_items + items, return_index=True)[1]] = True
    before = np.concatenate([[0], np.cumsum(is_first)])  # [N+1] such interactions before each place
    begin = offsets[user]  # [T]
    distinct: Ints = before[begin + position] - before[begin] - ~is_first[begin + position]
    return distinct


def positions_within(lengths: Ints) -> Ints:
    """0, 1, ... up to each length, one after another: -> `[sum(lengths)]`."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def are_positions(times: npt.NDArray[Any], offsets: Ints) -> bool:
    """Whether times `[N]` are positions in each user's sequence: nearly all users begin at the same one."""
    starts = times[offsets[:-1]]
    return len(starts) > 1 and bool(np.unique(starts, return_counts=True)[1].max() >= 0.9 * len(starts))


def temporal(
    times: npt.NDArray[Any],
    offsets: Ints,
    valid_share: float,
    test_share: float,
    where: str,
    target: str = "successive",
    seed: int = 0,
) -> Split:
    """Cut all users at two moments; a user's `target` in a period is the first, the last or a random
    interaction, or all of them (`successive`).

    A user without interactions before a period has no target there, whatever `target` is, so that the users
    are always the same. `where` names the dataset in an error: timestamps must be a clock that all users
    share, not positions in a sequence.
    """
    if are_positions(times, offsets):
        raise UserError(
            f"{where}: a temporal split needs clock times, but nearly all users begin at the same timestamp, "
            'so these are positions in each user\'s sequence; set split = "leave-one-out".'
        )
    cuts = np.quantile(times, [1 - valid_share - test_share, 1 - test_share], method="inverted_cdf")
    lengths = np.diff(offsets)
    train_end, valid_end = (np.add.reduceat(times < cut, offsets[:-1], dtype=np.int64) for cut in cuts)
    rng = np.random.default_rng(seed)

    def targets(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Position of each user's first target in [begin, end), or -1, and that after the last: `[U]`."""
        at = end - 1 if target == "last" else begin
        if target == "random":
            at = rng.integers(begin, np.maximum(end, begin + 1))
        at = np.where((begin > 0) & (begin < end), at, -1)
        return at, np.where(at >= 0, end, 0) if target == "successive" else at + 1

    (valid_at, valid_stop), (test_at, test_stop) = targets(train_end, valid_end), targets(valid_end, lengths)
    if (valid_at < 0).all() or (test_at < 0).all():
        raise UserError(f"{where}: the temporal split leaves no targets; raise valid_share or test_share.")
    return Split(train_end, valid_at, test_at, valid_stop, test_stop)


def in_training(offsets: npt.NDArray[np.int64], train_end: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which interactions are training: `[U+1]` where each user's begin, `[U]` how many are -> `[N]`."""
    lengths = np.diff(offsets)
    training: npt.NDArray[np.bool_] = positions_within(lengths) < np.repeat(train_end, lengths)
    return training
