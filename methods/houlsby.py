"""houlsby: bottleneck adapters inside a frozen language model (Houlsby et al. 2019, arXiv 1902.00751).

Each layer gets two adapters: behind attention and behind the feed-forward part, both after the map back to
width `D` and its dropout, and before the sum with what entered the part. An adapter of size `m` is

    a(x) = x + U gelu(V x + v) + u        V: [m, D], v: [m], U: [D, m], u: [D]

As in the authors' code, its matrices start from a normal distribution of deviation .001 that is cut at two
deviations, and `u` and `v` at zero, so that it is near the identity. The norms of these layers train too, as
in the paper; that behind the embeddings does not. PEFT has no such adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context
from methods.errors import UserError
from methods.layers import find_layers
from methods.tuned import TopConfig, Tuned

DEVIATION = 1e-3
PLACES = (
    ("attention.output.dropout", "output.dropout"),  # BERT, RoBERTa, ELECTRA
    ("attention.dropout", "output.dropout"),  # MPNet
    ("attention.out_lin", "ffn"),  # DistilBERT
    ("attn.out_drop", "mlp.Wo"),  # ModernBERT
    ("self_attn.o_proj", "mlp.down_proj"),  # Llama, Mistral, Qwen
    ("attn.resid_dropout", "mlp.dropout"),  # GPT-2
)
"""The last modules of attention and of the feed-forward part within a layer, by its structure."""


@dataclass(frozen=True)
class HoulsbyConfig(TopConfig):
    """Hyper-parameters of bottleneck adapters."""

    size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """m, width of the bottleneck; the authors' default."""
    norms: bool = True
    """Whether the norms of the layers train too, as in the paper."""


class Bottleneck(nn.Module):
    """One adapter."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[M, T, D]` -> `[M, T, D]`."""
        inner = F.gelu(self.down(x), approximate="tanh")  # [M, T, D] -> [M, T, m]
        return x + self.up(inner)  # type: ignore[no-any-return]  # [M, T, m] -> [M, T, D]


class Houlsby(Tuned):
    """Houlsby adapters: bottlenecks behind attention and feed-forward parts (Houlsby et al. 2019)."""

    Config: ClassVar[type[Any]] = HoulsbyConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"size": (8, 64, 256)}
    by_default: ClassVar[bool] = False

    def __init__(self, config: HoulsbyConfig, context: Context) -> None:
        super().__init__(config, context)
        self.llm.requires_grad_(False)
        for layer in self.top or tuple(find_layers(self.llm, context.llm_layers)):
            for module in layer.modules():
                if config.norms and type(module).__name__.endswith("Norm"):
                    module.requires_grad_(True)
            for path in places_of(layer):
                parent, _, name = path.rpartition(".")
                adapter = Bottleneck(context.llm_width, config.size)
                setattr(layer.get_submodule(parent), name, nn.Sequential(layer.get_submodule(path), adapter))


def places_of(layer: nn.Module) -> tuple[str, str]:
    """Paths of the modules in `layer` that an adapter follows. Raises `UserError` for other structures."""
    known = {name for name, _ in layer.named_modules()}
    for places in PLACES:
        if known.issuperset(places):
            return places
    raise UserError(
        f"houlsby has no place for adapters in a layer of class {type(layer).__name__}: it knows those of"
        " BERT, RoBERTa, ELECTRA, MPNet, DistilBERT, ModernBERT, GPT-2, Llama, Mistral and Qwen. Take one of"
        " these or another method, such as lora."
    )
