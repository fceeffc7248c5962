"""llminit: learned item vectors that start from the principal components of text vectors.

Harte et al. 2023 (RecSys 2023, arXiv 2309.09261), extended in Boz et al. 2024 (arXiv 2402.01339). With
`h_i` the frozen language model's vector of item `i`, `m` the catalogue's mean and `V` the d directions of
largest variance, the vector of item `i` starts as

    e_i = s V^T (h_i - m)

and is then learned as that of `id`; texts have no other effect. `spectrum=equal` divides each component by
its standard deviation first, as the baseline of that name in the code of AlphaFuse does.

Departures: the published start has the scale that the vectors of OpenAI's models happen to have (length 1,
so about .03 a component); here s gives all starting values together the standard deviation `std`, .02 as in
`id`, since cosine scores ignore the scale and Adam's steps do not: the larger the start, the longer the
texts hold. Where the recommender is wider than the language model (d > D), the other dimensions start at
random, as in `id`. The published recommender, loss and search are others; these are the harness's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context
from methods.id import Id, IdConfig
from methods.principal import principal_components
from methods.whitening import EPSILON


@dataclass(frozen=True)
class LLMInitConfig(IdConfig):
    """Hyper-parameters of llminit."""

    spectrum: Literal["kept", "equal"] = "kept"
    """Variances of the components at the start: `kept` those of the text vectors, as published; `equal`
    the same for all."""
    std: Annotated[float, Field(gt=0, le=100)] = 0.02
    """Standard deviation of all starting values together; the larger, the longer training keeps to them."""


class LLMInit(Id):
    """Learned item vectors that start from principal components of text vectors (Harte et al. 2023)."""

    Config: ClassVar[type[Any]] = LLMInitConfig
    by_default: ClassVar[bool] = False

    def __init__(self, config: LLMInitConfig, context: Context) -> None:
        super().__init__(config, context)
        assert context.state_mean is not None and context.state_covariance is not None
        variances, directions = principal_components(context.state_covariance[0])  # [D], [D, D]
        # plain tensors: nothing reads them after `observe`
        self.mean = context.state_mean[0]  # [D]
        self.directions = (directions * self.factors(variances))[
            :, : context.out_dim
        ].float()  # [D, min(d, D)]
        nn.init.normal_(self.embedding.weight, std=config.std)

    @classmethod
    def reads_covariance(cls, config: LLMInitConfig) -> bool:
        """Always: its eigenvectors are the principal components."""
        return True

    def factors(self, variances: Tensor) -> Tensor:
        """What multiplies each component of variance `variances`, the largest first: `[D]` -> `[D]`."""
        if self.config.spectrum == "kept":
            return torch.ones_like(variances)
        return (variances + EPSILON * variances[0]).rsqrt()

    @torch.no_grad()
    def observe(self, states: Iterable[Tensor]) -> None:
        """Start the item vectors: chunks of `[c, 1, D]`."""
        # [c, 1, D] -> [c, D] -> [c, k] each -> [I, k]
        start = torch.cat([(chunk[:, 0] - self.mean) @ self.directions for chunk in states])
        scale = self.config.std / start.square().mean().sqrt()
        self.embedding.weight[:, : start.shape[1]] = scale * start
