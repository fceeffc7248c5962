"""Exact ranks of a control, a recommender without training: what `evaluate` is for trained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.data.filters import in_training
from benchmark.model.batch import Ints
from benchmark.results.metrics import Ranks
from benchmark.train.evaluate import TopItems, UserRanks, best_items, count_ranks, masked_histories
from benchmark.train.sequences import Rows
from methods.controls.base import Control, Floats, TrainingData

SCORES = 2**23
"""Scores of a batch of users: in fp32 32 MiB, of which a control may hold several."""


class ControlError(RuntimeError):
    """A control that does not do what `methods.controls.base.Control` demands."""


@dataclass(frozen=True)
class ScoredSplit:
    """The users of a split and what is known of them before the target."""

    items: Ints
    """The flat array of all interactions."""
    rows: Rows
    history_start: Ints

    @property
    def targets(self) -> Ints:
        """`[U]`."""
        targets: Ints = self.items[self.rows.start + self.rows.length]
        return targets

    def batches(self, users: int) -> Iterator[ScoredSplit]:
        """The split in parts of so many users."""
        for begin in range(0, len(self.rows), users):
            part = self.rows.take(np.arange(begin, min(begin + users, len(self.rows))))
            yield ScoredSplit(self.items, part, self.history_start)

    def histories(self) -> Ints:
        """The items that a control sees, padded with -1 in front: `[U, L]`."""
        rows, width = self.rows, int(self.rows.length.max())
        column = rows.length[:, None] - width + np.arange(width)  # [U, L], negative before the history
        index = rows.start[:, None] + np.maximum(column, 0)
        histories: Ints = np.where(column >= 0, self.items[index], -1)  # [U, L]
        return histories


def training_data(
    items: NDArray[Any], offsets: Ints, train_end: Ints, n_items: int, states: Floats | None = None
) -> TrainingData:
    """What a control may read of `[N]` interactions: no target of validation or test is in it.

    `offsets` `[U+1]` says where each user's interactions begin, `train_end` `[U]` how many are training.
    """
    trained = items[in_training(offsets, train_end)].astype(np.int64)
    return TrainingData(n_items, trained, np.concatenate([[0], np.cumsum(train_end)]), states)


def rank_users(
    control: Control,
    config: Any,
    split: ScoredSplit,
    top: int = 0,
    scores_at_once: int = SCORES,
    change: Callable[[Ints], Ints] | None = None,
) -> UserRanks:
    """Exact ranks of the targets of `split`, and the `top` best items of each user.

    `change` alters the histories `[u, L]` that the control sees, not what is left out of the ranking.
    Raises `ControlError` for scores that break the contract.
    """
    n_items = control.data.n_items
    items, row = torch.ones(n_items), torch.arange(n_items)
    counted, lists = [], []
    for batch in split.batches(max(1, scores_at_once // n_items)):
        histories = batch.histories()
        scores = control.scores(change(histories) if change else histories, config)
        name = type(control).__name__
        if np.shape(scores) != (len(batch.rows), n_items):
            raise ControlError(
                f"{name}.scores gave an array of shape {list(np.shape(scores))} for {len(batch.rows)} users "
                f"and {n_items} items; it must be [users, items]."
            )
        if not np.isfinite(scores).all():
            raise ControlError(f"{name} gave scores that are not finite with {config}.")
        history, counts = masked_histories(batch.items, batch.rows, batch.history_start, batch.targets)
        target, past, masked = (torch.from_numpy(array) for array in (batch.targets, history, counts))
        own = torch.tensor(np.asarray(scores, np.float32))  # a copy: counting works in place
        if top:
            lists.append(best_items(own, row, past, masked, top).numpy())  # [u, 2 top]
        counted.append(count_ranks(own, items, n_items, target, past, masked).numpy())
    best, tied, best_masked, tied_masked = np.concatenate(counted).astype(np.int64).T  # four of [U]
    listed = None
    if top:
        columns = np.concatenate(lists)  # [U, 2 top]
        listed = TopItems(columns[:, :top].astype(np.int32), columns[:, top:].astype(np.float16))
    return UserRanks(split.rows.user, Ranks(best, tied), Ranks(best_masked, tied_masked), listed)
