"""Dense layers that sentence-transformers puts behind the pooling: of the last layer's vector alone.

They belong to no layer of the language model. They are applied for methods that read one frozen vector of a
text, that of the last layer: with them it is what the authors call the embedding. A method that reads several
layers compares states of one kind, and one that trains the language model has a linear layer of its own in
their place: both read the states before the dense layers.

Symbols in shape comments: `I` items, `D` width of the language model, `d` width of the last dense layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.llm.catalogue import LLM
from benchmark.llm.intended import Dense
from benchmark.llm.model_folder import WEIGHTS
from benchmark.llm.states import States
from methods.errors import UserError

CHUNK = 65_536
"""Vectors that go through the layers at a time."""


def applies(llm: LLM, layers: Sequence[int], reads: Sequence[str]) -> bool:
    """Whether who reads `layers` of `llm`, and the kinds `reads`, has what its dense layers give."""
    has = llm.intended is not None and bool(llm.intended.dense)
    return has and "tokens" not in reads and tuple(layers) == (llm.n_layers,)


def read_dense(llm: LLM) -> nn.Sequential:
    """The dense layers in float32. Raises `UserError` where their weights do not fit."""
    assert llm.intended is not None
    parts: list[nn.Module] = []
    width = llm.width
    for layer in llm.intended.dense:
        linear = _linear(Path(llm.location) / layer.path / WEIGHTS, width, layer)
        parts += [linear, getattr(nn, layer.activation)()]
        width = layer.width
    return nn.Sequential(*parts).requires_grad_(False).eval()


def _linear(path: Path, inputs: int, layer: Dense) -> nn.Linear:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = {name.rpartition(".")[2]: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error})") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = {"weight": (layer.width, inputs), "bias": (layer.width,)}
    if shapes != {name: expected[name] for name in expected if name in shapes} or "weight" not in shapes:
        raise UserError(f"{path} holds {shapes}; expected are {expected}, or the weight alone.")
    linear = nn.Linear(inputs, layer.width, bias="bias" in weights)
    linear.load_state_dict(weights)
    return linear


@torch.no_grad()
def behind_dense(states: States, llm: LLM) -> States:
    """The same of the vectors behind the dense layers: `[I, 1, D]` -> `[I, 1, d]` fp32."""
    dense = read_dense(llm)
    chunks = [dense(chunk.float() + states.mean) for chunk in torch.split(states.values, CHUNK)]  # [c, 1, d]
    values = torch.cat(chunks)  # [I, 1, d]
    return replace(states, values=values, mean=torch.zeros_like(values[0]), stored_mean=states.mean)


def vectors_behind(states: Tensor, llm: LLM) -> Tensor:
    """As `behind_dense`, of some texts: `[m, 1, D]` -> `[m, 1, d]`."""
    with torch.no_grad():
        return read_dense(llm)(states)  # type: ignore[no-any-return]
