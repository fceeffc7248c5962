"""alphafuse: learned vectors in the null space of frozen text vectors (Hu et al. 2025, arXiv 2504.19218).

With `h_i` the frozen language model's vector of item `i`, `m` the catalogue's mean and `U diag(v) U^T` the
covariance of all items, the largest variances first, the embedding has d dimensions, of which the last d_n
are the null space, where texts say least, and the others the semantic space:

    x_i = diag(v)^(-1/2) U^T (h_i - m), its first d dimensions      frozen
    e_i = (x_i[: d - d_n], x_i[d - d_n :] + w_i)                    w_i learned, d_n dimensions

`fuse=replace` has `w_i` alone in the null space (`cover` in the published code, whose runs add). The
published choice is d_n = d / 2 (64 of 128, for all data), or, in their diffusion model, all dimensions whose
variance is at most a threshold (`threshold`).

Departures: where the recommender is wider than the language model (d > D), the dimensions that the texts
lack belong to the null space. The published threshold is a variance of vectors scaled by 40; here it is
relative to the mean variance of all D dimensions, which no scale changes. 1e-5 of the largest variance is
added to each, since directions without variance hold rounding errors. The published SASRec, its negatives
(64 for each target, cosines, temperature .07) and its search are others; these are the harness's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.errors import UserError
from methods.id import IdConfig
from methods.principal import principal_components
from methods.whitening import EPSILON


@dataclass(frozen=True)
class AlphaFuseConfig(IdConfig):
    """Hyper-parameters of alphafuse."""

    null_dims: Annotated[int, Field(ge=0, le=65536)] = 0
    """d_n, how many of the recommender's d dimensions are learned; 0 is half of d, as published, and at least
    those that the language model lacks."""
    threshold: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Where it is not 0, all dimensions are learned whose variance is at most this many times the mean
    variance of the text vectors, instead of `null_dims`."""
    fuse: Literal["add", "replace"] = "add"
    """What a learned dimension holds: `add` the text's component and the learned value, as in the published
    runs; `replace` the learned value alone."""
    start: Literal["zeros", "normal"] = "zeros"
    """Learned values at the start: `zeros`, so that texts alone rank items; `normal` with variance 1, that of
    the text's components. The published runs have zeros on four datasets and normal on two."""


class AlphaFuse(Method):
    """Learned item vectors in the null space of frozen, standardised text vectors (Hu et al. 2025)."""

    reads: ClassVar[Reads] = ("states", "ids")
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = AlphaFuseConfig
    by_default: ClassVar[bool] = False
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"start": ("zeros", "normal")}
    mean: Tensor
    projection: Tensor

    def __init__(self, config: AlphaFuseConfig, context: Context) -> None:
        super().__init__(config, context)
        assert context.state_mean is not None and context.state_covariance is not None
        variances, directions = principal_components(context.state_covariance[0])  # [D], [D, D]
        self.null_dims = null_dims(config, context.out_dim, variances)
        self.semantic = context.out_dim - self.null_dims
        scaled = directions * (variances + EPSILON * variances[0]).rsqrt()  # [D, D]
        kept = scaled[:, : self.semantic if config.fuse == "replace" else context.out_dim].float()  # [D, k]
        empty = context.out_dim - kept.shape[1]  # k is at most D, which may be less than d
        self.register_buffer("mean", context.state_mean[0].clone(), persistent=False)
        self.register_buffer("projection", F.pad(kept, (0, empty)), persistent=False)  # [D, k] -> [D, d]
        self.own = nn.Embedding(context.n_items, self.null_dims)
        if config.start == "zeros":
            nn.init.zeros_(self.own.weight)

    @classmethod
    def reads_covariance(cls, config: AlphaFuseConfig) -> bool:
        """Always: its eigenvectors span the semantic space and the null space."""
        return True

    def precompute(self, states: Tensor) -> Tensor:
        """The frozen part: `[c, 1, D]` -> `[c, d]`."""
        return (states[:, 0] - self.mean) @ self.projection  # [c, D] x [D, d] -> [c, d]

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, d]` and `[M]` -> `[M, d]`."""
        assert items.ids is not None
        return states_of(items) + F.pad(self.own(items.ids), (self.semantic, 0))  # [M] -> [M, d_n] -> [M, d]

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """The learned values under their own learning rate."""
        return [{"params": list(self.parameters()), "lr": lr * self.config.lr_factor}]

    def extra_record(self) -> dict[str, Any]:
        """How the dimensions are divided."""
        return {"semantic_dims": self.semantic, "null_dims": self.null_dims}


def null_dims(config: AlphaFuseConfig, width: int, variances: Tensor) -> int:
    """How many of `width` dimensions are learned, for variances `[D]`, the largest first.

    Raises `UserError` where that leaves none to learn, none to the texts, or more than the texts have.
    """
    least = max(1, width - len(variances))
    if config.threshold > 0:
        relative = variances[:width] / variances.mean()  # [min(d, D)]
        found = int((relative <= config.threshold).sum()) + max(0, width - len(variances))
        if not 1 <= found < width:
            raise UserError(
                f"threshold={config.threshold:g} leaves {found} of {width} dimensions to learn, and at least "
                "one must be learned and one frozen; on these text vectors take a value between "
                f"{float(relative[-1]):.3g} and {float(relative[0]):.3g}."
            )
        return found
    chosen = config.null_dims or max(width // 2, least)
    if not least <= chosen < width:
        raise UserError(
            f"null_dims={chosen} does not fit a recommender of width {width} and a language model of width "
            f"{len(variances)}: take {least} to {width - 1}, or 0 for half of the recommender's width."
        )
    return chosen
