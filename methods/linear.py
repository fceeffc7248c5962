"""linear: one linear map on the pooled top state (Sheng et al. 2025, arXiv 2407.05441).

The finding behind AlphaRec: item embeddings that are a linear map of a language model's representation of
the title, `e = W z` with `W` `[d, D]` and no bias, compete with learned vectors. The paper maps a user's mean
state by the same `W` and scores by the cosine. Here the user is SASRec's state and the loss is the harness's;
AlphaRec's graph convolution, which needs users, is left out. `init` and dropout are those of the other
readers of states; the paper has neither (`init=paper`, `dropout=0`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.kernels.dropout import Dropout
from methods.moe import StatesConfig
from methods.whitening import Whitening


class Linear(Method):
    """linear: one linear map of the top state, without bias (AlphaRec's finding, Sheng et al. 2025)."""

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = StatesConfig

    def __init__(self, config: StatesConfig, context: Context) -> None:
        super().__init__(config, context)
        self.whiten = Whitening(context, 0, config.init)
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(context.llm_width, context.out_dim, bias=False)

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, 1, D]` -> `[M, d]`."""
        centred = self.dropout(self.whiten(states_of(items)[:, 0]))  # [M, 1, D] -> [M, D]
        origin = self.whiten.origin  # [D]
        with torch.autocast(centred.device.type, enabled=False):  # the mean is large: 16 bits would round it
            constant = self.linear(origin)  # [D] -> [d]
        return self.linear(centred) + constant  # type: ignore[no-any-return]  # [M, D] -> [M, d]
