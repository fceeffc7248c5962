"""iisan: bottleneck adapters beside a frozen language model (Fu et al. 2024, arXiv 2404.02059).

The text tower of IISAN. With `x_1 ... x_A` the states of the layers read, the lowest first, `s_0 = 0`, and
`W` a linear map:

    m_i = sigmoid(a_i / .1)
    u_i = m_i x_i + (1 - m_i) s_(i-1)
    s_i = u_i + Up_i GELU(Down_i u_i)
    embedding = W s_A

This is the paper's intra-modal side adapted network for one modality; the paper has another for images and
one between both. LayerDrop is its word for reading every second layer. The published code also reads the
token embeddings, which are not read here, since the embedding of the first token is the same for all items.
It ends in two linear maps with nothing between them, which are one here. Its default activation is ReLU. It
has no dropout on states, as here with `dropout=0`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from methods.base import Context
from methods.side_network import SideConfig, SideNetwork

START = 0.01
"""Standard deviation of an adapter's weights at the start, as published: it begins close to the identity."""


@dataclass(frozen=True)
class IISANConfig(SideConfig):
    """Hyper-parameters of iisan."""

    stride: Annotated[int, Field(ge=1)] = 2
    """Which layers are read, from the top down: 1 each layer above the embeddings, 2 every second one, which
    is the paper's LayerDrop."""
    bottleneck: Annotated[int, Field(ge=1, le=65_536)] = 64
    """b, width between the two linear maps of an adapter."""


class IISAN(SideNetwork):
    """iisan: bottleneck adapters beside every second layer (text tower of IISAN, Fu et al. 2024)."""

    Config: ClassVar[type[Any]] = IISANConfig
    by_default: ClassVar[bool] = False

    def __init__(self, config: IISANConfig, context: Context) -> None:
        super().__init__(config, context, context.llm_width)
        self.blocks = nn.ModuleList(_adapter(context.llm_width, config.bottleneck) for _ in self.whitened)

    def update(self, place: int, side: Tensor) -> Tensor:
        """Up GELU(Down u): `[M, D]` -> `[M, D]`."""
        return self.blocks[place](side)  # type: ignore[no-any-return]


def _adapter(width: int, bottleneck: int) -> nn.Sequential:
    block = nn.Sequential(nn.Linear(width, bottleneck), nn.GELU(), nn.Linear(bottleneck, width))
    for name, parameter in block.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=START)
        else:
            nn.init.zeros_(parameter)
    return block
