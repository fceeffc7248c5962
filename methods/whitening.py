"""How hidden states are centred and scaled before a method reads them: its hyper-parameter `init`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from methods.base import Context
from methods.fields import renamed

Init = Literal["paper", "standardised", "zca"]
OLD_NAMES = renamed({"standardised": "whitened"})
"""Earlier records have a value of `init` under another name."""
EPSILON = 1e-5
"""Added to the eigenvalues of a covariance, as a share of the largest: directions of hardly any variance hold
rounding errors, which whitening would blow up."""


def zca_matrix(covariance: Tensor) -> Tensor:
    """The symmetric matrix that whitens centred states, `[D, D]` -> `[D, D]` float32 (arXiv 1512.00809).

    Raises ValueError where the states of all items are equal.
    """
    variance, directions = torch.linalg.eigh(covariance.double())  # [D], [D, D]
    if not variance[-1] > 0:
        raise ValueError("states that are equal for all items cannot be whitened")
    scale = (variance.clamp(min=0) + EPSILON * variance[-1]).rsqrt()  # [D]
    matrix: Tensor = (directions * scale) @ directions.T
    return matrix.float()


class Whitening(nn.Module):
    """The fixed affine map of `init`, computed without losing digits in 16 bits.

    Hidden states have a large common mean. Multiplying them in bf16 would spend the mantissa on that mean,
    so the states are centred in fp32 first, and the difference is multiplied by the weights separately:
    `x W = centred W + origin W`, exactly, with `x = (h - shift) S`. `paper` has shift 0 and S = 1, so x = h;
    `standardised` has the catalogue's mean and S the inverse of its standard deviations; `zca` has the mean
    and the symmetric S that also decorrelates the dimensions. In any case a head (b', W') in the coordinates
    of x is a head (b, W) of Eq. 1 with `W = S W'`, `b = shift + S^-1 b'`. The routing reads x too:
    `mu = x B'` is `h B - shift B` with `B = S B'`, so that all but `paper` have a tied constant there that
    Eq. 3 lacks.
    """

    mean: Tensor
    scale: Tensor
    origin: Tensor
    matrix: Tensor | None

    def __init__(self, context: Context, layer: int, init: Init) -> None:
        """`layer` is the place of the layer in axis `A` of the context's statistics."""
        super().__init__()
        assert context.state_mean is not None and context.state_std is not None
        mean, std = context.state_mean[layer], context.state_std[layer]  # [D] each
        scale = std if init == "standardised" else torch.ones_like(std)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("scale", scale.clone(), persistent=False)
        self.register_buffer("origin", mean if init == "paper" else torch.zeros_like(mean), persistent=False)
        matrix = None
        if init == "zca":
            assert context.state_covariance is not None
            matrix = zca_matrix(context.state_covariance[layer])  # [D, D]
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Centre and scale states in fp32: `[M, D]` -> `[M, D]`. Add `origin` to get x."""
        centred = h.to(self.mean.dtype) - self.mean
        if self.matrix is None:
            return centred / self.scale
        with torch.autocast(h.device.type, enabled=False):
            return centred @ self.matrix  # [M, D] x [D, D] -> [M, D]
