"""Precision and shapes of matrix products: the precision of the run, and few different shapes."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 16
"""Matrices are padded with rows to a multiple of this."""


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that products of `x` are computed in: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def filled(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype` with rows of zeros after its own: `[M, n]` -> `[M', n]`.

    The number of items differs from step to step, and a CPU library prepares a kernel for each new shape,
    which takes a tenth of the time of a small product. Padding costs less.
    """
    rows = -(-len(x) // ROWS) * ROWS
    if rows == len(x):
        return x.to(dtype)
    out = x.new_empty((rows, *x.shape[1:]), dtype=dtype)
    out[: len(x)] = x
    out[len(x) :] = 0
    return out
