"""The mixture-of-experts adapter on one layer of a frozen language model (SSNA paper, Eqs. 1-3).

TMoE is one such adapter on the top layer; SSNA integrates several. Symbols: `h` a state, `n_p` projection
heads, `b`, `W` shift and projection of a head, `B`, `U` the routing weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.dropout import Dropout


@dataclass(frozen=True)
class StatesConfig:
    """What every reader of frozen states has."""

    init: Literal["paper", "whitened"] = "paper"
    """Starting point: `paper` random; `whitened` centred on the catalogue's mean and scaled by its spread."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout on the states that enter the adapter (UniSRec's value)."""


@dataclass(frozen=True)
class MoEConfig(StatesConfig):
    """A reader of frozen states whose adapters are mixtures of experts."""

    heads: Annotated[int, Field(ge=1, le=1024)] = 8
    """n_p, projection heads of an adapter."""
    noise: Literal["train", "always", "never"] = "train"
    """When the routing weights are drawn from their Gaussian; otherwise its mean is used."""


class Whitening(nn.Module):
    """The fixed affine map behind `init`, computed without losing digits in 16 bits.

    Hidden states have a large common mean. Multiplying them in bf16 would spend the mantissa on that mean,
    so the states are centred in fp32 first and what the centring took away goes through the weights on its
    own: `x W = centred W + origin W`, exactly, with `x = (h - shift) / scale`. `paper` has shift 0 and
    scale 1, so x = h; `whitened` has the catalogue's mean and spread. Either way a head (b', W') in the
    coordinates of x is a head (b, W) of Eq. 1 with `W = W' / scale`, `b = shift + scale b'`. The routing
    reads x too: `mu = x B'` is `h B - shift B` with `B = B' / scale`, so `whitened` has a tied constant
    there that Eq. 3 lacks.
    """

    mean: Tensor
    scale: Tensor
    origin: Tensor

    def __init__(self, mean: Tensor, std: Tensor, init: str) -> None:
        super().__init__()
        whitened = init == "whitened"
        scale = std if whitened else torch.ones_like(std)
        shift = mean if whitened else torch.zeros_like(mean)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("scale", scale.clone(), persistent=False)
        self.register_buffer("origin", (mean - shift) / scale, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Centre and scale states in fp32: `[M, D]` -> `[M, D]`. Add `origin` to get x."""
        return (h.to(self.mean.dtype) - self.mean) / self.scale


class MoEAdapter(nn.Module):
    """Eqs. 1-3: projection heads mixed by Gaussian routing, `[M, D] -> [M, d]` in fp32.

    Dropout acts on centred states, so a dropped dimension has the catalogue's mean, not zero.
    """

    def __init__(self, config: MoEConfig, mean: Tensor, std: Tensor, out_dim: int) -> None:
        """`mean` and `std` are `[D]`, the statistics of this layer over the catalogue."""
        super().__init__()
        width, heads = len(mean), config.heads
        self.heads, self.noise = heads, config.noise
        self.whiten = Whitening(mean, std, config.init)
        self.dropout = Dropout(config.dropout)
        self.weight = nn.Parameter(torch.empty(width, heads, out_dim))  # W of Eq. 1
        self.shift = nn.Parameter(torch.empty(heads, width))  # b of Eq. 1
        # what would never train does not exist: a single head has no rival, and no draw has no spread
        if heads > 1:
            self.route_mean = nn.Parameter(torch.empty(width, heads))  # B of Eq. 3
        if heads > 1 and self.noise != "never":
            self.route_std = nn.Parameter(torch.empty(width, heads))  # U of Eq. 3
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)
        if config.init == "whitened":
            nn.init.zeros_(self.shift)  # b starts at the catalogue's mean

    def forward(self, h: Tensor) -> Tensor:
        """Adapt the states of one layer: `[M, D]` -> `[M, d]`."""
        width, heads, out_dim = self.weight.shape
        x = self.dropout(self.whiten(h))
        origin = self.whiten.origin
        weight = self.weight.view(width, heads * out_dim)  # [D, n_p d]
        projected = (x @ weight).view(-1, heads, out_dim)  # [M, n_p, d]
        share = self._share(x)  # [M, n_p]
        # What items have in common can be a hundred times what tells them apart: its part stays in fp32.
        with torch.autocast(h.device.type, enabled=False):
            # (x + origin - b_k) W_k without an [M, n_p, D] tensor: the constant part goes through W once.
            # Every b_k meets every W_j there and only j = k is kept, which spares a transposed copy of W.
            crossed = ((origin - self.shift) @ weight).view(heads, heads, out_dim)  # [n_p, n_p, d]
            constant = crossed.diagonal().T  # [n_p, n_p, d] -> [d, n_p] -> [n_p, d]
            common = share @ constant  # [M, d]
        mixed = torch.bmm(share.to(projected.dtype).unsqueeze(1), projected)  # [M, 1, n_p] x [M, n_p, d]
        return mixed.squeeze(1).to(common.dtype) + common  # [M, 1, d] -> [M, d]

    def _share(self, x: Tensor) -> Tensor:
        """Each head's share in an item, Eqs. 2 and 3: `[M, D]` -> `[M, n_p]` fp32."""
        origin, heads = self.whiten.origin, self.heads
        if heads == 1:
            return origin.new_ones(len(x), 1)
        routes: Tensor = self.route_mean  # [D, n_p]
        if self.noise != "never":
            routes = torch.cat([routes, self.route_std], dim=1)  # [D, 2 n_p]
        routed = x @ routes  # [M, 2 n_p], or [M, n_p] without noise
        with torch.autocast(x.device.type, enabled=False):
            logits = routed.to(origin.dtype) + origin @ routes
            return self._route(logits[:, :heads], logits[:, heads:])

    def _route(self, mu: Tensor, rho: Tensor) -> Tensor:
        """Softmax of a draw from N(mu, softplus(rho)^2), or of mu where noise is off: `[M, n_p]`."""
        if self.noise == "always" or (self.noise == "train" and self.training):
            mu = mu + F.softplus(rho) * torch.randn_like(mu)
        return mu.softmax(dim=-1)
