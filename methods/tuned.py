"""The common part of methods that train the language model: pooling, one linear layer, dropout switches.

Symbols in shape comments: `M` items, `T` tokens, `D` the language model's width, `d` the recommender's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads
from methods.errors import UserError
from methods.fields import later
from methods.kernels.attention import quicken_attention
from methods.kernels.dropout import quicken
from methods.layers import Entrance, find_layers
from methods.pooling import pool
from methods.whitening import OLD_NAMES, Init, Whitening


@dataclass(frozen=True)
class TunedConfig:
    """Hyper-parameters of every method that trains the language model."""

    init: Init = field(default="paper", metadata=OLD_NAMES)
    """Starting point: `paper` plain. Before the linear layer, `standardised` subtracts from the pooled states
    the mean that they have over the catalogue before training, and divides by their standard deviation; `zca`
    whitens them fully."""
    llm_dropout: bool = True
    """Whether the language model's own dropout is on in training, as in published code. Parts that never
    train have it off either way where they lie below all that trains."""


@dataclass(frozen=True)
class TopConfig(TunedConfig):
    """Hyper-parameters of methods that train a part of each layer, or of the top ones alone."""

    top_layers: Annotated[int, Field(ge=0)] = later(0)
    """How many of the top layers train something; 0 is all of them. Otherwise the embeddings and the layers
    below stay as they are, without dropout, and the harness may run them once."""


class Tuned(Method):
    """A language model of which something trains, its pooled states, and one linear layer to `d`.

    The linear layer runs in fp32: the common mean of the states is far larger than the differences between
    items, and 16 bits would spend their digits on it. It is initialised first, so that it starts from the
    same weights in every such method under one seed.

    Where the hyper-parameter `depth_setting` is there and not 0, it counts the top layers in which something
    trains. `top` then holds these, and all below them has no dropout.
    """

    reads: ClassVar[Reads] = "tokens"
    Config: ClassVar[type[Any]] = TunedConfig
    schedule: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"batch_size": 32, "accumulation": 8}}
    depth_setting: ClassVar[str] = "top_layers"
    _silent: tuple[nn.Module, ...] = ()

    def __init__(self, config: TunedConfig, context: Context) -> None:
        super().__init__(config, context)
        assert context.llm is not None
        self.pooling = context.pooling
        self.whiten: Whitening | None = None
        if config.init != "paper":
            self.whiten = Whitening(context, 0, config.init)
        self.head = nn.Linear(context.llm_width, context.out_dim)
        self.llm = context.llm
        frozen = self.frozen_layers(config, context.llm_layers)
        limited = self._depth(config) > 0
        self.top: tuple[nn.Module, ...] = ()
        self.entrance: Entrance | None = None
        if limited or context.lower:
            layers = find_layers(self.llm, context.llm_layers)
            self.top = tuple(layers)[frozen:] if limited else ()
        if context.lower:
            self.entrance = Entrance(self.llm, layers, context.lower)
        quicken(self.llm)
        quicken_attention(self.llm)
        if limited or not config.llm_dropout:
            heard = {module for layer in self.top for module in layer.modules() if config.llm_dropout}
            self.silence(module for module in self.llm.modules() if module not in heard)

    @classmethod
    def layers(cls, config: TunedConfig, n_layers: int) -> tuple[int, ...]:
        """The top layer's statistics where the linear layer reads whitened states, else none."""
        return () if config.init == "paper" else (n_layers,)

    @classmethod
    def frozen_layers(cls, config: TunedConfig, n_layers: int) -> int:
        """All but the top ones in which something trains; none where that is everywhere."""
        depth = cls._depth(config)
        if depth > n_layers:
            raise UserError(
                f"{cls.depth_setting}={depth} is too much for this language model: it has {n_layers} layers;"
                f" choose 1 to {n_layers}."
            )
        return n_layers - depth if depth else 0

    @classmethod
    def _depth(cls, config: TunedConfig) -> int:
        return int(getattr(config, cls.depth_setting, 0))

    def silence(self, modules: Iterable[nn.Module]) -> None:
        """Keep `modules` in eval mode, without modules that are added to them later."""
        self._silent = tuple(modules)

    def train(self, mode: bool = True) -> Tuned:
        """Set training or eval mode; silenced modules stay in eval mode."""
        super().train(mode)
        for module in self._silent:
            module.training = False
        return self

    def read(self, items: Items) -> Tensor:
        """States of the top layer, from tokens or from states after the frozen layers: -> `[M, T, D]`."""
        if self.entrance is None:
            output = self.llm(input_ids=items.input_ids, attention_mask=items.attention_mask)
        else:
            self.entrance.hidden = items.hidden
            output = self.llm(inputs_embeds=items.hidden, attention_mask=items.attention_mask)
            self.entrance.hidden = None
        return output.last_hidden_state  # type: ignore[no-any-return]  # [M, T, D]

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, T]` tokens, or `[M, T, D]` states, -> `[M, d]` fp32."""
        assert items.attention_mask is not None
        h = pool(self.read(items), items.attention_mask, self.pooling)  # [M, T, D] -> [M, D]
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(self.head.weight.dtype)
            x = h if self.whiten is None else self.whiten(h)  # without `paper` the origin is zero
            return self.head(x)  # type: ignore[no-any-return]  # [M, D] -> [M, d]
