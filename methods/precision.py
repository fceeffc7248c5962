"""How matrices are handed to products: in the precision of the run, and in few different shapes."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 16
"""Rows are filled up to a multiple of this."""


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that products of `x` are computed in: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def filled(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype` with rows of zeros after its own: `[M, n]` -> `[M', n]`.

    The number of items of a step differs from step to step, and a CPU's library makes a kernel for each new
    shape, which takes as long as a tenth of a small product. A fill costs less.
    """
    rows = -(-len(x) // ROWS) * ROWS
    if rows == len(x):
        return x.to(dtype)
    out = x.new_empty((rows, *x.shape[1:]), dtype=dtype)
    out[: len(x)] = x
    out[len(x) :] = 0
    return out
