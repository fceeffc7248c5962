"""SASRec (Kang and McAuley 2018), post-norm, by default with UniSRec's GELU and eps 1e-12.

Rows are packed: a bin of `S` slots holds several rows, identified by their segment, so that hardly any
arithmetic is spent on padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.config import Settings
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
