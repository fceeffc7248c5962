"""The one loss of every method: softmax cross-entropy over cosine scores (paper, Eqs. 6-8).

Cosines, temperature and softmax are fp32: a cosine divided by tau = 0.07 spans +-14, whose exponentials
16 bits cannot hold. Under mixed precision only the gradients of the scores are multiplied in 16 bits, as
those of every other product of the model are.

Loss and gradients are computed together, some rows of the score matrix at a time: a matrix `[P, C]` read and
written once for each operation would cost as much as the products that make it. Liger Kernel also
computes gradients before the backward pass (Hsu et al. 2024, arXiv 2410.10989).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from benchmark.config import Settings

CHUNK_SCORES = {"cpu": 2**21, "cuda": 2**27}
"""Scores that are held at a time: what a processor's cache takes, or enough to fill the device."""
ALIGNED = 16
"""Scores of a row are held in a multiple of this, 64 bytes: a third less time for their product on a CPU."""


@dataclass(frozen=True)
class Candidates:
    """The shared columns of a step's softmax, `C` of them."""

    embeddings: Tensor
    """`[C, d]`, unit length, fp32."""
    items: Tensor
    """`[C]` item index."""
    users: Tensor | None
    """`[C]` the user whose target the column is (`candidates = batch`), else None."""
    group: Tensor | None = None
    """`[C]` the batch that the column is of; None where all predictions see all columns."""


@dataclass(frozen=True)
class Predictions:
    """`P` predictions."""

    u: Tensor
    """`[P, d]` user states, unit length, fp32."""
    v: Tensor
    """`[P, d]` embeddings of the targets, unit length, fp32."""
    targets: Tensor
    """`[P]` item index of the targets."""
    users: Tensor
    """`[P]` users."""
    own: Tensor | None
    """`[P]` column of the target among the candidates, -1 where they lack it; None with `candidates = batch`,
    where columns are identified by user and item."""
    weight: Tensor
    """`[P]` fp32, weight of each in the objective; 0 for fillers."""
    group: Tensor | None = None
    """`[P]` the batch that each is of: a prediction does not see the columns of another."""


