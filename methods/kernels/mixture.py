"""The mixture of projections of the mixture-of-experts adapter, with explicit derivatives.

Symbols in shape comments: `M` items, `M'` items after `precision.filled`, `n_p` projection heads,
`D` and `d` the widths of the language model and of the recommender.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.kernels.precision import filled


class Mixture(torch.autograd.Function):
    """`sum_k s_k (x + c_k) W_k` in fp32, with its products in the precision of x but for those of c.

    The part c that items have in common can be a hundred times as large as their differences, so it stays in
    fp32. The derivatives are explicit because autograd would add up two more tensors of the size of W.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, weight: Tensor, common: Tensor) -> Tensor:
        """`x` `[M', D]` filled up, `s` `[M, n_p]`, `W` `[D, n_p, d]`, `c` `[n_p, D]`: -> `[M, d]`."""
        rows, (_, heads, out_dim) = len(share), weight.shape
        projected = (x @ weight.flatten(1).to(x.dtype)).view(-1, heads, out_dim)  # [M', n_p, d]
        constant = torch.bmm(common.unsqueeze(1), weight.transpose(0, 1)).squeeze(1)  # [n_p, d]
        mixed = torch.bmm(share.to(x.dtype).unsqueeze(1), projected[:rows]).squeeze(1)  # [M, 1, d] -> [M, d]
        ctx.save_for_backward(x, share, weight, common, projected, constant)
        return torch.addmm(mixed.to(share.dtype), share, constant)  # [M, n_p] x [n_p, d] -> [M, d]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of `[M, d]`; for `x`, `s`, `W` and `c`."""
        x, share, weight, common, projected, constant = ctx.saved_tensors
        g, rows = gradients[0], len(share)
        low = filled(g, x.dtype)  # [M', d]
        d_mixed = low[:rows].unsqueeze(1)  # [M, 1, d]
        d_share = torch.bmm(d_mixed, projected[:rows].transpose(1, 2)).squeeze(1)  # [M, 1, n_p] -> [M, n_p]
        d_share = torch.addmm(d_share.to(g.dtype), g, constant.T)
        d_projected = filled(share, x.dtype).unsqueeze(2) * low.unsqueeze(1)  # [M', n_p, d]
        d_projected = d_projected.view(len(x), -1)  # [M', n_p d]
        d_weight = (x.T @ d_projected).to(weight.dtype).view_as(weight)  # [D, n_p d] -> [D, n_p, d]
        d_constant = share.T @ g  # [n_p, d]
        d_weight.addcmul_(common.T.unsqueeze(2), d_constant)  # [D, n_p, 1] x [n_p, d] -> [D, n_p, d]
        d_common = torch.bmm(d_constant.unsqueeze(1), weight.permute(1, 2, 0)).squeeze(1)  # -> [n_p, D]
        d_x = d_projected @ weight.flatten(1).to(x.dtype).T if ctx.needs_input_grad[0] else None  # [M', D]
        return d_x, d_share, d_weight, d_common
