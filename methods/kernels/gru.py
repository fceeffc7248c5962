"""The last state of a gated recurrent unit (Cho et al. 2014) over a few steps, from a zero state.

On a CPU, PyTorch's unit multiplies the zero state too and runs each gate as separate operations; this one has
as few and as large products as possible. Its parameters are PyTorch's: gates in the
order reset, update, new. Symbols: `a` steps, `M` rows (`M'` filled up), `d` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from methods.kernels.precision import filled, product_dtype

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


def last_state(gru: nn.GRU, inputs: Sequence[Tensor]) -> Tensor:
    """State of the one-layer `gru` after `inputs`, `a` of `[M, d]`: -> `[M, d]`."""
    weights = gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0
    low = product_dtype(inputs[0])
    with torch.autocast(inputs[0].device.type, enabled=False):
        return LastState.apply(low, *weights, *inputs)  # type: ignore[no-any-return, no-untyped-call]


class LastState(torch.autograd.Function):
    """One layer of torch.nn.GRU, its last state.

    `r, z = sigmoid(W x + b + W_h h + b_h)`, `n = tanh(W x + b + r (W_h h + b_h))`, `h' = n + z (h - n)`.
    """

    @staticmethod
    def forward(ctx: Any, low: torch.dtype, *tensors: Tensor) -> Tensor:
        """`W`, `W_h` `[3 d, d]`, `b`, `b_h` `[3 d]` and `a` inputs `[M, d]`: -> `[M, d]` in `low`."""
        (w_x, w_h, b_x, b_h), inputs = tensors[:4], tensors[4:]
        d = w_h.shape[1]
        x = torch.stack([filled(z, low) for z in inputs])  # [a, M', d]
        gates = F.linear(x, w_x.to(low), (b_x + F.pad(b_h[: 2 * d], (0, d))).to(low))  # [a, M', 3 d]
        weight, bias = (
            w_h.to(low),
            F.pad(b_h[2 * d :], (2 * d, 0)).to(low),
        )  # n alone adds b_h here
        states, own = torch.empty_like(x), torch.empty_like(x)
        for i, gate in enumerate(gates):
            if i:
                recurrent = F.linear(states[i - 1], weight, bias)  # [M', 3 d]
                gate[:, : 2 * d].add_(recurrent[:, : 2 * d])
                own[i] = recurrent[:, 2 * d :]
            else:
                own[i] = bias[2 * d :]
            reset, update = gate[:, : 2 * d].sigmoid_().chunk(2, dim=1)  # 2 of [M', d]
            new = gate[:, 2 * d :].addcmul_(reset, own[i]).tanh_()  # [M', d]
            if i:
                torch.lerp(new, states[i - 1], update, out=states[i])
            else:
                torch.addcmul(new, new, update, value=-1, out=states[i])
        ctx.save_for_backward(w_x, w_h, x, gates, states, own)
        ctx.rows = len(inputs[0])
        return states[-1, : ctx.rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of `[M, d]`; back through time."""
        w_x, w_h, x, gates, states, own = ctx.saved_tensors
        steps, _, d = x.shape
        dh = filled(gradients[0], x.dtype)  # [M', d]
        weight = w_h.to(x.dtype)
        # in the order n, r, z and, for W_h h, n again: so the gradients of W x (the first three) and of W_h h
        # (the last three) are one slice each
        d_gates = x.new_empty(*x.shape[:2], 4 * d)  # [a, M', 4 d]
        d_input, d_recurrent = d_gates[..., : 3 * d], d_gates[..., d:]  # 2 of [a, M', 3 d]
        for i in reversed(range(steps)):
            reset, update, new = gates[i].chunk(3, dim=1)  # 3 of [M', d]
            d_new, d_reset, d_update, d_own = d_gates[i].chunk(4, dim=1)  # 4 of [M', d]
            tanh_backward(torch.addcmul(dh, dh, update, value=-1), new, grad_input=d_new)
            sigmoid_backward(d_new * own[i], reset, grad_input=d_reset)
            sigmoid_backward(dh * (states[i - 1] - new if i else -new), update, grad_input=d_update)
            torch.mul(d_new, reset, out=d_own)
            if i:
                dh = torch.addmm(dh * update, d_recurrent[i], weight)  # [M', 3 d] x [3 d, d] -> [M', d]
        flat = d_input.flatten(0, 1)  # [a M', 3 d]
        d_x = (flat @ w_x.roll(d, 0).to(x.dtype)).view_as(x)  # [a, M', d]
        d_w_x = (flat.T @ x.flatten(0, 1)).roll(-d, 0)  # [3 d, a M'] x [a M', d] -> [3 d, d]
        d_w_h = d_recurrent[1:].flatten(0, 1).T @ states[:-1].flatten(0, 1)  # [3 d, d]
        total = d_gates.sum((0, 1))  # [4 d]
        sums = total[: 3 * d].roll(-d), total[d:]  # 2 of [3 d]
        weights = (gradient.to(w_x.dtype) for gradient in (d_w_x, d_w_h, *sums))
        return None, *weights, *(d_z[: ctx.rows].to(gradients[0].dtype) for d_z in d_x)
