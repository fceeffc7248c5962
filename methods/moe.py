"""The mixture-of-experts adapter on one layer of a frozen language model (SSNA paper, Eqs. 1-3).

TMoE is one such adapter on the top layer; SSNA integrates several. Symbols: `h` a state, `n_p` projection
heads, `b`, `W` shift and projection of a head, `B`, `U` the routing weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context
from methods.fields import later
from methods.kernels.dropout import dropout
from methods.kernels.mixture import Mixture
from methods.kernels.precision import filled, product_dtype
from methods.whitening import OLD_NAMES, Init, Whitening


@dataclass(frozen=True)
class StatesConfig:
    """Hyper-parameters of every reader of frozen states."""

    init: Init = field(default="paper", metadata=OLD_NAMES)
    """Starting point: `paper` the states as they are; `standardised` less the catalogue's mean, each
    dimension divided by its standard deviation; `zca` fully whitened: dimensions are decorrelated, too."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout on the states that enter the adapter (UniSRec's value)."""


@dataclass(frozen=True)
class MoEConfig(StatesConfig):
    """A reader of frozen states whose adapters are mixtures of experts."""

    heads: Annotated[int, Field(ge=1, le=1024)] = 8
    """n_p, projection heads of an adapter."""
    dropout_on: Literal["centred", "raw", "experts"] = later("centred")
    """What dropout sets to zero: `centred` the state less the catalogue's mean, so that a dropped dimension
    has the mean; `raw` the state itself; both with one mask for all experts and the routing. `experts` the
    state itself with a mask for each expert and none for the routing, as UniSRec's code does, at n_p times
    the memory."""
    noise: Literal["train", "always", "never"] = "train"
    """When the routing weights are drawn from their Gaussian; otherwise its mean is used."""


class StateDropout(nn.Module):
    """Dropout on the input of an adapter, the one definition for all readers of states (`dropout_on`)."""

    def __init__(self, share: float, on: str) -> None:
        super().__init__()
        self.share, self.on = share, on

    def forward(self, x: Tensor, origin: Tensor) -> Tensor:
        """`x` centred, `[M, D]`, and `origin`, `[D]`, as in `Whitening`: -> `[M, D]`, centred."""
        if self.on == "centred" or not self.training:
            return dropout(x, self.share, self.training)
        return dropout(x + origin, self.share, self.training) - origin


class MoEAdapter(nn.Module):
    """Eqs. 1-3: projection heads mixed by Gaussian routing, `[M, D] -> [M, d]` in fp32."""

    def __init__(self, config: MoEConfig, context: Context, layer: int) -> None:
        """`layer` is the place of the layer in axis `A` of the states."""
        super().__init__()
        width, heads, out_dim = context.llm_width, config.heads, context.out_dim
        self.heads, self.noise = heads, config.noise
        self.whiten = Whitening(context, layer, config.init)
        self.dropout = StateDropout(config.dropout, config.dropout_on)
        self.weight = nn.Parameter(torch.empty(width, heads, out_dim))  # W of Eq. 1
        self.shift = nn.Parameter(torch.empty(heads, width))  # b of Eq. 1
        # no parameter that would not train: one head needs no routing, and without noise there is no spread
        if heads > 1:
            self.route_mean = nn.Parameter(torch.empty(width, heads))  # B of Eq. 3
        if heads > 1 and self.noise != "never":
            self.route_std = nn.Parameter(torch.empty(width, heads))  # U of Eq. 3
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)
        if config.init != "paper":
            nn.init.zeros_(self.shift)  # b starts at the catalogue's mean

    def forward(self, h: Tensor) -> Tensor:
        """Adapt the states of one layer: `[M, D]` -> `[M, d]`."""
        x = self.whiten(h)  # [M, D]
        if self.training and self.dropout.on == "experts":
            return self._mask_each_expert(x)
        x = self.dropout(x, self.whiten.origin)  # [M, D]
        x = filled(x, product_dtype(x))  # [M', D]
        share = self._share(x[: len(h)])  # [M, n_p]
        with torch.autocast(h.device.type, enabled=False):  # Mixture chooses its precisions itself
            return Mixture.apply(x, share, self.weight, self.whiten.origin - self.shift)  # type: ignore[no-any-return, no-untyped-call]

    def _mask_each_expert(self, x: Tensor) -> Tensor:
        """The mixture of `x` `[M, D]`, centred, with a mask of its own for each expert: -> `[M, d]`."""
        share = self._share(x)  # [M, n_p]
        raw = (x + self.whiten.origin).unsqueeze(1).repeat(1, self.heads, 1)  # [M, n_p, D]
        kept = dropout(raw, self.dropout.share, self.training) - self.shift  # [M, n_p, D]
        with torch.autocast(x.device.type, enabled=False):
            return torch.einsum("mk,mkd,dko->mo", share, kept, self.weight)  # [M, d]

    def _share(self, x: Tensor) -> Tensor:
        """The share of each head in an item, Eqs. 2 and 3: `[M, D]` -> `[M, n_p]` fp32."""
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
