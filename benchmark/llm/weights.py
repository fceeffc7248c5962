"""The weights of a language model in memory: whether there is room, 16-bit matrices as they are stored, and
8 or 4 bits by bitsandbytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.llm.catalogue import LLM, model_config
from benchmark.llm.model_folder import weight_files
from benchmark.process.memory import available_memory
from methods.errors import UserError

SHORT = {"BF16": torch.bfloat16, "F16": torch.float16}
"""How safetensors calls the 16-bit types."""
BYTES = {"8bit": 1.0, "4bit": 0.5}
"""Bytes of a quantised weight."""
GIB = 2**30


@dataclass(frozen=True)
class Stored:
    """What the headers of a model's weight files say."""

    parameters: int
    dtype: torch.dtype
    """A 16-bit type where all weights have it, else float32."""


def read_stored(llm: LLM) -> Stored:
    """Read the headers, of all shards."""
    from safetensors import safe_open

    parameters, types = 0, set()
    for path in weight_files(Path(llm.location)):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                parameters += torch.Size(part.get_shape()).numel()
                types.add(part.get_dtype())
    dtype = SHORT.get(next(iter(types)), torch.float32) if len(types) == 1 else torch.float32
    return Stored(parameters, dtype)


def check_room(llm: LLM, stored: Stored, dtype: torch.dtype, device: torch.device) -> None:
    """Raise `UserError` where the weights in `dtype`, or quantised, are larger than the memory that is free:
    of the host, through which all but quantised ones go, and of `device`."""
    need = stored.parameters * BYTES.get(llm.quantize, dtype.itemsize)
    free = {} if llm.quantize != "none" else {"the host": available_memory()}
    if device.type == "cuda":
        free["the GPU"] = float(torch.cuda.mem_get_info(device)[0])
    for where, left in free.items():
        if need > left:
            form = llm.quantize if llm.quantize != "none" else str(dtype).removeprefix("torch.")
            raise UserError(
                f"language model '{llm.name}' needs at least {need / GIB:,.3g} GiB for its"
                f" {stored.parameters / 1e6:,.0f} million weights ({form}), and {left / GIB:,.3g} GiB of the"
                f" memory of {where} are free: take a smaller one, a larger machine, or, on a GPU,"
                " quantize=4bit."
            )


def short_type(llm: LLM, stored: Stored) -> torch.dtype:
    """The 16-bit type in which the matrices may stay for computing in float32, else float32.

    A model that makes constants in the precision in which it is loaded, such as the scale of Gemma's
    embeddings, would round them: it is loaded in float32.
    """
    from transformers import AutoModel

    if stored.dtype == torch.float32:
        return torch.float32
    with torch.device("meta"):
        model = AutoModel.from_config(model_config(llm), dtype=stored.dtype)
    rounded = any(
        buffer.dtype == stored.dtype and name in module._non_persistent_buffers_set
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    )
    return torch.float32 if rounded else stored.dtype


class ShortLinear(nn.Linear):
    """A linear map whose 16-bit weights take the precision of its input when they are multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., a]` -> `[..., b]`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)  # [..., a] -> [..., b]


def compute_in_float32(model: nn.Module) -> None:
    """Let a frozen `model` with 16-bit weights compute what it would with the same numbers in float32.

    The matrices of its linear maps, most of the weights, stay in 16 bits; everything else becomes float32.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if type(module) is nn.Linear and all(owners[id(parameter)] == 1 for parameter in own):
            module.__class__ = ShortLinear
            continue
        for parameter in own:
            parameter.data = parameter.data.float()
    for buffer in model.buffers():
        if buffer.dtype in SHORT.values():
            buffer.data = buffer.data.float()


def quantisation(llm: LLM, device: torch.device, compute: torch.dtype) -> dict[str, Any]:
    """Options of `from_pretrained` for the model's `quantize`; matrices are multiplied in `compute` (8 bits:
    in fp16). Raises `UserError` without a GPU or without bitsandbytes."""
    if llm.quantize == "none":
        return {}
    if llm.random is not None:
        raise UserError(f"quantize={llm.quantize} is for weights from files, not for those of '{llm.name}'.")
    if device.type != "cuda":
        raise UserError(f"quantize={llm.quantize} needs a GPU, and there is none here; take quantize=none.")
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"quantize={llm.quantize} needs bitsandbytes: pip install 'adaptrec[quantized]', or take"
            " quantize=none."
        )
    from transformers import BitsAndBytesConfig

    if llm.quantize == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:  # as in QLoRA (Dettmers et al. 2023)
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    return {"quantization_config": config, "device_map": {"": device}}
