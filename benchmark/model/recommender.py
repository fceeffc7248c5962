"""The glue: a method's item embeddings, SASRec over them, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.config import Settings
from benchmark.model.batch import Batch, Share
from benchmark.model.items import ItemEncoder
from benchmark.model.loss import Candidates, Predictions, normalise, softmax_loss
from benchmark.model.parallel import gathered, world_size
from benchmark.model.sasrec import SASRec
from methods.base import Method


@dataclass(frozen=True)
class StepLoss:
    """What a training step yields. `objective` is what to differentiate; the rest is for the record."""

    objective: Tensor
    loss_sum: Tensor
    candidates_sum: Tensor


class Recommender(nn.Module):
    """A method and SASRec, on the encoder's device."""

    def __init__(
        self, method: Method, encoder: ItemEncoder, n_items: int, n_trained: int, settings: Settings
    ) -> None:
        super().__init__()
        self.method = method
        self.sasrec = SASRec(settings)
        self.id_embedding = nn.Embedding(n_items, settings.width) if settings.ids == "add" else None
        if self.id_embedding is not None:
            nn.init.normal_(self.id_embedding.weight, std=0.02)
        self.encoder, self.settings, self.n_trained = encoder, settings, n_trained
        self.to(encoder.device)

    def forward(self, batch: Batch) -> StepLoss:
        """The loss of this process's share of a global batch, or of those of a step."""
        table = self.embed(batch.share)  # [M, d]
        u = self.users(table, batch.inputs, batch.positions, batch.segments, batch.slots)  # [P, d]
        device = table.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            scored = self.scored(table)  # [M, d]
            candidates = Candidates(
                F.embedding(batch.candidate_rows, scored),
                batch.candidates,
                batch.candidate_users,
                batch.candidate_group,
            )
            predictions = Predictions(
                self.scored(u),
                F.embedding(batch.target_rows, scored),
                batch.targets,
                batch.users,
                batch.own,
                batch.weight,
                batch.group,
            )
            objective, loss, terms = softmax_loss(predictions, candidates, self.settings, self.n_trained, low)
            auxiliary = self.method.aux_loss()
            if auxiliary is not None:
                objective = objective + auxiliary
        return StepLoss(objective, loss, terms)

    def scored(self, x: Tensor) -> Tensor:
        """User states or item embeddings as their dot product scores them, fp32: `[..., d]` -> `[..., d]`."""
        return normalise(x) if self.settings.similarity == "cosine" else x.float()

    def embed(self, share: Share) -> Tensor:
        """Encode this process's share of the items and gather everybody's, with gradients: -> `[M, d]`."""
        mine = self.encoder(self.method, share)  # [m, d]
        if self.id_embedding is not None:
            # an empty text (`encode = occurrences`) has no id; SASRec never looks at it
            known = self.encoder.on_device(share.index).clamp(max=self.id_embedding.num_embeddings - 1)
            mine = mine + self.id_embedding(known)
        if world_size() > 1:
            mine = torch.cat(gathered(mine))  # [world m, d]
        return mine[: share.rows]  # [M, d]

    def users(
        self, table: Tensor, inputs: Tensor, positions: Tensor, segments: Tensor, slots: Tensor
    ) -> Tensor:
        """User states at `slots` `[P]` of packed rows: table `[M, d]`, the rest `[N, S]`: -> `[P, d]`."""
        return self.sasrec(F.embedding(inputs, table), positions, segments, slots)  # type: ignore[no-any-return]
