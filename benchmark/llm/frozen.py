"""Matrices of a language model that never train, held in the precision that they are multiplied in.

Autocast casts a 32-bit matrix each time that it is multiplied; the numbers that come out are the same.
"""

from __future__ import annotations

import torch
from torch import nn


def hold_frozen(llm: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights and biases of the linear maps in `llm` that do not train to `dtype`, for good.

    Call it when all has been frozen that is to be. What trains stays as it is, so does what is looked up
    (embeddings) and what normalises: these are not multiplied in 16 bits under autocast.
    """
    linear = [module for module in llm.modules() if type(module) is nn.Linear]
    own = {id(module) for module in linear}
    shared = {
        id(parameter)
        for module in llm.modules()
        if id(module) not in own
        for parameter in module.parameters(recurse=False)
    }
    for module in linear:
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad and id(parameter) not in shared:
                parameter.data = parameter.data.to(dtype)


def held_in(module: nn.Module) -> str | None:
    """The 16-bit precision in which `module` holds some of its frozen parameters; None where it does not."""
    found = {
        str(parameter.dtype).removeprefix("torch.")
        for parameter in module.parameters()
        if not parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16)
    }
    return ", ".join(sorted(found)) or None
