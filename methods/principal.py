"""Principal components of text vectors, for methods that start from them or keep them."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import UserError

SMALLEST_VARIANCE = 1e-12
"""What `state_statistics` takes for no variance, squared."""


def principal_components(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, the largest first, and their directions as columns: `[D, D]` -> `[D]`, `[D, D]` float64.

    The singular value decomposition of a covariance, as published code computes it, is the same. The sign
    of a direction is arbitrary: here its largest entry is positive, so that machines agree. Raises
    `UserError` where the text vectors of all items are equal.
    """
    variances, directions = torch.linalg.eigh(covariance.double())  # [D], [D, D], the smallest first
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
    if variances[0] <= SMALLEST_VARIANCE:
        raise UserError(
            "the text vectors of all items are equal, so that they have no principal components; give the "
            "items other texts, take a language model that knows their script, or take method=id."
        )
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))  # [1, D]
    return variances, directions * largest.sign()
