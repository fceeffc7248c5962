"""Text vectors of unit length from hidden states, scaled in one of three ways."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch

from methods.controls.base import Floats, TrainingData
from methods.whitening import zca_matrix

Geometry = Literal["centred", "standardised", "zca"]


class TextVectors:
    """The text vectors of a catalogue; each geometry is computed at its first use."""

    def __init__(self, data: TrainingData) -> None:
        if data.states is None:
            raise TypeError("this control reads states; it was given none")
        states = data.states[:, 0].astype(
            np.float64
        )  # [I, A, D] -> [I, D], the first layer that was asked for
        self._centred = states - states.mean(axis=0)
        self._of = cache(self._compute)

    def __getitem__(self, geometry: Geometry) -> Floats:
        """Unit vectors, `[I, D]`; a text without any difference from the mean has the zero vector.

        `centred`: the mean is subtracted. `standardised`: also, each dimension is divided by its standard
        deviation. `zca`: also, the dimensions are decorrelated (full whitening; Kessy et al. 2018, arXiv
        1512.00809).
        """
        return self._of(geometry)

    def _compute(self, geometry: Geometry) -> Floats:
        values = self._centred
        if geometry == "standardised":
            deviation = values.std(axis=0)  # [D]
            values = values / np.where(deviation > 1e-6, deviation, 1)
        elif geometry == "zca":
            covariance = torch.from_numpy(values.T @ values / len(values))  # [D, D]
            values = values @ zca_matrix(covariance).numpy()  # [I, D] x [D, D] -> [I, D]
        length = np.linalg.norm(values, axis=1, keepdims=True)  # [I, 1]
        unit: Floats = (values / np.maximum(length, 1e-12)).astype(np.float32)
        return unit
