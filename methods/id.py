"""id: the control without any language model, SASRec on learned item embeddings (Kang and McAuley 2018)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from methods.base import Context, Items, Method, NoConfig, Reads


class Id(Method):
    """The control: one learned vector an item, no language model at all (SASRec, Kang and McAuley 2018)."""

    reads: ClassVar[Reads] = "ids"

    def __init__(self, config: NoConfig, context: Context) -> None:
        super().__init__(config, context)
        self.embedding = nn.Embedding(context.n_items, context.out_dim)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M]` -> `[M, d]`."""
        assert items.ids is not None
        return self.embedding(items.ids)  # type: ignore[no-any-return]  # [M] -> [M, d]
