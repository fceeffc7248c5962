"""One vector of a text from the states of its tokens; the harness and the methods pool the same way.

Symbols in shape comments: `M` texts, `T` tokens, `D` the language model's width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["first", "last", "mean"]


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text: `[M, T, D]` and a right-padded mask `[M, T]` -> `[M, D]`.

    `first` and `last` take that real token, `mean` the average over the real tokens.
    """
    if pooling == "first":
        return hidden[:, 0]  # [M, T, D] -> [M, D]
    if pooling == "last":
        last = attention_mask.sum(1) - 1  # [M, T] -> [M]
        return hidden[torch.arange(len(hidden), device=hidden.device), last]  # [M, T, D] -> [M, D]
    weights = attention_mask.to(hidden.dtype)[:, :, None]  # [M, T] -> [M, T, 1]
    return (hidden * weights).sum(1) / weights.sum(1)  # [M, T, D] -> [M, D]
