"""The one loss of every method: softmax cross-entropy over cosine scores (paper, Eqs. 6-8).

Cosines, temperature and softmax are fp32: a cosine divided by tau = 0.07 spans +-14, whose exponentials
16 bits cannot hold. Under mixed precision only the gradients of the scores are multiplied in 16 bits, as
those of every other product of the model are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.config import Settings


@dataclass(frozen=True)
class Candidates:
    """The shared columns of a step's softmax, `C` of them."""

    embeddings: Tensor
    """`[C, d]`, unit length, fp32."""
    items: Tensor
    """`[C]` item index."""
    users: Tensor | None
    """`[C]` the user whose target the column is (`candidates = batch`), else None."""


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
    """`[P]` column of the target among the candidates; None where candidates are drawn and may lack it."""


def normalise(x: Tensor) -> Tensor:
    """Rows of unit length, fp32: `[..., d]` -> `[..., d]`."""
    return F.normalize(x.float(), dim=-1)


class Scores(torch.autograd.Function):
    """`u v^T` in fp32, its gradients multiplied in `low` precision where one is given."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, low: torch.dtype | None) -> Tensor:
        """`[P, d]`, `[C, d]` -> `[P, C]`."""
        ctx.save_for_backward(u, v)
        ctx.low = low or u.dtype
        return u @ v.T  # [P, d] x [d, C] -> [P, C]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Of `[P, C]`, for `u` `[P, d]` and `v` `[C, d]`."""
        u, v = ctx.saved_tensors
        g = gradients[0].to(ctx.low)
        return (g @ v.to(ctx.low)).to(u.dtype), (g.T @ u.to(ctx.low)).to(v.dtype), None


def softmax_loss(
    predictions: Predictions,
    candidates: Candidates,
    settings: Settings,
    catalogue: int,
    low: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies, and the number of softmax terms (the positives included): two scalars.

    `catalogue` is the number of items that drawn candidates were drawn from, uniformly; `low` the 16-bit type
    of mixed precision, None without.
    """
    logits: Tensor = Scores.apply(  # type: ignore[no-untyped-call]
        predictions.u / settings.temperature, candidates.embeddings, low
    )  # [P, C]
    if predictions.own is None:
        logits, own, terms = _drawn(logits, predictions, candidates, settings, catalogue)
    elif candidates.users is None:  # the whole catalogue: every column but the target is a negative
        own, terms = predictions.own, torch.full_like(predictions.own, logits.shape[1])
    else:
        logits, own, terms = _in_batch(logits, predictions, candidates, settings)
    if settings.positive_in_denominator:
        return F.cross_entropy(logits, own, reduction="sum"), terms.sum()
    positive = logits.gather(1, own.unsqueeze(1)).squeeze(1)  # [P]
    others = logits.scatter(1, own.unsqueeze(1), -math.inf).logsumexp(1)  # [P]
    taught = terms > 1  # a prediction without negatives teaches nothing
    return torch.where(taught, others - positive, positive.new_zeros(())).sum(), (terms - 1).sum()


def _in_batch(
    logits: Tensor, predictions: Predictions, candidates: Candidates, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave the target and *other users'* targets, without those that are the same item where masked."""
    assert predictions.own is not None and candidates.users is not None
    out = candidates.users == predictions.users.unsqueeze(1)  # [P, C]
    if settings.mask_false_negatives:
        out = out | (candidates.items == predictions.targets.unsqueeze(1))
    out = out.scatter(1, predictions.own.unsqueeze(1), value=False)
    return logits.masked_fill(out, -math.inf), predictions.own, (~out).sum(1)


def _drawn(
    logits: Tensor, predictions: Predictions, candidates: Candidates, settings: Settings, catalogue: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The target as a column of its own before the drawn ones, which stand for the whole catalogue.

    The logQ correction of uniform draws without replacement: `n` of the `I - 1` negatives stand for all,
    so each counts (I - 1) / n times. Drawing everything gives the loss over the catalogue exactly.
    """
    hit = candidates.items == predictions.targets.unsqueeze(1)  # [P, C]
    n = (~hit).sum(1, keepdim=True)  # [P, 1]
    negatives = logits.masked_fill(hit, -math.inf) + torch.log((catalogue - 1) / n.clamp(min=1))
    positive = (predictions.u * predictions.v).sum(-1, keepdim=True) / settings.temperature  # [P, 1]
    own = torch.zeros_like(predictions.targets)
    return torch.cat([positive, negatives], dim=1), own, n.squeeze(1) + 1  # [P, 1 + C]
