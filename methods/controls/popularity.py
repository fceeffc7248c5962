"""popularity: items by the number of their training interactions, the same for every user."""

from __future__ import annotations

from typing import Any

import numpy as np

from methods.controls.base import Control, Floats, Ints, TrainingData


class Popularity(Control):
    """Control without training, on training counts: the most frequent items, the same for all users."""

    def __init__(self, data: TrainingData) -> None:
        super().__init__(data)
        self.counts = np.bincount(data.items, minlength=data.n_items).astype(np.float32)  # [I]

    def scores(self, histories: Ints, config: Any) -> Floats:
        """The counts, for each user: `[B, L]` -> `[B, I]`."""
        return np.broadcast_to(self.counts, (len(histories), len(self.counts)))  # [I] -> [B, I]
