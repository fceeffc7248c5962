"""full: fine-tuning of the language model's top layers, the rest frozen (Yuan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from methods.base import Context
from methods.errors import UserError
from methods.layers import find_layers
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

    def __init__(self, config: FullConfig, context: Context) -> None:
        super().__init__(config, context)
        layers = find_layers(self.llm, context.llm_layers)
        self.llm.requires_grad_(False)
        top = layers[-config.layers :].requires_grad_(True)
        if config.llm_dropout:
            heard = set(top.modules())
            self.silence(module for module in self.llm.modules() if module not in heard)

    @classmethod
    def frozen_layers(cls, config: FullConfig, n_layers: int) -> int:
        """All but the top `layers`."""
        if config.layers > n_layers:
            raise UserError(
                f"layers={config.layers} is too much for this language model: it has {n_layers} layers;"
                f" choose 1 to {n_layers}."
            )
        return n_layers - config.layers
