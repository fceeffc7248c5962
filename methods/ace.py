"""ace: learned item vectors that start from partly whitened text vectors (Lee et al. 2026, arXiv 2605.29322).

A linear autoencoder over items, `min |E^T - E^T B|^2 + lambda |B|^2` for text vectors `E = U S V^T` `[I, D]`,
has the solution `B = U diag(s^2 / (s^2 + lambda)) U^T`. ACE takes the square root of B as item vectors and
keeps the k directions of largest singular value s:

    e_i = u_i diag(sqrt(s^2 / (s^2 + lambda)))

They are scaled to a common deviation, and learned from there as those of `id`. So lambda is a dial from full
whitening (0, every direction alike) to principal components with the variances of the texts (large).

With v = s^2 / I the variance of a direction, here `e_i = (h_i - m) V diag((v + damping sum(v))^(-1/2))`, the
same up to that scaling, with lambda = damping sum(s^2). For vectors of length 1 that sum is I, so that the
published command for Beauty (lambda 50, 12,101 items) has a damping of about .004.

Departures: text vectors are centred first. The published code does not, and its first direction is then about
the mean, which is the same for all items. Directions of hardly any variance are damped by
`methods.whitening.EPSILON` even where damping is 0. SASRec, loss and training are the harness's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from methods.base import Context
from methods.errors import UserError
from methods.id import IdConfig
from methods.llminit import LLMInit
from methods.whitening import EPSILON


@dataclass(frozen=True)
class ACEConfig(IdConfig):
    """Hyper-parameters of ACE."""

    damping: Annotated[float, Field(ge=0, le=1_000_000)] = 0.004
    """lambda as a share of the variance of all dimensions together: 0 whitens fully, a large value leaves the
    variances of the principal components as they are."""
    directions: Annotated[int, Field(ge=0)] = 0
    """k, how many of the directions of largest variance the vectors start from; other dimensions start at
    random. 0 for all that fit, as published: the smaller of the widths of recommender and language model."""
    std: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Standard deviation of the starting values; the larger, the longer training keeps to them."""


class ACE(LLMInit):
    """ACE: learned item vectors that start from partly whitened text vectors (Lee et al. 2026)."""

    Config: ClassVar[type[Any]] = ACEConfig
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"damping": (0.0, 0.0004, 0.004, 0.04, 0.4)}

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        most = min(context.out_dim, context.llm_width)
        if config.directions > most:
            raise UserError(f"directions={config.directions} is too many here: 1 to {most}, or 0 for {most}.")
        self.directions = self.directions[:, : config.directions or most]  # [D, k]

    def factors(self, variances: Tensor) -> Tensor:
        """Damped whitening: `[D]` -> `[D]`."""
        damped: Tensor = variances + self.config.damping * variances.sum() + EPSILON * variances[0]
        return damped.rsqrt()
