"""The Transformer layers of a language model: where they are, and how to run only the upper ones.

Symbols in shape comments: `M` texts, `T` tokens, `D` the language model's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import UserError

STATES = "hidden_states"
"""What transformers' layers call the states that enter them, where they get them by name."""


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
        answers = _answers_of(llm, layers[0])
        for place in range(lower):
            layers[place] = _Passed(layers[place], answers)
        # what a model does between layers, such as DeBERTa's convolution behind the first, is not done again
        layers[lower].register_forward_pre_hook(self._feed, with_kwargs=True)
        model: Any = llm
        model.set_input_embeddings(nn.Identity())

    def _feed(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments of layer `lower + 1`, with the states that enter it."""
        return ((self.hidden, *args[1:]), kwargs) if args else (args, kwargs | {STATES: self.hidden})


class _Passed(nn.Module):
    """Replaces a layer that the harness has run: it hands on what it is given."""

    def __init__(self, layer: nn.Module, answers: int) -> None:
        super().__init__()
        for name, value in vars(layer).items():  # a model's loop over its layers may read such attributes
            if isinstance(value, str | int | float) and not name.startswith("_"):
                setattr(self, name, value)
        self.answers = answers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The states `[M, T, D]`, in a tuple where the layer returned one."""
        states = args[0] if args else kwargs[STATES]
        return (states, *(None,) * (self.answers - 1)) if self.answers else states


@torch.no_grad()
def _answers_of(llm: nn.Module, layer: nn.Module) -> int:
    """The length of the tuple, states first, that `layer` returns; 0 for the states alone."""
    answers: list[Any] = []
    hook = layer.register_forward_hook(lambda module, args, output: answers.append(output))
    try:
        ids = torch.zeros((1, 2), dtype=torch.long, device=next(llm.parameters()).device)
        llm(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        hook.remove()
    return len(answers[0]) if isinstance(answers[0], tuple) else 0
