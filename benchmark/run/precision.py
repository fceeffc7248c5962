"""The precision in which a run multiplies matrices."""

from __future__ import annotations

import torch

from benchmark.config import Settings
from benchmark.measure import native_bf16
from methods.errors import UserError

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> what its matrices are multiplied in; `no` is fp32."""


def pick_precision(settings: Settings, device: torch.device) -> str:
    """The precision that `auto` means on `device`; raises `UserError` for one that it cannot do."""
    if settings.precision == "auto":
        return "bf16" if native_bf16(device) else "no"
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; on this CPU use auto, bf16 or no.")
    return settings.precision
