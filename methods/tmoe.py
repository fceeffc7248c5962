"""TMoE: one mixture-of-experts adapter on the top layer of a frozen language model (UniSRec's adaptor)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from methods.base import Context, Items, Method, Reads, states_of
from methods.moe import MoEAdapter, MoEConfig


class TMoE(Method):
    """TMoE: one mixture-of-experts adapter (Eqs. 1-3) on the top layer (UniSRec, Hou et al. 2022)."""

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = MoEConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"batch_size": (32, 64, 128, 256)}

    def __init__(self, config: MoEConfig, context: Context) -> None:
        super().__init__(config, context)
        self.adapter = MoEAdapter(config, context, 0)

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, 1, D]` -> `[M, d]`."""
        return self.adapter(states_of(items)[:, 0])  # type: ignore[no-any-return]  # [M, D] -> [M, d]
