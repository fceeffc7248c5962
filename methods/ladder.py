"""ladder: a narrow side network beside a frozen language model (LST, Sung et al. 2022, arXiv 2206.06522).

With `x_1 ... x_A` the states of the layers read, the lowest first, `s_0 = 0`, and linear maps `P`, `W`:

    m_i = sigmoid(a_i / .1)
    u_i = m_i P_i x_i + (1 - m_i) s_(i-1)
    s_i = u_i + FFN_i(LayerNorm(u_i))
    embedding = W s_A

The paper's side network reads the states of all tokens, and its blocks are Transformer layers of width D / r.
Here it reads one pooled state a layer: attention over one state is a linear map, so that the feed-forward
half remains. The paper's s_0 projects the token embeddings; they are not read here, since the embedding of
the first token is the same for all items. Blocks start at random instead of from pruned layers of the
language model. The paper writes the gate for the side state, here m_i is the share of the layer; a_i starts
at 0, so that the two differ in its sign alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.errors import UserError
from methods.kernels.dropout import Dropout
from methods.moe import StatesConfig
from methods.whitening import Whitening

TEMPERATURE = 0.1
"""Of the gates, in the code of both LST and IISAN: a gate learns ten times as fast as its parameter."""
EXPANSION = 4
"""Width of a feed-forward block's hidden layer, as a multiple of its input."""


@dataclass(frozen=True)
class SideConfig(StatesConfig):
    """Hyper-parameters of side networks."""

    stride: Annotated[int, Field(ge=1)] = 1
    """Which layers are read, from the top down: 1 each layer above the embeddings, 2 every second one."""


@dataclass(frozen=True)
class LadderConfig(SideConfig):
    """Hyper-parameters of ladder."""

    reduction: Annotated[int, Field(ge=1)] = 8
    """r, by which the side network is narrower than the language model: its width is D / r, rounded up."""


class SideNetwork(Method):
    """A block beside each layer read; a gate mixes the layer's state into the side state, the lowest first.

    It runs in fp32: 16 bits would spend their digits on what the side states of all items have in common, and
    products of this size cost little.
    """

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True

    def __init__(self, config: SideConfig, context: Context, width: int) -> None:
        """`width` is that of the side state."""
        super().__init__(config, context)
        places = range(len(self.layers(config, context.llm_layers)))
        self.whitened = nn.ModuleList(Whitening(context, place, config.init) for place in places)
        self.dropout = Dropout(config.dropout)
        self.gates = nn.Parameter(torch.zeros(len(places)))
        self.head = nn.Linear(width, context.out_dim)

    @classmethod
    def layers(cls, config: SideConfig, n_layers: int) -> tuple[int, ...]:
        """The lowest layer first, up to the top one."""
        if config.stride > n_layers:
            raise UserError(
                f"stride={config.stride} is more than the language model has layers: 1 to {n_layers}."
            )
        return tuple(reversed(range(n_layers, 0, -config.stride)))

    def precompute(self, states: Tensor) -> Tensor:
        """Centre and scale each layer in fp32: `[c, A, D]` -> `[c, A, D]`."""
        layers = [whiten(states[:, place]) for place, whiten in enumerate(self.whitened)]  # A of [c, D]
        return torch.stack(layers, dim=1)  # [c, A, D]

    def enter(self, place: int, x: Tensor) -> Tensor:
        """The state of the layer at `place` in the width of the side state: `[M, D]` -> `[M, w]`."""
        return x

    def update(self, place: int, side: Tensor) -> Tensor:
        """What the block at `place` adds to the side state: `[M, w]` -> `[M, w]`."""
        raise NotImplementedError

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, A, D]` -> `[M, d]`."""
        states = self.dropout(states_of(items))  # [M, A, D]
        shares, side = (self.gates / TEMPERATURE).sigmoid(), self.gates.new_zeros(())  # [A], []
        with torch.autocast(states.device.type, enabled=False):
            for place, whiten in enumerate(self.whitened):
                x = self.enter(place, states[:, place] + whiten.origin)  # [M, A, D] -> [M, w]
                side = shares[place] * x + (1 - shares[place]) * side  # [M, w]
                side = side + self.update(place, side)
            return self.head(side)  # type: ignore[no-any-return]  # [M, w] -> [M, d]


class Ladder(SideNetwork):
    """ladder: a narrow side network on all layers (LST, Sung et al. 2022, arXiv 2206.06522)."""

    Config: ClassVar[type[Any]] = LadderConfig
    by_default: ClassVar[bool] = False

    def __init__(self, config: LadderConfig, context: Context) -> None:
        if config.reduction > context.llm_width:
            raise UserError(
                f"reduction={config.reduction} leaves no side network beside a language model of width"
                f" {context.llm_width}: 1 to {context.llm_width}."
            )
        width = -(-context.llm_width // config.reduction)
        super().__init__(config, context, width)
        self.projections = nn.ModuleList(nn.Linear(context.llm_width, width) for _ in self.whitened)
        self.blocks = nn.ModuleList(_feed_forward(width) for _ in self.whitened)

    def enter(self, place: int, x: Tensor) -> Tensor:
        """P: `[M, D]` -> `[M, w]`."""
        return self.projections[place](x)  # type: ignore[no-any-return]  # [M, D] -> [M, w]

    def update(self, place: int, side: Tensor) -> Tensor:
        """FFN(LayerNorm(u)): `[M, w]` -> `[M, w]`."""
        return self.blocks[place](side)  # type: ignore[no-any-return]


def _feed_forward(width: int) -> nn.Sequential:
    hidden = EXPANSION * width
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
