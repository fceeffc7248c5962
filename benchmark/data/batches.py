"""What one step of training works on, built on the host before the step, the same way on every process.

The global batch, its unique items and its candidates are a function of (seed, epoch, step) alone. A process
then takes its share: every `world`-th row, and an equal share of the unique items to encode. So one process
and many see the same negatives and the same loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.config import Settings
from benchmark.data.sequences import Ints, Rows, pack


@dataclass(frozen=True)
class Sequences:
    """The catalogue and the flat array of item indices that rows point into."""

    items: Ints
    """`[N]` item index of each interaction, users one after another."""
    twin: Ints
    """`[I]` the first item with the same input (text); an item is encoded through it."""
    trained: Ints
    """Items that occur in training, ascending: the candidates of `catalogue` and `sampled`."""


@dataclass(frozen=True)
class Share:
    """Encode these items and gather them into the step's table: `table = gather(encode(items))[order]`."""

    items: Tensor
    """`[m]` item indices that this process encodes (the last may repeat, so that all encode equally many)."""
    rows: int
    """M, rows of the gathered table that count."""

    def to(self, device: torch.device) -> Share:
        """Move the item indices to `device`."""
        return replace(self, items=self.items.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """One step's tensors. `M` unique items, `N` bins of `S` slots, `P` local predictions, `C` candidates.

    Items are named by their row in the step's table of embeddings.
    """

    share: Share
    inputs: Tensor
    """`[N, S]` table row of each input; padding points at row 0 and is masked by its segment."""
    positions: Tensor
    """`[N, S]`"""
    segments: Tensor
    """`[N, S]` row number, -1 for padding."""
    slots: Tensor
    """`[P]` flat slot of each prediction."""
    targets: Tensor
    """`[P]` item index of the next item."""
    target_rows: Tensor
    """`[P]` its row in the table."""
    users: Tensor
    """`[P]` user of each prediction."""
    candidates: Tensor
    """`[C]` item index of each candidate."""
    candidate_rows: Tensor
    """`[C]` its row in the table."""
    own: Tensor | None
    """`[P]` column of each prediction's target among the candidates, None where they are drawn."""
    candidate_users: Tensor | None
    """`[C]` the user whose target it is (`candidates = batch`), else None."""
    predictions: int
    """Predictions of the global batch."""

    def to(self, device: torch.device) -> Batch:
        """Move every tensor to `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, share=self.share.to(device), **moved)


def bin_width(window: int) -> int:
    """Slots of a bin: room for the longest row, in a multiple of 64 that attention kernels like."""
    return -(-window // 64) * 64


def most_batches(rows: Rows, batch_size: int) -> int:
    """Batches of an epoch at most: ceil(predictions / batch_size)."""
    return -(-int(rows.predictions.sum()) // batch_size)


class EpochBatches:
    """The batches of one epoch for process `rank` of `world`, in an order drawn from (seed, epoch).

    Whole rows are dealt to batches by their running count of predictions, so that a batch has `batch_size`
    predictions up to the length of one row. Iterating builds them one at a time.
    """

    def __init__(
        self,
        rows: Rows,
        data: Sequences,
        settings: Settings,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._generator = np.random.default_rng([seed, epoch])
        self._rows = rows.take(self._generator.permutation(len(rows)))
        before = np.cumsum(self._rows.predictions) - self._rows.predictions
        _, begin = np.unique(before // settings.batch_size, return_index=True)
        self._edges = np.append(begin, len(rows))
        self._data, self._settings, self._rank, self._world = data, settings, rank, world

    def __len__(self) -> int:
        return len(self._edges) - 1

    def __iter__(self) -> Iterator[Batch]:
        for begin, end in zip(self._edges[:-1], self._edges[1:], strict=True):
            draws = _draws(self._data, self._settings, self._generator)
            rows = self._rows.take(np.arange(begin, end))
            yield build_batch(rows, self._data, self._settings, draws, self._rank, self._world)


def build_batch(
    rows: Rows, data: Sequences, settings: Settings, draws: Ints | None, rank: int = 0, world: int = 1
) -> Batch:
    """The batch of the global `rows`; `draws` are the step's shared candidates, None for `batch`."""
    targets, users = data.items[_target_index(rows)], np.repeat(rows.user, rows.predictions)
    candidates = targets if draws is None else draws
    mine = _my_rows(rows, rank, world)
    packed = pack(mine, bin_width(settings.window))
    inputs = data.items[np.maximum(packed.source, 0)]  # [N, S]
    my_targets = data.items[_target_index(mine)]  # [P]
    everything = (data.items[_input_index(rows)], targets, candidates)
    unique = np.unique(data.twin[np.concatenate(everything)])  # [M]

    def table_row(items: Ints) -> Tensor:
        return torch.from_numpy(np.searchsorted(unique, data.twin[items]))

    return Batch(
        share=share_of(unique, rank, world),
        inputs=table_row(np.where(packed.source < 0, unique[0], inputs)),
        positions=torch.from_numpy(packed.position),
        segments=torch.from_numpy(packed.segment),
        slots=torch.from_numpy(packed.slot),
        targets=torch.from_numpy(my_targets),
        target_rows=table_row(my_targets),
        users=torch.from_numpy(mine.user[packed.row]),
        candidates=torch.from_numpy(candidates),
        candidate_rows=table_row(candidates),
        own=_own_columns(rows, my_targets, data, draws, rank, world),
        candidate_users=torch.from_numpy(users) if draws is None else None,
        predictions=len(targets),
    )


def share_of(unique: Ints, rank: int, world: int) -> Share:
    """The equal part of `unique` `[M]` that process `rank` encodes; the last parts may repeat an item."""
    each = -(-len(unique) // world)
    index = np.minimum(np.arange(rank * each, (rank + 1) * each), len(unique) - 1)
    return Share(torch.from_numpy(unique[index]), len(unique))


def _draws(data: Sequences, settings: Settings, generator: np.random.Generator) -> Ints | None:
    if settings.candidates == "batch":
        return None
    if settings.candidates == "catalogue" or settings.samples >= len(data.trained):
        return data.trained
    return np.sort(generator.choice(data.trained, settings.samples, replace=False, shuffle=False))


def _my_rows(rows: Rows, rank: int, world: int) -> Rows:
    mine = rows.take(np.arange(rank, len(rows), world))
    if len(mine):
        return mine
    # fewer rows than processes: read one without predicting, so that every parameter still has a gradient
    idle = rows.take(np.zeros(1, np.int64))
    return replace(idle, first=idle.length)


def _own_columns(
    rows: Rows, my_targets: Ints, data: Sequences, draws: Ints | None, rank: int, world: int
) -> Tensor | None:
    if draws is None:  # candidates are the targets of all rows, in order; mine are every world-th row's
        mine = np.repeat(np.arange(len(rows)) % world == rank, rows.predictions)
        return torch.from_numpy(np.flatnonzero(mine))
    return torch.from_numpy(np.searchsorted(draws, my_targets)) if draws is data.trained else None


def _target_index(rows: Rows) -> Ints:
    """Flat index of the target of every prediction, row by row."""
    return _ranges(rows.start + rows.first + 1, rows.predictions)


def _input_index(rows: Rows) -> Ints:
    """Flat index of every input, row by row."""
    return _ranges(rows.start, rows.length)


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """`start, start + 1, ...` for each start, one after another."""
    inner = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + inner
