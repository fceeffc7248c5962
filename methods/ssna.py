"""SSNA: adapters on the top layers of a frozen language model, integrated by a GRU (arXiv 2310.01612).

`ssna-mean` and `ssna-weighted` are the variants of the paper's Table 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.errors import UserError
from methods.kernels.gru import last_state
from methods.moe import MoEAdapter, MoEConfig


@dataclass(frozen=True)
class SSNAConfig(MoEConfig):
    """Hyper-parameters of SSNA and its variants."""

    top_layers: Annotated[int, Field(ge=1)] = 3
    """a, how many of the top layers have an adapter."""


class TopLayers(Method):
    """Adapters on the top `a` layers; a subclass integrates their outputs into one embedding."""

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = SSNAConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"batch_size": (32, 64, 128, 256), "top_layers": (2, 3)}

    def __init__(self, config: SSNAConfig, context: Context) -> None:
        super().__init__(config, context)
        self.adapters = nn.ModuleList(
            MoEAdapter(config, context, layer) for layer in range(config.top_layers)
        )

    @classmethod
    def layers(cls, config: SSNAConfig, n_layers: int) -> tuple[int, ...]:
        """The top layer first: n, n-1, ..., n-a+1."""
        if config.top_layers > n_layers:
            raise UserError(
                f"top_layers={config.top_layers} is more than the language model has: 1 to {n_layers}."
            )
        return tuple(range(n_layers, n_layers - config.top_layers, -1))

    def adapted(self, items: Items) -> Iterator[Tensor]:
        """Outputs z of the adapters, from the top layer down: `a` tensors of `[M, d]`."""
        states = states_of(items)
        return (adapter(states[:, m]) for m, adapter in enumerate(self.adapters))  # [M, A, D] -> [M, D] each

    def integrate(self, outputs: list[Tensor]) -> Tensor:
        """One embedding from the adapters' outputs, the top layer's first: `a` of `[M, d]` -> `[M, d]`."""
        raise NotImplementedError

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, a, D]` -> `[M, d]`."""
        return self.integrate(list(self.adapted(items)))


class SSNA(TopLayers):
    """SSNA: a GRU over adapters on the top layers, the top one first (2023, arXiv 2310.01612, Eq. 4)."""

    def __init__(self, config: SSNAConfig, context: Context) -> None:
        super().__init__(config, context)
        self.gru = nn.GRU(context.out_dim, context.out_dim)
        if config.top_layers == 1:  # weights that multiply only the zero state would not train
            weight = self.gru.get_parameter("weight_hh_l0").detach()
            del self.gru.weight_hh_l0
            self.gru.register_buffer("weight_hh_l0", weight, persistent=False)

    def integrate(self, outputs: list[Tensor]) -> Tensor:
        """The last state of the GRU."""
        return last_state(self.gru, outputs)  # a of [M, d] -> [M, d]


class SSNAMean(TopLayers):
    """SSNA's adapters, averaged: MEAN of its Table 8 (2023)."""

    def integrate(self, outputs: list[Tensor]) -> Tensor:
        """The mean."""
        return torch.stack(outputs).mean(0)  # [a, M, d] -> [M, d]


class SSNAWeighted(TopLayers):
    """SSNA's adapters under learned weights, which start equal: WEIGHTED of its Table 8 (2023)."""

    def __init__(self, config: SSNAConfig, context: Context) -> None:
        super().__init__(config, context)
        self.weights = nn.Parameter(torch.full((config.top_layers,), 1 / config.top_layers))

    def integrate(self, outputs: list[Tensor]) -> Tensor:
        """The weighted sum."""
        z = torch.stack(outputs)  # [a, M, d]
        return (self.weights[:, None, None] * z).sum(0)  # [a, 1, 1] x [a, M, d] -> [M, d]
