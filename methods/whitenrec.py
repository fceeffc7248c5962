"""whitenrec, whitenrec-plus: a perceptron on fully whitened states (Zhang et al. 2024, arXiv 2402.10602).

States `h` of mean `m` and covariance `C` are whitened once (ZCA), and a perceptron of two layers is trained:

    z = (h - m) C^(-1/2)        e = W2 relu(W1 z + b1) + b2

WhitenRec+ keeps more of the texts' own geometry beside it. It cuts the dimensions into G groups and whitens
each by itself to `z'`, so that correlations between groups stay, and adds both under one perceptron `f`:
`e = f(z) + f(z')`.

Departures: eigenvalues get the share `methods.whitening.EPSILON` of the largest of their group, without which
directions of hardly any variance, which hold rounding errors, would be blown up. The authors' code for the
successor of the method (DWSRec) has RecBole's perceptron, with dropout before each layer, as here, and a relu
behind the last one too; here an embedding has both signs. SASRec, loss and training are the harness's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.errors import UserError
from methods.kernels.dropout import Dropout
from methods.whitening import zca_matrix


@dataclass(frozen=True)
class WhitenRecConfig:
    """Hyper-parameters of WhitenRec."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout before each of the two layers (the value of the authors' code)."""


@dataclass(frozen=True)
class WhitenRecPlusConfig(WhitenRecConfig):
    """Hyper-parameters of WhitenRec+."""

    groups: Annotated[int, Field(ge=2)] = 4
    """G, groups of dimensions that the second view whitens separately; G divides the language model's width.
    The more groups, the weaker the whitening: with one dimension a group it only scales."""


def group_whitening(covariance: Tensor, groups: int) -> Tensor:
    """The matrix that whitens each of `groups` equal groups of dimensions: `[D, D]` -> `[D, D]` float32.

    A group that never varies stays at zero. Raises `UserError` unless `groups` divides D.
    """
    width = len(covariance)
    if width % groups:
        allowed = ", ".join(str(count) for count in range(2, width + 1) if width % count == 0)
        what = f"groups={groups} does not divide the language model's width {width}"
        raise UserError(f"{what}; allowed: {allowed}.")
    size = width // groups
    own = [covariance[i : i + size, i : i + size] for i in range(0, width, size)]  # [D / G, D / G] each
    parts = (zca_matrix(part) if part.any() else part for part in own)
    return torch.block_diag(*parts)  # type: ignore[no-any-return, no-untyped-call]  # [D, D]


class WhitenRec(Method):
    """WhitenRec: a two-layer perceptron on fully whitened states of the top layer (Zhang et al. 2024)."""

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = WhitenRecConfig

    def __init__(self, config: WhitenRecConfig, context: Context) -> None:
        super().__init__(config, context)
        assert context.state_mean is not None and context.state_covariance is not None
        covariance, width, out = context.state_covariance[0], context.llm_width, context.out_dim  # [D, D]
        views = [group_whitening(covariance, groups) for groups in self.views(config)]  # V of [D, D]
        # plain tensors, which stay on the CPU: nothing reads them after `precompute`
        self.mean, self.matrices = context.state_mean[0], torch.stack(views)  # [D], [V, D, D]
        first = [Dropout(config.dropout), nn.Linear(width, out)]
        self.mlp = nn.Sequential(*first, nn.ReLU(), Dropout(config.dropout), nn.Linear(out, out))

    @classmethod
    def views(cls, config: Any) -> tuple[int, ...]:
        """The number of groups of each whitening whose embeddings are added."""
        return (1,)

    @classmethod
    def reads_covariance(cls, config: Any) -> bool:
        """Always: whitening is the method."""
        return True

    def precompute(self, states: Tensor) -> Tensor:
        """Whiten states: `[c, 1, D]` -> `[c, V, D]`."""
        return ((states - self.mean).transpose(0, 1) @ self.matrices).transpose(0, 1)  # [c, V, D]

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, V, D]` -> `[M, d]`."""
        return self.mlp(states_of(items)).sum(1)  # type: ignore[no-any-return]  # [M, V, d] -> [M, d]


class WhitenRecPlus(WhitenRec):
    """WhitenRec+: the same perceptron on full and on group-wise whitening, added (Zhang et al. 2024)."""

    Config: ClassVar[type[Any]] = WhitenRecPlusConfig
    by_default: ClassVar[bool] = False
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"groups": (4, 8, 16, 32, 64, 128)}

    @classmethod
    def views(cls, config: WhitenRecPlusConfig) -> tuple[int, ...]:
        """Full whitening, and one with `groups` groups."""
        return (1, config.groups)
