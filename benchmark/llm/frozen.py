"""Matrices of a language model that never train, held in the precision that training multiplies them in.

Autocast casts a 32-bit matrix each time that it is multiplied; the numbers that come out are the same. For
evaluation, which is in fp32 for all methods, the matrices get their own values back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class FrozenMatrices:
    """Weights and biases of the linear maps in `llm` that do not train, cast to `dtype`.

    Make it when all has been frozen that is to be. What trains stays as it is, so does what is looked up
    (embeddings) and what normalises: these are not multiplied in 16 bits under autocast. The fp32 values stay
    in the host's memory.
    """

    def __init__(self, llm: nn.Module, dtype: torch.dtype) -> None:
        linear = [module for module in llm.modules() if type(module) is nn.Linear]
        own = {id(module) for module in linear}
        shared = {
            id(parameter)
            for module in llm.modules()
            if id(module) not in own
            for parameter in module.parameters(recurse=False)
        }
        self._exact: dict[nn.Parameter, Tensor] = {}
        """Parameter -> its fp32 values."""
        for module in linear:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad and id(parameter) not in shared:
                    self._exact.setdefault(parameter, parameter.data)
                    parameter.data = parameter.data.to(dtype)

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Give the matrices their fp32 values for a while, on the device that they are on."""
        held = {parameter: parameter.data for parameter in self._exact}
        for parameter, exact in self._exact.items():
            parameter.data = exact.to(parameter.device)
        try:
            yield
        finally:
            for parameter, low in held.items():
                parameter.data = low


def held_in(module: nn.Module) -> str | None:
    """The 16-bit precision in which `module` holds some of its frozen parameters; None where it does not."""
    found = {
        str(parameter.dtype).removeprefix("torch.")
        for parameter in module.parameters()
        if not parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16)
    }
    return ", ".join(sorted(found)) or None
