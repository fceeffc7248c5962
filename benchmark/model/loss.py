"""The one loss of every method: softmax cross-entropy over cosine scores (paper, Eqs. 6-8).

Everything here is fp32: a cosine divided by tau = 0.07 spans +-14, whose exponentials 16 bits cannot hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def normalise(x: Tensor) -> Tensor:
    """Rows of unit length, fp32: `[..., d]` -> `[..., d]`."""
    return F.normalize(x.float(), dim=-1)


def excluded(targets: Tensor, users: Tensor, candidates: Candidates, settings: Settings) -> Tensor:
    """Columns that are not negatives of a prediction: `[P]`, `[P]` -> `[P, C]` bool.

    In a batch those are the user's own targets and, where `mask_false_negatives`, another user's target
    that is the same item. Among drawn or all items it is the target itself.
    """
    same_item = candidates.items == targets.unsqueeze(1)  # [P, C]
    if candidates.users is None:
        return same_item
    same_user = candidates.users == users.unsqueeze(1)  # [P, C]
    return same_user | same_item if settings.mask_false_negatives else same_user


def softmax_loss(
    u: Tensor,
    v: Tensor,
    targets: Tensor,
    users: Tensor,
    candidates: Candidates,
    settings: Settings,
    catalogue: int,
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of `P` predictions, and the number of their candidates.

    Args:
        u: `[P, d]` user states, unit length.
        v: `[P, d]` embeddings of their targets, unit length.
        targets: `[P]` item index of the targets.
        users: `[P]` users.
        candidates: the step's shared columns.
        settings: temperature and the open points of Eq. 8.
        catalogue: items that the shared draws of `candidates = sampled` were drawn from, uniformly.

    Returns:
        Two scalars: the summed loss, and the summed number of softmax terms (the positive included).
    """
    positive = (u * v).sum(-1) / settings.temperature  # [P]
    logits = u @ candidates.embeddings.T / settings.temperature  # [P, d] x [d, C] -> [P, C]
    out = excluded(targets, users, candidates, settings)
    negatives = (~out).sum(1)  # [P]
    partition = logits.masked_fill(out, -math.inf).logsumexp(1)  # [P]
    if settings.candidates == "sampled":
        # logQ correction of uniform draws without replacement: n of the I - 1 negatives stand for all
        partition = partition + torch.log((catalogue - 1) / negatives.clamp(min=1))
    if settings.positive_in_denominator:
        partition = torch.logaddexp(positive, partition)
    else:  # a prediction without negatives teaches nothing
        partition = torch.where(negatives > 0, partition, positive)
    return (partition - positive).sum(), (negatives + settings.positive_in_denominator).sum()
