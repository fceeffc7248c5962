"""The machine's matrix rate: what a step is measured against."""

from __future__ import annotations

from itertools import pairwise

import torch

from benchmark.speed.parts import Clock
from benchmark.speed.record import Timed

SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns: large enough that the rate rises no further, small enough for a second in all."""
REPEATS = {"cpu": 4, "cuda": 30}
WARM_UP = {"cpu": 1, "cuda": 10}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> what its matrices are multiplied in."""


def time_products(device: torch.device, precision: str) -> Timed:
    """Time `x w^T`, both square, as often as `REPEATS` says, after those of `WARM_UP`."""
    size, before, repeats = SIZE[device.type], WARM_UP[device.type], REPEATS[device.type]
    x, w = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(x)
    clock, readings = Clock(device), []
    for number in range(before + repeats):
        if number >= before:
            readings.append(clock.read())
        torch.mm(x, w.T, out=out)  # [n, n] x [n, n] -> [n, n]
    readings.append(clock.read())
    spans = [clock.between(a, b) for a, b in pairwise(readings)]
    del x, w, out
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what is held on to would count as the run's
    return Timed(seconds=[wall for wall, _ in spans], cpu_seconds=[cpu for _, cpu in spans])
