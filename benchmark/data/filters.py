"""Filters and splits on plain arrays: interactions `[N]` as user and item indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from methods.errors import UserError

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def k_core(users: Ints, items: Ints, k: int) -> Mask:
    """Interactions `[N]` of the largest subset in which every user and every item has at least `k`."""
    keep = np.ones(len(users), dtype=bool)
    while True:
        per_user = np.bincount(users[keep], minlength=users.max(initial=0) + 1)
        per_item = np.bincount(items[keep], minlength=items.max(initial=0) + 1)
        smaller = keep & (per_user[users] >= k) & (per_item[items] >= k)
        if smaller.sum() == keep.sum():
            return keep
        keep = smaller


def first_of_pairs(users: Ints, items: Ints) -> Mask:
    """Interactions `[N]` that are the first of their (user, item) pair."""
    keep = np.zeros(len(users), dtype=bool)
    pairs = users * (items.max(initial=0) + 1) + items
    keep[np.unique(pairs, return_index=True)[1]] = True
    return keep


def most_recent(users: Ints, n: int) -> Mask:
    """The last `n` interactions of each user; users stand one after another in time order."""
    ends = np.flatnonzero(np.diff(users, append=-1)) + 1  # [U] one past each user's last
    lengths = np.diff(ends, prepend=0)
    from_end = np.repeat(ends, lengths) - np.arange(len(users))  # [N] 1 for the last
    return from_end <= n


@dataclass(frozen=True)
class Split:
    """Where training ends and the targets stand in each user's sequence, all `[U]` int64."""

    train_end: Ints
    valid_at: Ints
    test_at: Ints


def leave_one_out(lengths: Ints) -> Split:
    """Last interaction for test, second last for validation; every length `[U]` is at least 3."""
    return Split(lengths - 2, lengths - 2, lengths - 1)


def temporal(
    times: npt.NDArray[Any], offsets: Ints, valid_share: float, test_share: float, where: str
) -> Split:
    """Cut all users at two moments; a target is the first interaction of a user in a period.

    A user whose first interaction is in a period has no history there, and so no target. `where` names the
    dataset in an error: timestamps must be a clock that all users share, not positions in a sequence.
    """
    starts = times[offsets[:-1]]
    if len(starts) > 1 and np.unique(starts, return_counts=True)[1].max() >= 0.9 * len(starts):
        raise UserError(
            f"{where}: a temporal split needs clock times, but nearly all users begin at the same timestamp, "
            'so these are positions in each user\'s sequence; set split = "leave-one-out".'
        )
    cuts = np.quantile(times, [1 - valid_share - test_share, 1 - test_share], method="inverted_cdf")
    users = np.repeat(np.arange(len(starts)), np.diff(offsets))  # [N]
    before = [np.bincount(users[times < cut], minlength=len(starts)) for cut in cuts]  # two of [U]
    train_end, valid_end = (counts.astype(np.int64) for counts in before)
    lengths = np.diff(offsets)
    valid_at = np.where((train_end < valid_end) & (train_end > 0), train_end, -1)
    test_at = np.where((valid_end < lengths) & (valid_end > 0), valid_end, -1)
    if (valid_at < 0).all() or (test_at < 0).all():
        raise UserError(f"{where}: the temporal split leaves no targets; raise valid_share or test_share.")
    return Split(train_end, valid_at, test_at)