Hide = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""(scores `[p, C]`, slice of predictions) -> number of negatives `[p]`, and the correction to add to the log
of the sum over them, `[p]` or `[]`. Sets the scores of all other columns to -inf, in place."""


def normalise(x: Tensor) -> Tensor:
    """Rows of unit length, fp32: `[..., d]` -> `[..., d]`."""
    return F.normalize(x.float(), dim=-1)


class SoftmaxLoss(torch.autograd.Function):
    """Weighted sum of the cross-entropies, their sum, and the number of negatives: three scalars.

    Only the first has gradients; what weighs nothing is in none of them. With `r` the target's logit and `n`
    the log of the sum over the negatives' exponentials, a prediction's loss is `softplus(n - r)` with the
    positive in the denominator and `n - r` without. One without negatives teaches nothing. Label smoothing
    by e adds e times what the target's logit is above the mean logit of all terms, the target included.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        v: Tensor,
        columns: Tensor,
        weight: Tensor,
        hide: Hide,
        settings: Settings,
        low: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """User states `u` and targets `v` `[P, d]`, `columns` `[C, d]`, `weight` `[P]`; gradients multiply in
        `low`."""
        objective, loss = u.new_zeros(()), u.new_zeros(())
        count = torch.zeros((), dtype=torch.int64, device=u.device)
        du, dv, d_columns = torch.empty_like(u), torch.empty_like(v), torch.zeros_like(columns)
        scale, cast = 1 / settings.temperature, columns.to(low)
        smoothing = settings.label_smoothing
        held = max(1, CHUNK_SCORES.get(u.device.type, CHUNK_SCORES["cpu"]) // len(columns))
        n_columns = len(columns)
        buffer = u.new_empty(min(held, len(u)), -(-n_columns // ALIGNED) * ALIGNED)  # [held, C']
        for begin in range(0, len(u), held):
            rows = slice(begin, begin + held)
            scaled = u[rows] * scale  # [p, d]
            terms = buffer[: len(scaled)]  # [p, C']
            torch.mm(scaled, columns.T, out=terms[:, :n_columns])  # [p, d] x [d, C] -> [p, C]
            terms[:, n_columns:] = -math.inf
            number, more = hide(terms[:, :n_columns], rows)
            smoothed = _Smoothing(smoothing, terms[:, :n_columns], number) if smoothing else None
            weights, real = weight[rows], weight[rows] > 0  # [p] twice
            top = terms.amax(1, keepdim=True).clamp(min=torch.finfo(u.dtype).min)  # [p, 1]
            total = terms.sub_(top).exp_().sum(1)  # [p], at least 1 where there is a negative
            gap = top.squeeze(1) + total.log() + more - (scaled * v[rows]).sum(1)  # [p], n - r
            losses, share = _loss_of(gap, settings.positive_in_denominator)
            if smoothed:
                losses = losses + smoothed.losses((scaled * v[rows]).sum(1))
            objective += losses @ weights
            loss += losses @ real.to(losses.dtype)
            count += (number * real).sum()
            if any(ctx.needs_input_grad):
                pull = (share * weights).mul_(scale).unsqueeze(1)  # [p, 1], of the target
                push = pull / total.clamp(min=1).unsqueeze(1)  # [p, 1], of each term of the sum
                low_terms = terms.to(low)[:, :n_columns]  # [p, C]
                du[rows] = (low_terms @ cast) * push - v[rows] * pull  # [p, C] x [C, d] -> [p, d]
                dv[rows] = u[rows] * -pull
                d_columns += low_terms.T @ (u[rows] * push).to(low)  # [C, p] x [p, d] -> [C, d]
                if smoothed:
                    more_du, more_dv, more_columns = smoothed.gradients(scaled, v[rows], columns, weights)
                    du[rows] += more_du * scale
                    dv[rows] += more_dv
                    d_columns += more_columns
        ctx.save_for_backward(du, dv, d_columns)
        ctx.mark_non_differentiable(loss, count)
        return objective, loss, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Those computed in the forward pass, times that of the objective."""
        return *(computed * gradients[0] for computed in ctx.saved_tensors), None, None, None, None


class _Smoothing:
    """What label smoothing by `share` adds to some predictions' losses: share * (r - mean of all terms).

    `terms` `[p, C]` are the scores of the candidates, -inf where one is no negative; `number` `[p]` counts
    the negatives. A prediction without negatives adds nothing.
    """

    def __init__(self, share: float, terms: Tensor, number: Tensor) -> None:
        self.open = (terms > -math.inf).to(terms.dtype)  # [p, C]
        self.sum = terms.masked_fill(terms == -math.inf, 0).sum(1)  # [p]
        self.factor = torch.where(number > 0, share / (number + 1), 0.0)  # [p]
        self.number = number

    def losses(self, target: Tensor) -> Tensor:
        """`target` `[p]`, the targets' logits r: -> `[p]`."""
        return self.factor * (self.number * target - self.sum)  # r - (r + sum) / (number + 1), times share

    def gradients(
        self, scaled: Tensor, v: Tensor, columns: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """By scaled user states and targets, `[p, d]` each, and columns `[C, d]`; `weights` `[p]`."""
        factor = (self.factor * weights).unsqueeze(1)  # [p, 1]
        number = self.number.unsqueeze(1)  # [p, 1]
        by_user = factor * (number * v - self.open @ columns)  # [p, C] x [C, d] -> [p, d]
        return by_user, factor * number * scaled, -(self.open.T @ (factor * scaled))  # [p, d] twice, [C, d]


def _loss_of(gap: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """Losses and their derivatives by `gap`, n - r, which is -inf without negatives: two of `[p]`."""
    if positive:
        return F.softplus(gap), gap.sigmoid()
    taught = gap > -math.inf
    return gap.where(taught, 0), taught.to(gap.dtype)


def softmax_loss(
    predictions: Predictions,
    candidates: Candidates,
    settings: Settings,
    catalogue: int,
    low: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The objective, the sum of the cross-entropies, and the number of softmax terms (the positives
    included): three scalars, of which the first has gradients.

    `catalogue` is the number of items that the candidates are drawn from, uniformly, or that they all are;
    `low` the 16-bit type of mixed precision, None without.
    """
    if candidates.users is None:
        hide = _other_items(predictions, candidates, catalogue)
    else:
        hide = _other_users(predictions, candidates, settings.mask_false_negatives)
    u, v, weight = predictions.u, predictions.v, predictions.weight
    objective, loss, terms = SoftmaxLoss.apply(  # type: ignore[no-untyped-call]
        u, v, candidates.embeddings, weight, hide, settings, low or u.dtype
    )
    if settings.positive_in_denominator:
        terms = terms + (weight > 0).sum()
    return objective, loss, terms


def _other_users(predictions: Predictions, candidates: Candidates, mask_false_negatives: bool) -> Hide:
    """Negatives are *other users'* targets, without those that are the same item where masked."""

    users = candidates.users
    assert users is not None

    def hide(scores: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        out = users == predictions.users[rows].unsqueeze(1)  # [p, C]
        if mask_false_negatives:
            out |= candidates.items == predictions.targets[rows].unsqueeze(1)
        if candidates.group is not None and predictions.group is not None:
            out |= candidates.group != predictions.group[rows].unsqueeze(1)
        scores.masked_fill_(out, -math.inf)
        return scores.shape[1] - out.sum(1), scores.new_zeros(())

    return hide


def _other_items(predictions: Predictions, candidates: Candidates, catalogue: int) -> Hide:
    """Negatives are all columns but the target's own; drawn ones stand for the whole catalogue.

    The logQ correction of uniform draws without replacement: `n` of the `I - 1` negatives stand for all,
    so each counts (I - 1) / n times. Drawing everything gives the loss over the catalogue exactly.
    """
    assert predictions.own is not None
    columns = predictions.own.unsqueeze(1)  # [P, 1]

    def hide(scores: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        own = columns[rows]  # [p, 1]
        column, present = own.clamp(min=0), own >= 0
        scores.scatter_(1, column, scores.gather(1, column).masked_fill_(present, -math.inf))
        number = scores.shape[1] - present.squeeze(1).long()  # [p]
        if candidates.group is not None and predictions.group is not None:
            out = candidates.group != predictions.group[rows].unsqueeze(1)  # [p, C]
            scores.masked_fill_(out, -math.inf)
            number -= out.sum(1)
        return number, torch.log((catalogue - 1) / number.clamp(min=1))

    return hide
