"""Exact ranks of a control, a recommender without training, and of its mixture with a trained one.

This is what `evaluate` is for trained recommenders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.filters import in_training
from benchmark.model.chunks import Ints
from benchmark.model.parallel import world_size
from benchmark.model.recommender import Recommender
from benchmark.train.batches import Sequences
from benchmark.train.evaluate import (
    Catalogue,
    TopItems,
    UserRanks,
    best_items,
    count_ranks,
    encode_catalogue,
    gather_rows,
    masked_histories,
    user_ranks,
    user_states,
)
from benchmark.train.rows import Rows, share_of_users
from methods.controls.base import Control, Floats, TrainingData

SCORES = 2**23
"""Scores of a batch of users: in fp32 32 MiB, of which a control may hold several."""


class ControlError(RuntimeError):
    """A control that does not do what `methods.controls.base.Control` demands."""


@dataclass(frozen=True)
class ScoredSplit:
    """The targets of a split and what is known before each."""

    items: Ints
    """The flat array of all interactions."""
    rows: Rows
    history_start: Ints

    @property
    def targets(self) -> Ints:
        """`[T]` items."""
        targets: Ints = self.items[self.rows.targets]
        return targets

    def batches(self, users: int) -> Iterator[ScoredSplit]:
        """The split in parts of so many targets."""
        for begin in range(0, len(self.rows), users):
            yield self.part(np.arange(begin, min(begin + users, len(self.rows))))

    def part(self, index: Ints) -> ScoredSplit:
        """The rows at `index` alone."""
        return ScoredSplit(self.items, self.rows.take(index), self.history_start)

    def histories(self) -> Ints:
        """The items that a control sees, padded with -1 in front: `[T, L]`."""
        rows, width = self.rows, int(self.rows.length.max())
        column = rows.length[:, None] - width + np.arange(width)  # [T, L], negative before the history
        index = rows.start[:, None] + np.maximum(column, 0)
        histories: Ints = np.where(column >= 0, self.items[index], -1)  # [T, L]
        return histories


def training_data(
    items: NDArray[Any], offsets: Ints, train_end: Ints, n_items: int, states: Floats | None = None
) -> TrainingData:
    """What a control may read of `[N]` interactions: no target of validation or test is in it.

    `offsets` `[U+1]` says where each user's interactions begin, `train_end` `[U]` how many are training.
    """
    trained = items[in_training(offsets, train_end)].astype(np.int64)
    return TrainingData(n_items, trained, np.concatenate([[0], np.cumsum(train_end)]), states)


def control_scores(control: Control, config: Any, histories: Ints) -> Floats:
    """Scores of all items: `[u, L]` -> `[u, I]`. Raises `ControlError` for scores that break the contract."""
    scores, name, n_items = control.scores(histories, config), type(control).__name__, control.data.n_items
    if np.shape(scores) != (len(histories), n_items):
        raise ControlError(
            f"{name}.scores gave an array of shape {list(np.shape(scores))} for {len(histories)} users "
            f"and {n_items} items; it must be [users, items]."
        )
    if not np.isfinite(scores).all():
        raise ControlError(f"{name} gave scores that are not finite with {config}.")
    return np.array(scores, np.float32)  # a copy: counting works in place


def rank_users(
    control: Control,
    config: Any,
    split: ScoredSplit,
    top: int = 0,
    scores_at_once: int = SCORES,
    change: Callable[[Ints], Ints] | None = None,
) -> UserRanks:
    """Exact ranks of the targets of `split`, and the `top` best items for each.

    `change` alters the histories `[u, L]` that the control sees, not what is left out of the ranking.
    Raises `ControlError` for scores that break the contract.
    """
    columns = []
    for batch in split.batches(max(1, scores_at_once // control.data.n_items)):
        histories = batch.histories()
        scores = control_scores(control, config, change(histories) if change else histories)
        columns.append(_ranked(batch, torch.from_numpy(scores), top).numpy())
    return _user_ranks(split, np.concatenate(columns), top)


@dataclass(frozen=True)
class FusedModel:
    """A trained recommender and a control, whose distributions over the catalogue are mixed.

    With the weight w a user's scores are (1 - w) * softmax(scores of the recommender / temperature) + w *
    `shares` of the scores of the control, computed in fp64 and rounded to fp32.
    """

    model: Recommender
    data: Sequences
    control: Control
    config: Any
    """Settings of the control."""
    device: torch.device
    process: int = 0
    """Rank of this process; users are sharded over the processes."""

    @torch.no_grad()
    def rank_users(self, split: ScoredSplit, weights: Sequence[float], top: int = 0) -> list[UserRanks]:
        """Exact ranks of the targets of `split`, and the `top` best items for each, for each weight.

        Every process returns all ranks. Raises `ControlError` for scores that break the contract.
        """
        was_training = self.model.training
        self.model.eval()
        with self.model.encoder.full_precision():
            catalogue = encode_catalogue(self.model, self.data, self.device, self.process)
        shard = share_of_users(split.rows, self.process, world_size())
        mine = split.part(shard)
        columns = [np.zeros((0, len(weights), 4 + 2 * top))]
        for batch in mine.batches(catalogue.users_at_once):
            columns.append(self._rank_batch(batch, catalogue, weights, top).cpu().numpy())
        self.model.train(was_training)
        _, placed = gather_rows(shard, np.concatenate(columns))  # [T], [T, W, 4 + 2 top]
        return [_user_ranks(split, placed[:, number], top) for number in range(len(weights))]

    def _rank_batch(
        self, batch: ScoredSplit, catalogue: Catalogue, weights: Sequence[float], top: int
    ) -> Tensor:
        """What `_ranked` gives for `u` users, under each of `W` weights: `[u, W, 4 + 2 top]` fp64."""
        states = self.model.scored(user_states(self.model, self.data, batch.rows, catalogue))  # [u, d]
        scores = catalogue.scores(states)  # [u, R]
        logits = scores.double() / self.model.settings.temperature  # [u, R]
        # items with the same input share a row, so that they tie to the last bit
        trained = logits.softmax(1)  # [u, R]
        trained = (trained / (trained @ catalogue.items.double()).unsqueeze(1))[:, catalogue.row]  # [u, I]
        own = control_scores(self.control, self.config, batch.histories())
        control = shares(torch.from_numpy(own).to(self.device))  # [u, I]
        mixed = ((1 - weight) * trained + weight * control for weight in weights)
        return torch.stack([_ranked(batch, scores.float(), top) for scores in mixed], dim=1)


def shares(scores: Tensor) -> Tensor:
    """Scores of a control as a distribution over the catalogue, fp64: `[u, I]` -> `[u, I]`.

    They are divided by their sum. Where a user has negative ones, the least is first subtracted from all;
    where the sum is zero, all items are alike.
    """
    scores = scores.double()
    scores = scores - scores.amin(1, keepdim=True).clamp(max=0)
    total = scores.sum(1, keepdim=True)  # [u, 1]
    return torch.where(total > 0, scores / total, 1 / scores.shape[1])


def _ranked(batch: ScoredSplit, scores: Tensor, top: int) -> Tensor:
    """Best rank and ties, raw and masked, then the `top` best items and their scores: `[u, I]` fp32, which
    is overwritten, -> `[u, 4 + 2 top]` fp64."""
    n_items, device = scores.shape[1], scores.device
    history, counts = masked_histories(batch.items, batch.rows, batch.history_start, batch.targets)
    target, past, masked = (torch.from_numpy(x).to(device) for x in (batch.targets, history, counts))
    catalogue = torch.arange(n_items, device=device)
    lists = [best_items(scores, catalogue, past, masked, top)] if top else []  # [u, 2 top]
    ones = torch.ones(n_items, device=device)
    return torch.cat([count_ranks(scores, ones, n_items, target, past, masked), *lists], dim=1)


def _user_ranks(split: ScoredSplit, columns: NDArray[Any], top: int) -> UserRanks:
    """The columns `[T, 4 + 2 top]` of `_ranked` for all targets of `split`."""
    listed = None
    if top:
        items, scores = columns[:, 4 : 4 + top], columns[:, 4 + top :]  # [T, top] twice
        listed = TopItems(items.astype(np.int32), scores.astype(np.float16))
    return user_ranks(split.rows, split.history_start, columns[:, :4], listed)
