"""blend: text neighbours and transitions of the user's recent items, mixed.

Both are item-item matrices whose rows sum to one. The mixture is the strongest recommender without training
that this project knows: a trained row that does not beat it has not shown what training buys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from methods.controls.base import Control, Floats, Ints, TrainingData, recency_weights
from methods.controls.geometry import Geometry, TextVectors
from methods.controls.transitions import row_shares, transition_counts

KEPT_BYTES = 2**31
"""Largest text matrix that is kept; above it the rows that a batch of users needs are computed anew."""


@dataclass(frozen=True)
class BlendConfig:
    """Settings of the control."""

    geometry: Geometry = "zca"
    """How hidden states become text vectors."""
    power: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Exponent of the cosines of text vectors; negative cosines count as zero."""
    transitions: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the transitions in the mixture."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Weight of a history's item relative to the item after it."""


class Blend(Control):
    """Control without training, on states and training sequences: text-knn and transitions mixed."""

    reads: ClassVar[Literal["states", "ids"]] = "states"
    Config: ClassVar[type[Any]] = BlendConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "text": (("centred", 3.0), ("zca", 1.0), ("zca", 2.0)),
        "transitions": (0.05, 0.1, 0.2, 0.35, 0.5),
        "decay": (0.7, 0.8, 0.9),
    }

    def __init__(self, data: TrainingData) -> None:
        super().__init__(data)
        self.vectors = TextVectors(data)
        self.shares = row_shares(transition_counts(data))  # [I, I]
        self._kept: tuple[tuple[str, float], Floats] | None = None

    @classmethod
    def trials(cls) -> list[dict[str, Any]]:
        """45 settings: the geometry and the power of text vectors go together."""
        return [
            {
                "geometry": trial["text"][0],
                "power": trial["text"][1],
                **{k: trial[k] for k in ("transitions", "decay")},
            }
            for trial in super().trials()
        ]

    def scores(self, histories: Ints, config: BlendConfig) -> Floats:
        """Sums over the history of the mixed rows of its items: `[B, L]` -> `[B, I]`."""
        weights = recency_weights(histories, self.data.n_items, config.decay)  # [B, I]
        by_transitions = (weights @ self.shares).toarray()  # [B, I] x [I, I] -> [B, I]
        # in fp32, so that scipy does not convert the text matrix to fp64 for each batch
        by_text = self._text_scores(weights.astype(np.float32), config.geometry, config.power)  # [B, I]
        mixed = config.transitions * by_transitions + (1 - config.transitions) * by_text
        scores: Floats = mixed.astype(np.float32)
        return scores

    def _text_scores(self, weights: Any, geometry: Geometry, power: float) -> Any:
        if self.data.n_items**2 * 4 <= KEPT_BYTES:
            if self._kept is None or self._kept[0] != (geometry, power):
                every = np.arange(self.data.n_items)
                self._kept = ((geometry, power), self._text_rows(every, geometry, power))
            return weights @ self._kept[1]  # [B, I] x [I, I] -> [B, I]
        used = np.unique(weights.indices)  # [m] items of these histories
        return weights[:, used] @ self._text_rows(used, geometry, power)  # [B, m] x [m, I] -> [B, I]

    def _text_rows(self, items: Ints, geometry: Geometry, power: float) -> Floats:
        """Rows of the text matrix, each of sum one, the item itself zero: `[m]` -> `[m, I]`."""
        unit = self.vectors[geometry]  # [I, D]
        rows: Floats = np.maximum(unit[items] @ unit.T, 0)  # [m, D] x [D, I] -> [m, I]
        if power != 1:
            rows **= power
        rows[np.arange(len(items)), items] = 0
        sums = rows.sum(axis=1, keepdims=True)  # [m, 1]
        rows /= np.where(sums > 0, sums, 1)
        return rows
