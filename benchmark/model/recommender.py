"""The recommender: a method's item embeddings, SASRec over them, and the loss.

SASRec (Kang and McAuley 2018) is post-norm, by default with UniSRec's GELU and eps 1e-12. Rows are packed: a
bin of `S` slots holds several rows, identified by their segment, so that hardly any arithmetic is spent on
padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.config import Settings
from benchmark.model.items import Batch, ItemEncoder, Share
from benchmark.model.loss import Candidates, Predictions, normalise, softmax_loss
from benchmark.model.parallel import gathered, world_size
from methods.base import Method
from methods.kernels.dropout import Dropout, dropout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer, each with a residual and LayerNorm after it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width, self.heads = settings.width, settings.sasrec_heads
        self.dropout, self.activation = settings.sasrec_dropout, ACTIVATIONS[settings.sasrec_activation]
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=settings.sasrec_eps)
        self.expand = nn.Linear(width, settings.sasrec_inner)
        self.contract = nn.Linear(settings.sasrec_inner, width)
        self.feed_norm = nn.LayerNorm(width, eps=settings.sasrec_eps)

    def forward(self, x: Tensor, mask: Tensor, slots: Tensor | None = None) -> Tensor:
        """`x` `[N, S, d]`, `mask` `[N, 1, S, S]` True where attention is allowed: -> `[N, S, d]`.

        With `slots` `[P]`, flat indices into the N S slots, only those go on after attention: -> `[P, d]`.
        """
        bins, slots_of_bin, width = x.shape
        q, k, v = (
            part.view(bins, slots_of_bin, self.heads, -1).transpose(1, 2)  # [N, heads, S, d / heads]
            for part in self.qkv(x).chunk(3, dim=-1)  # [N, S, 3 d] -> 3 of [N, S, d]
        )
        mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0)  # [N, heads, S, d / heads]
        mixed = mixed.transpose(1, 2).reshape(bins, slots_of_bin, width)  # [N, S, d]
        if slots is not None:
            mixed, x = mixed.flatten(0, 1)[slots], x.flatten(0, 1)[slots]  # [N S, d] -> [P, d]
        x = self.attention_norm(x + dropout(self.out(mixed), self.dropout, self.training))
        fed = self.contract(self.activation(self.expand(x)))  # [..., d] -> [..., inner] -> [..., d]
        return self.feed_norm(x + dropout(fed, self.dropout, self.training))  # type: ignore[no-any-return]


class SASRec(nn.Module):
    """A causal Transformer over a user's items: position j of a row is the user before item j + 1."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.position = nn.Embedding(settings.window, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.sasrec_eps)
        self.dropout = Dropout(settings.sasrec_dropout)
        self.blocks = nn.ModuleList(TransformerBlock(settings) for _ in range(settings.sasrec_layers))
        self.apply(_initialise)

    def forward(self, x: Tensor, positions: Tensor, segments: Tensor, slots: Tensor) -> Tensor:
        """User states where something is predicted.

        Args:
            x: `[N, S, d]` item embeddings.
            positions: `[N, S]` position of each slot in its row.
            segments: `[N, S]` its row, -1 for padding.
            slots: `[P]` flat index into the N S slots of each prediction.

        Returns:
            `[P, d]`.
        """
        mask = causal_mask(segments)
        x = self.dropout(self.norm(x + self.position(positions)))
        *lower, last = self.blocks
        for block in lower:
            x = block(x, mask)
        return last(x, mask, slots)  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, share: float) -> Tensor:
    """Dot-product attention: `[N, heads, S, d / heads]` three times, `mask` `[N, 1, S, S]`: as `q`."""
    if share == 0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=share)
    # With dropout, PyTorch's is made of plain products in fp32 here. These are in the precision of the run,
    # and their masks are the same, drawn the same way.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [N, heads, S, S]
    with torch.no_grad():  # what is hidden weighs 0, and so has no gradient
        scores.masked_fill_(~mask, -math.inf)
    kept = torch.empty(scores.shape).bernoulli_(1 - share).mul_(1 / (1 - share))  # [N, heads, S, S]
    weights: Tensor = scores.softmax(-1, dtype=scores.dtype) * kept.to(scores.dtype)
    return weights @ v


def causal_mask(segments: Tensor) -> Tensor:
    """A slot sees itself and earlier slots of its own row: `[N, S]` -> `[N, 1, S, S]` bool.

    Padding (segment -1) sees padding, so that no softmax is over nothing.
    """
    slots = segments.shape[1]
    same = segments.unsqueeze(2) == segments.unsqueeze(1)  # [N, S, S]
    earlier = torch.ones(slots, slots, dtype=torch.bool, device=segments.device).tril()  # [S, S]
    return (same & earlier).unsqueeze(1)  # [N, 1, S, S]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


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
