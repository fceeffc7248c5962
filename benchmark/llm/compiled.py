"""A language model's layers compiled: what stands between two matrix products becomes one kernel.

Casts, dropout, residuals, activations and normalisation read and write a layer's states a dozen times;
compiled they do so a few times, and keep less for the backward pass. Compiling takes a minute or more at the
first step.
"""

from __future__ import annotations

from torch import nn


def compile_layers(llm: nn.Module) -> int:
    """Compile each Transformer layer of `llm` at its first call, for texts of any number and length.

    Layers, not the whole: they are alike, so that one is compiled for all. Returns how many there are.
    """
    stacks = [
        module
        for module in llm.modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
    ]
    layers = max(stacks, key=len, default=nn.ModuleList())
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
