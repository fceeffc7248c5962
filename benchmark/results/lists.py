"""The stored lists of a run: the best items for each test target, checked against the ranks of the run.

A list leaves out the user's history, but never the target. Equal scores stand in the order of item indices.
The file also has what the measures of lists need of the data, so that they need no prepared dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.results.list_metrics import TOP, ListMeasure
from benchmark.results.metrics import Floats, Ranks, of_lists, target_weights
from benchmark.results.ranks import StoredRanks
from benchmark.results.record import RunRecord, below_results, top_path
from benchmark.results.user_columns import read_columns, write_columns
from methods.errors import UserError

NO_ITEM = -1
"""Fills a list where fewer items than TOP are left."""
PER_TARGET = ("user", "target", "history", "target_count")
PER_PLACE = ("items", "scores", "counts")
NUMBERS = ("catalogue", "interactions")


@dataclass(frozen=True)
class StoredLists:
    """Lists of one run, one for each test target, by user and then by time."""

    user: NDArray[np.int32]
    """`[T]` index in the prepared data."""
    target: NDArray[np.int32]
    """`[T]` item of the test target."""
    history: NDArray[np.int32]
    """`[T]` number of interactions before the target."""
    target_count: NDArray[np.int32]
    """`[T]` training interactions of the target."""
    items: NDArray[np.int32]
    """`[T, TOP]` item indices, the best first; NO_ITEM where no item is left."""
    scores: NDArray[np.float16]
    """`[T, TOP]` their scores; minus infinity where no item is left."""
    counts: NDArray[np.int32]
    """`[T, TOP]` their training interactions; 0 where no item is left."""
    catalogue: int
    """Items of the dataset."""
    interactions: int
    """Training interactions of the dataset."""

    @cached_property
    def weight(self) -> Floats:
        """`[T]` weight of each list, by which every user has weight one."""
        return target_weights(self.user)

    @property
    def has_several(self) -> bool:
        """Whether a user has several lists."""
        return bool((self.weight < 1).any())

    def value(self, measure: ListMeasure) -> float:
        """A measure of all these lists together."""
        weight = self.weight[:, None]  # [T, 1]
        return measure.of(self.items, self.counts, self.catalogue, self.interactions, weight)


def write_lists(lists: StoredLists, record_path: Path) -> str:
    """Write them beside the record at `record_path`: -> SHA-256 of the file."""
    columns = {name: getattr(lists, name) for name in (*PER_TARGET, *PER_PLACE)}
    return write_columns(top_path(record_path), columns, {name: getattr(lists, name) for name in NUMBERS})


def read_lists(path: Path, run: RunRecord, ranks: StoredRanks) -> StoredLists:
    """The lists beside the record at `path`, whose ranks are `ranks`.

    Raises `UserError` where they are missing, cannot be read, or do not agree with ranks and record.
    """
    file = top_path(path)
    name = below_results(file)
    stored = read_columns(file, (*PER_TARGET, *PER_PLACE), NUMBERS, position="history")
    if fault := _fault(stored.values, stored.numbers["catalogue"]):
        raise UserError(f"{name} cannot be read: {fault}.")
    fields: dict[str, Any] = {**stored.values, **stored.numbers}
    lists = StoredLists(**fields)
    if not np.array_equal(lists.user, ranks.user):
        raise UserError(f"{name} has other users than the ranks of its record.")
    if not isinstance(ranks.masked, Ranks) or not _agree(lists, ranks.masked):
        raise UserError(f"{name} does not have the targets at the ranks of its record.")
    if run.top_sha256 != stored.sha256:
        raise UserError(f"{name} is not the file whose checksum its record has.")
    return lists


def _fault(values: dict[str, NDArray[Any]], catalogue: int) -> str:
    """Why columns are no lists of a catalogue of this size; empty where they are."""
    for column in PER_TARGET:
        if values[column].ndim != 1 or values[column].dtype != np.int32:
            return f"its column {column} is not int32"
    for column in PER_PLACE:
        kind = np.float16 if column == "scores" else np.int32
        if values[column].shape[1:] != (TOP,) or values[column].dtype != kind:
            return f"its column {column} has no lists of {TOP} {np.dtype(kind).name}"
    items, scores = values["items"], values["scores"]
    if items.min() < NO_ITEM or max(items.max(), values["target"].max()) >= catalogue:
        return f"it has items that are not in a catalogue of {catalogue:,}"
    ordered = np.sort(items, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM)).any():
        return "a list has an item twice"
    if not (scores[:, 1:] <= scores[:, :-1]).all():
        return "its scores are not in descending order"
    return ""


def _agree(lists: StoredLists, masked: Ranks) -> bool:
    """Whether each target whose rank has no tie stands at its rank, or is in no list where it is below."""
    alone = masked.tied == 1
    place = np.arange(1, TOP + 1)
    at_rank = place == masked.best[:, None]  # [T, TOP]
    at_target = lists.items == lists.target[:, None]  # [T, TOP]
    return bool((at_rank == at_target)[alone].all())


def without_lists(runs: Iterable[RunRecord], metrics: Sequence[str]) -> str:
    """A line that says which finished runs have no measures of lists; empty where none were asked for."""
    finished = [run for run in runs if run.status == "ok"]
    bare = [run for run in finished if run.top_sha256 is None]
    if not bare or not (names := of_lists(metrics)):
        return ""
    return (
        f"{len(bare)} of {len(finished)} finished runs stored no lists of items, so that they have no "
        f"{', '.join(names)}; --fresh runs them anew."
    )
