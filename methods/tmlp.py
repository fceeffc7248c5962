"""TMLP: a multilayer perceptron on the top layer of a frozen language model (Yuan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.kernels.dropout import Dropout
from methods.moe import StateDropout, StatesConfig
from methods.whitening import Whitening


@dataclass(frozen=True)
class TMLPConfig(StatesConfig):
    """Hyper-parameters of TMLP."""

    dropout_on: Literal["centred", "raw"] = "centred"
    """What dropout sets to zero: `centred` the state less the catalogue's mean, so that a dropped dimension
    has the mean; `raw` the state itself, as published code does. Both are the same unless init=paper."""
    mlp_layers: Annotated[int, Field(ge=1, le=16)] = 2
    """n_l, layers of the perceptron: the first maps D to d, the others d to d, GELU between them."""


class TMLP(Method):
    """TMLP: a multilayer perceptron on the top layer (Yuan et al. 2023)."""

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = TMLPConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"batch_size": (32, 64, 128, 256), "mlp_layers": (1, 2, 3)}

    def __init__(self, config: TMLPConfig, context: Context) -> None:
        super().__init__(config, context)
        self.whiten = Whitening(context, 0, config.init)
        self.dropout = StateDropout(config.dropout, config.dropout_on)
        widths = [context.llm_width] + [context.out_dim] * config.mlp_layers
        modules: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            modules += [nn.Linear(wide, narrow), nn.GELU(), Dropout(config.dropout)]
        self.mlp = nn.Sequential(*modules[:-2])

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, 1, D]` -> `[M, d]`."""
        x = self.dropout(self.whiten(states_of(items)[:, 0]), self.whiten.origin)  # [M, D]
        x = x + self.whiten.origin  # [M, D]
        return self.mlp(x)  # type: ignore[no-any-return]  # [M, D] -> [M, d]
