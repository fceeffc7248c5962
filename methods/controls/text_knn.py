"""text-knn: items whose texts are near those of the user's recent items, in the frozen language model.

How the states are scaled decides most of it: see `methods.controls.geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from methods.controls.base import Control, Floats, Ints, TrainingData, recency_weights
from methods.controls.geometry import Geometry, TextVectors


@dataclass(frozen=True)
class TextKnnConfig:
    """Settings of the control."""

    geometry: Geometry = "zca"
    """How hidden states become text vectors."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Weight of a history's item relative to the item after it."""


class TextKnn(Control):
    """Control without training, on states: cosine of frozen text vectors with those of recent items."""

    reads: ClassVar[Literal["states", "ids"]] = "states"
    Config: ClassVar[type[Any]] = TextKnnConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {
        "geometry": ("centred", "standardised", "zca"),
        "decay": (0.7, 0.8, 0.9),
    }

    def __init__(self, data: TrainingData) -> None:
        super().__init__(data)
        self.vectors = TextVectors(data)

    def scores(self, histories: Ints, config: TextKnnConfig) -> Floats:
        """Sums over the history of the cosines with its items: `[B, L]` -> `[B, I]`."""
        unit = self.vectors[config.geometry]  # [I, D]
        weights = recency_weights(histories, self.data.n_items, config.decay)  # [B, I]
        scores: Floats = (weights.astype(unit.dtype) @ unit) @ unit.T  # [B, D] x [D, I] -> [B, I]
        return scores
