"""A network beside the layers of a frozen language model: a block and a gate a layer (as in LST and IISAN).

With `x_1 ... x_A` the states of the layers read, the lowest first, `s_0 = 0`, and a linear map `W`:

    m_i = sigmoid(a_i / .1)
    u_i = m_i x_i + (1 - m_i) s_(i-1)
    s_i = u_i + block_i(u_i)
    embedding = W s_A

A subclass gives the blocks (`update`) and, where the side state has another width, a map before it (`enter`).
Sources: Sung et al. 2022, arXiv 2206.06522; Fu et al. 2024, arXiv 2404.02059.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

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


@dataclass(frozen=True)
class SideConfig(StatesConfig):
    """Hyper-parameters of side networks."""

    stride: Annotated[int, Field(ge=1)] = 1
    """Which layers are read, from the top down: 1 each layer above the embeddings, 2 every second one."""


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
