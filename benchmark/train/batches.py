"""The batches of rows (`benchmark.train.rows`) that one step of training works on.

Everything is built on the host before the step, the same way on every process.

The batches of an optimiser step (`accumulation`) are built as one: each of their items is encoded once, and a
prediction sees the candidates of its own batch. The global batch, its unique items and its candidates are a
function of (seed, epoch, step) alone. A process then takes its share: every `world`-th row, and an equal
share of the unique items to encode. So one process and many see the same negatives and the same loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from benchmark.config import Settings
from benchmark.data.filters import positions_within
from benchmark.model.chunks import Ints
from benchmark.model.items import Batch, Share
from benchmark.train.rows import Packed, Rows, bin_width, pack, ranges


@dataclass(frozen=True)
class Sequences:
    """The catalogue and the flat array of item indices that rows point into."""

    items: Ints
    """`[N]` item index of each interaction, users one after another."""
    twin: Ints
    """`[I]` the first item with the same input (text); an item is encoded through it."""
    trained: Ints
    """Items that occur in training, ascending: the candidates of `catalogue` and `sampled`."""
    padding: int = 0
    """The input that padding is encoded as where `encode = occurrences`: an item, or one past the last item
    where the reader's inputs have a row for an empty text there."""


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
        return self._built(1)

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of each optimiser step: as one, or one by one where `encode = occurrences`, since
        published code encodes them so."""
        group = self._settings.accumulation
        if self._settings.encode != "occurrences":
            return ([batch] for batch in self._built(group))
        single = iter(self)
        return iter(lambda: list(islice(single, group)), [])

    def _built(self, group: int) -> Iterator[Batch]:
        """Every `group` batches, as one."""
        for first in range(0, len(self), group):
            edges = self._edges[first : first + group + 1]
            draws = _draws(self._data, self._settings, self._generator, len(edges) - 1)
            rows = self._rows.take(np.arange(edges[0], edges[-1]))
            yield build_batch(
                rows, self._data, self._settings, draws, self._rank, self._world, np.diff(edges)
            )


def total_steps(rows: Rows, data: Sequences, settings: Settings, seed: int) -> int:
    """Optimiser steps of a run that no early stop ends: an epoch's order decides how many batches it has."""
    batches = (len(EpochBatches(rows, data, settings, seed, 1 + epoch)) for epoch in range(settings.epochs))
    return sum(-(-count // settings.accumulation) for count in batches)


def build_batch(
    rows: Rows,
    data: Sequences,
    settings: Settings,
    draws: Ints | None,
    rank: int = 0,
    world: int = 1,
    sizes: Ints | None = None,
) -> Batch:
    """The batch of the global `rows`; `draws` are the step's shared candidates, None for `batch`.

    `sizes` says how many of `rows` each of several batches has, one after another; where their candidates are
    sampled, `draws` holds equally many of each.
    """
    targets, users = data.items[rows.targets], np.repeat(rows.user, rows.predictions)
    candidates = targets if draws is None else draws
    local = _local_rows(len(rows), rank, world)
    mine = _my_rows(rows, local, idle=rank >= len(rows))
    packed = pack(mine, bin_width(settings.window))
    my_targets = data.items[mine.targets]  # [P]
    step = _Step(rows, local, mine, packed, candidates, draws is None, data)
    table = step.occurrences(settings.window) if settings.encode == "occurrences" else step.unique()
    members = 1 if sizes is None else len(sizes)
    row_group = np.repeat(np.arange(members), len(rows) if sizes is None else sizes)  # [R]
    target_group, group = np.repeat(row_group, rows.predictions), row_group[local][packed.row]  # [P] here
    predictions = np.bincount(target_group, minlength=members)  # of each batch
    candidate_group = None
    if members > 1 and draws is not data.trained:
        candidate_group = (
            target_group if draws is None else np.repeat(np.arange(members), len(draws) // members)
        )
    return Batch(
        share=share_of(table.items, rank, world),
        inputs=torch.from_numpy(table.inputs),
        positions=torch.from_numpy(packed.position),
        segments=torch.from_numpy(packed.segment),
        slots=torch.from_numpy(packed.slot),
        targets=torch.from_numpy(my_targets),
        target_rows=torch.from_numpy(table.targets),
        users=torch.from_numpy(mine.user[packed.row]),
        candidates=torch.from_numpy(candidates),
        candidate_rows=torch.from_numpy(table.candidates),
        own=None if draws is None else _own_columns(my_targets, group, draws, candidate_group),
        candidate_users=torch.from_numpy(users) if draws is None else None,
        group=None if candidate_group is None else torch.from_numpy(group),
        candidate_group=None if candidate_group is None else torch.from_numpy(candidate_group),
        weight=torch.from_numpy((world / (members * predictions[group])).astype(np.float32)),
        predictions=len(targets),
        members=members,
    )


@dataclass(frozen=True)
class _ItemTable:
    """What a step encodes, and where each use of an item finds its row."""

    items: Ints
    """`[M]` item of each row of the table."""
    inputs: Ints
    """`[N, S]` row of each slot."""
    targets: Ints
    """`[P]` row of each prediction's target."""
    candidates: Ints
    """`[C]` row of each candidate."""


@dataclass(frozen=True)
class _Step:
    """The global `rows` of a step, those that this process reads, and the candidates."""

    rows: Rows
    local: Ints
    """Which of `rows` this process reads: `mine`, laid out as `packed`."""
    mine: Rows
    packed: Packed
    candidates: Ints
    in_batch: bool
    """Whether the candidates are the targets of `rows`, in their order."""
    data: Sequences

    def unique(self) -> _ItemTable:
        """Each distinct input of the step once."""
        data, packed = self.data, self.packed
        everything = (
            data.items[self.rows.inputs], data.items[self.rows.targets], self.candidates,
        )  # fmt: skip
        unique = np.unique(data.twin[np.concatenate(everything)])  # [M]

        def table_row(items: Ints) -> Ints:
            return np.searchsorted(unique, data.twin[items])

        inputs = data.items[np.maximum(packed.source, 0)]  # [N, S]
        inputs = table_row(np.where(packed.source < 0, unique[0], inputs))
        targets = table_row(data.items[self.mine.targets])
        return _ItemTable(unique, inputs, targets, table_row(self.candidates))

    def occurrences(self, window: int) -> _ItemTable:
        """Every slot of every row padded to `window`, every target, then the candidates that are drawn."""
        rows, data, packed = self.rows, self.data, self.packed
        slots = np.full((len(rows), window), data.padding)  # [R, window]
        row = np.repeat(np.arange(len(rows)), rows.length)
        slots[row, positions_within(rows.length)] = data.items[rows.inputs]
        targets = data.items[rows.targets]
        drawn = self.candidates[:0] if self.in_batch else self.candidates
        first_target = slots.size + np.cumsum(rows.predictions) - rows.predictions  # [R] of each row
        first_candidate = slots.size + (0 if self.in_batch else len(targets))
        return _ItemTable(
            np.concatenate([slots.ravel(), targets, drawn]),
            self.local[np.maximum(packed.segment, 0)] * window + packed.position,
            ranges(first_target[self.local], self.mine.predictions),
            first_candidate + np.arange(len(self.candidates)),
        )


def share_of(items: Ints, rank: int, world: int) -> Share:
    """The equal part of `items` `[M]` that process `rank` encodes; the last parts may repeat an item."""
    size = -(-len(items) // world)
    index = np.minimum(np.arange(rank * size, (rank + 1) * size), len(items) - 1)
    mine = items[index]
    return Share(mine, torch.from_numpy(mine), len(items))


def _draws(data: Sequences, settings: Settings, generator: np.random.Generator, batches: int) -> Ints | None:
    """What predictions are ranked against: the catalogue itself for all batches, or draws for each."""
    if settings.candidates == "batch":
        return None
    if settings.candidates == "catalogue" or settings.samples >= len(data.trained):
        return data.trained
    return np.concatenate(
        [
            np.sort(generator.choice(data.trained, settings.samples, replace=False, shuffle=False))
            for _ in range(batches)
        ]
    )


def _local_rows(n_rows: int, rank: int, world: int) -> Ints:
    """Which rows of the global batch this process reads; the first where there are fewer than processes."""
    mine = np.arange(rank, n_rows, world)
    return mine if len(mine) else np.zeros(1, np.int64)


def _my_rows(rows: Rows, local: Ints, idle: bool) -> Rows:
    mine = rows.take(local)
    # without a row of its own it reads one and predicts nothing, so that every parameter has a gradient
    return replace(mine, first=mine.length) if idle else mine


def _own_columns(targets: Ints, group: Ints, draws: Ints, draw_group: Ints | None) -> Tensor:
    """`[P]` column of each target among the draws of its batch, -1 where it is not there; draws ascend."""
    if draw_group is not None:
        apart = max(targets.max(initial=0), draws.max(initial=0)) + 1
        targets, draws = targets + apart * group, draws + apart * draw_group  # each batch's own numbers
    column = np.minimum(np.searchsorted(draws, targets), len(draws) - 1)
    return torch.from_numpy(np.where(draws[column] == targets, column, -1))
