"""dora: weight-decomposed low-rank updates of a frozen language model (Liu et al. 2024, arXiv 2402.09353).

The weight `W` `[out, in]` of a linear map is taken apart into magnitude and direction, and both train:

    W' = m (W + s B A) / |W + s B A|        s = alpha / rank

with `m` `[out]` and the norm one number for each row of the matrix, `B` `[out, r]` zero at the start and
`m = |W|`, so that the start is the language model as it was. As the paper proposes (its section 4.3), no
gradient flows through the norm. The defaults are those of `lora`, which it is to be compared with; the paper
itself trains larger models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from methods.base import Context
from methods.lora import LoRA


class DoRA(LoRA):
    """DoRA: low-rank updates of directions and trained magnitudes, through PEFT (Liu et al. 2024)."""

    by_default: ClassVar[bool] = False

    def peft_config(self, context: Context) -> Any:
        """PEFT's own DoRA, a form of its LoRA."""
        return replace(super().peft_config(context), use_dora=True)
