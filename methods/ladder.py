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

from pydantic import Field
from torch import Tensor, nn

from methods.base import Context
from methods.errors import UserError
from methods.side_network import SideConfig, SideNetwork

EXPANSION = 4
"""Width of a feed-forward block's hidden layer, as a multiple of its input."""


@dataclass(frozen=True)
class LadderConfig(SideConfig):
    """Hyper-parameters of ladder."""

    reduction: Annotated[int, Field(ge=1)] = 8
    """r, by which the side network is narrower than the language model: its width is D / r, rounded up."""


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
