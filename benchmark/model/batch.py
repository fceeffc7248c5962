"""What the model is given: one training batch, and the items that this process encodes for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Encode these items and gather them into the step's table: `table = gather(encode(items))[:rows]`."""

    items: Ints
    """`[m]` item indices that this process encodes (the last may repeat, so that all encode equally many).
    On the host, where readers of tokens plan their chunks."""
    index: Tensor
    """The same as a tensor, on any device."""
    rows: int
    """M, rows of the gathered table that count."""


@dataclass(frozen=True)
class Batch:
    """A batch's tensors, or those of all batches of a step.

    `M` encoded items, `N` bins of `S` slots, `P` local predictions, `C` candidates. Items are named by their
    row in the step's table of embeddings.
    """

    share: Share
    inputs: Tensor
    """`[N, S]` table row of each input; padding points at row 0 and is masked by its segment."""
    positions: Tensor
    """`[N, S]`"""
    segments: Tensor
    """`[N, S]` row number, -1 for padding."""
    slots: Tensor
    """`[P]` flat slot of each prediction."""
    targets: Tensor
    """`[P]` item index of the next item."""
    target_rows: Tensor
    """`[P]` its row in the table."""
    users: Tensor
    """`[P]` user of each prediction."""
    candidates: Tensor
    """`[C]` item index of each candidate."""
    candidate_rows: Tensor
    """`[C]` its row in the table."""
    own: Tensor | None
    """`[P]` column of each prediction's target among the candidates, -1 where they lack it; None where the
    candidates are targets (`candidates = batch`)."""
    candidate_users: Tensor | None
    """`[C]` the user whose target it is (`candidates = batch`), else None."""
    group: Tensor | None
    """`[P]` the batch that a prediction is of; None for one batch, or where all have the same candidates."""
    candidate_group: Tensor | None
    """`[C]` the batch that a candidate is of: predictions of another do not see it."""
    weight: Tensor
    """`[P]` fp32, what a prediction's loss counts in the objective: the mean over the predictions of a global
    batch, and over batches, times the number of processes, as gradients are averaged over these."""
    predictions: int
    """Predictions of the global batches."""
    members: int
    """Batches in it."""

    def to(self, device: torch.device) -> Batch:
        """Move every tensor to `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)
