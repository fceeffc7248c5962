"""vera: scaled random projections shared by all layers (Kopiczko et al. 2024, arXiv 2310.11454).

The update of a linear map `W` `[out, in]` is

    W' = W + diag(b) B diag(d) A

with random matrices `A` `[r, in]` and `B` `[out, r]`, which all adapted maps share and which never train, and
vectors `d` `[r]` and `b` `[out]` of each map, which do. `b` is zero at the start, and each entry of `d` is
`d_initial`. Maps of different shapes use the upper left part of matrices of the largest shape. The rank is
that of the random matrices: a row of them costs one parameter, so that it is far above that of `lora`.

PEFT draws the matrices from a seed of its own, the same in every run; here the run's seed chooses it, so that
the spread over seeds includes theirs. The paper gives the vectors another learning rate than the classifier;
here all that trains has the learning rate of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from methods.adapters import Adapted, TargetsConfig, targets_of
from methods.base import Context


@dataclass(frozen=True)
class VeRAConfig(TargetsConfig):
    """Hyper-parameters of VeRA."""

    rank: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Rank of the shared random matrices; PEFT's default, and the paper's for RoBERTa-large."""
    d_initial: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """Starting value of the vectors d; the paper's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on what enters an adapter; PEFT's default."""


class VeRA(Adapted):
    """VeRA: trained scales of shared random low-rank updates, through PEFT (Kopiczko et al. 2024)."""

    Config: ClassVar[type[Any]] = VeRAConfig
    by_default: ClassVar[bool] = False

    def peft_config(self, context: Context) -> Any:
        """PEFT's own VeRA."""
        from peft import VeraConfig
        from peft.utils import TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING as DEFAULTS

        config: VeRAConfig = self.config
        return VeraConfig(
            r=config.rank,
            d_initial=config.d_initial,
            vera_dropout=config.dropout,
            projection_prng_key=int(torch.randint(2**31, ())),
            target_modules=targets_of(config.targets, self.llm, DEFAULTS, self.top),
        )
