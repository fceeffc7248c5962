"""id: the control without any language model, SASRec on learned item embeddings (Kang and McAuley 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads
from methods.fields import later


@dataclass(frozen=True)
class IdConfig:
    """Hyper-parameters of the control."""

    lr_factor: Annotated[float, Field(gt=0, le=1000)] = later(1.0)
    """Factor on the run's learning rate for the item vectors, each of which few predictions touch."""


class Id(Method):
    """The control: one learned vector an item, no language model at all (SASRec, Kang and McAuley 2018)."""

    reads: ClassVar[Reads] = "ids"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = IdConfig

    def __init__(self, config: IdConfig, context: Context) -> None:
        super().__init__(config, context)
        self.embedding = nn.Embedding(context.n_items, context.out_dim)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M]` -> `[M, d]`."""
        assert items.ids is not None
        return self.embedding(items.ids)  # type: ignore[no-any-return]  # [M] -> [M, d]

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """The item vectors under their own learning rate."""
        return [{"params": list(self.parameters()), "lr": lr * self.config.lr_factor}]
