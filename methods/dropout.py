"""Dropout that draws its masks quickly on a CPU.

PyTorch's draws one random number an element there, a tenth of a training step on frozen states; here one
64-bit draw serves four elements. On other devices it is PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16
"""A mask is a comparison of 16 random bits, so the share dropped is exact to 1 in 65,536."""


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero each element with probability `share` and scale the rest by 1 / (1 - share); any shape."""
    if not training or share == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)  # [numel / 4] -> [numel] -> as x
    kept = bits >= round(share * LEVELS) - LEVELS // 2
    return x * kept.to(x.dtype).mul_(1 / (1 - share))


class Dropout(nn.Dropout):
    """`dropout` as a module, active in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, unchanged."""
        return dropout(x, self.p, self.training)


def quicken(module: nn.Module) -> None:
    """Let every `nn.Dropout` inside `module` draw its masks as this one does."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
