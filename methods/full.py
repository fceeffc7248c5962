"""full: fine-tuning of the language model's top layers, the rest frozen (Yuan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from methods.base import Context
from methods.tuned import Tuned, TunedConfig


@dataclass(frozen=True)
class FullConfig(TunedConfig):
    """Hyper-parameters of full fine-tuning."""

    layers: Annotated[int, Field(ge=1)] = 2
    """n_t, how many of the top layers train. The embeddings, the layers below (both without dropout) and a
    norm behind the top layer, which decoders have, stay as they are."""


class Full(Tuned):
    """Full: the language model's top layers, unfrozen (Yuan et al. 2023)."""

    Config: ClassVar[type[Any]] = FullConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"layers": (2, 4, 6)}
    depth_setting: ClassVar[str] = "layers"

    def __init__(self, config: FullConfig, context: Context) -> None:
        super().__init__(config, context)
        self.llm.requires_grad_(False)
        for layer in self.top:
            layer.requires_grad_(True)
