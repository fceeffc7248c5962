"""lora: low-rank updates of a frozen language model's weights (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from methods.adapters import Adapted, AdapterConfig, targets_of
from methods.base import Context


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """Hyper-parameters of LoRA."""

    rank: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Rank of an update; PEFT's default."""


class LoRA(Adapted):
    """LoRA: low-rank updates of weights, through PEFT (Hu et al. 2021)."""

    Config: ClassVar[type[Any]] = LoRAConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"dropout": (0.1, 0.2, 0.3)}

    def peft_config(self, context: Context) -> Any:
        """PEFT's own LoRA."""
        from peft import LoraConfig
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

        config: LoRAConfig = self.config
        return LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets_of(config.targets, self.llm, DEFAULTS, self.top),
        )
