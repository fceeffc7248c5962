"""The Transformer layers of a language model: where they are, and how to run only the upper ones.

Symbols in shape comments: `M` texts, `T` tokens, `D` the language model's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import UserError


def find_layers(llm: nn.Module, n_layers: int) -> nn.ModuleList:
    """The list of the `n_layers` Transformer layers of `llm`, the lowest first.

    It is the list of that length which holds the most parameters. Raises `UserError` where there is none, as
    in models that share one layer's weights.
    """
    lists = [
        module for module in llm.modules() if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists:
        raise UserError(
            f"{type(llm).__name__} keeps no list of its {n_layers} layers, so some of them cannot be trained"
            " alone; take another language model or another method."
        )
    return max(lists, key=lambda module: sum(parameter.numel() for parameter in module.parameters()))


class Entrance:
    """Feeds the states after layer `lower` into the layers above.

    It replaces the `lower` lowest layers of `llm` and the token embeddings, whose weights are freed. Call the
    model with `inputs_embeds` of the right shape; their values do not matter.
    """

    hidden: Tensor | None = None
    """`[M, T, D]`, the states that enter layer `lower + 1`."""

    def __init__(self, llm: nn.Module, layers: nn.ModuleList, lower: int) -> None:
        if not 0 < lower < len(layers):
            raise ValueError(f"lower must be in 1 to {len(layers) - 1}, not {lower}")
        in_tuple = _answers_in_a_tuple(llm, layers[0])
        for place in range(lower):
            layers[place] = _Passed(layers[place], self, in_tuple)
        model: Any = llm
        model.set_input_embeddings(nn.Identity())


class _Passed(nn.Module):
    """Replaces a layer that the harness has run."""

    def __init__(self, layer: nn.Module, entrance: Entrance, in_tuple: bool) -> None:
        super().__init__()
        for name, value in vars(layer).items():  # a model's loop over its layers may read such attributes
            if isinstance(value, str | int | float) and not name.startswith("_"):
                setattr(self, name, value)
        self.entrance, self.in_tuple = entrance, in_tuple

    def forward(self, *_: Any, **__: Any) -> Any:
        """The states after the lower layers, `[M, T, D]`, in a tuple where the layer returned one."""
        return (self.entrance.hidden,) if self.in_tuple else self.entrance.hidden


@torch.no_grad()
def _answers_in_a_tuple(llm: nn.Module, layer: nn.Module) -> bool:
    """Whether `layer` returns a tuple, states first, rather than the states alone: architectures differ."""
    answers: list[Any] = []
    hook = layer.register_forward_hook(lambda module, args, output: answers.append(output))
    try:
        ids = torch.zeros((1, 2), dtype=torch.long, device=next(llm.parameters()).device)
        llm(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        hook.remove()
    return isinstance(answers[0], tuple)
