"""transitions: items that stand near the user's recent items in the training sequences.

The item-item counts are those of sequential nearest-neighbour recommenders (Ludewig and Jannach 2018, arXiv
1803.09587): a pair at distance d within a sequence counts `DISTANCE_DECAY ** (d - 1)`, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from methods.controls.base import Control, Floats, Ints, TrainingData, recency_weights

if TYPE_CHECKING:  # its import takes a tenth of a second, and most runs have no matrix of it
    from scipy import sparse

WINDOW = 10
"""Largest distance of a pair that counts."""
DISTANCE_DECAY = 0.8


@dataclass(frozen=True)
class TransitionsConfig:
    """Settings of the control."""

    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Weight of a history's item relative to the item after it."""
    rows: Literal["counts", "shares"] = "counts"
    """Whether the counts of an item are used as they are or divided by their sum."""


class Transitions(Control):
    """Control without training, on training sequences: items that stand near the recent items."""

    Config: ClassVar[type[Any]] = TransitionsConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "decay": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "rows": ("counts", "shares"),
    }

    def __init__(self, data: TrainingData) -> None:
        super().__init__(data)
        counts = transition_counts(data)
        self.matrices = {"counts": counts, "shares": row_shares(counts)}

    def scores(self, histories: Ints, config: TransitionsConfig) -> Floats:
        """Sums over the history of the rows of its items: `[B, L]` -> `[B, I]`."""
        weights = recency_weights(histories, self.data.n_items, config.decay)
        scores: Floats = (weights @ self.matrices[config.rows]).toarray().astype(np.float32)  # [B, I]
        return scores


def transition_counts(data: TrainingData, window: int = WINDOW) -> sparse.csr_array:
    """Weighted counts of items at most `window` apart in a training sequence: `[I, I]`, symmetric."""
    from scipy import sparse

    user = np.repeat(np.arange(len(data.offsets) - 1), np.diff(data.offsets))  # [N]
    counts = sparse.csr_array((data.n_items, data.n_items))
    for distance in range(1, window + 1):
        same = np.flatnonzero(user[distance:] == user[:-distance])  # [P] first interaction of each pair
        pairs = (data.items[same], data.items[same + distance])
        weights = np.full(len(same), DISTANCE_DECAY ** (distance - 1))
        counts = counts + sparse.coo_array((weights, pairs), shape=counts.shape).tocsr()
    return (counts + counts.T).tocsr()


def row_shares(matrix: sparse.csr_array) -> sparse.csr_array:
    """Each row divided by its sum; an empty row stays empty: `[I, I]` -> `[I, I]`."""
    from scipy import sparse

    sums = matrix.sum(axis=1)  # [I]
    return (sparse.diags_array(1 / np.where(sums > 0, sums, 1)) @ matrix).tocsr()
