"""bitfit: the bias terms of a frozen language model train (Ben Zaken et al. 2022, arXiv 2106.10199).

Each linear map `W x + b` and each norm `g * x + b` keeps its `W` and `g`, and `b` trains. Nothing is added.
As in the authors' code these are all parameters called bias, that of the norm behind the embeddings included;
with `top_layers` those of the top layers. A bias of keys has no effect where positions are added to the
embeddings, since it adds the same to all scores of a query; it moves by what rounding leaves of its gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar

from methods.base import Context
from methods.errors import UserError
from methods.tuned import TopConfig, Tuned


class BitFit(Tuned):
    """BitFit: the bias terms of the language model train (Ben Zaken et al. 2022)."""

    Config: ClassVar[type[Any]] = TopConfig
    by_default: ClassVar[bool] = False

    def __init__(self, config: TopConfig, context: Context) -> None:
        super().__init__(config, context)
        self.llm.requires_grad_(False)
        biases = [
            parameter
            for part in self.top or (self.llm,)
            for name, parameter in part.named_parameters()
            if name.rpartition(".")[2] == "bias"
        ]
        if not biases:
            raise UserError(
                f"{type(self.llm).__name__} has no bias terms that could train; take a language model with"
                " some, such as BERT, RoBERTa or DistilBERT, or another method, such as ia3 or lora."
            )
        for parameter in biases:
            parameter.requires_grad_(True)
