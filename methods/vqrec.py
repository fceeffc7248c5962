"""vqrec: learned vectors of discrete codes of the texts (Hou et al. 2023, arXiv 2210.12316).

Optimised product quantisation turns the text vector of item `i` into M codes, and its embedding is the mean
of the M vectors that are learned for these codes:

    R (h_i - m) = (u_i1, ..., u_iM), M pieces of D / M dimensions
    c_ik = argmin_j |u_ik - a_kj|^2 over the K centroids a_k1, ..., a_kK of group k
    e_i = (E_1[c_i1] + ... + E_M[c_iM]) / M, E_k of shape [K, d] learned

Centroids and the rotation R minimise the squared error together: see `methods.quantisation`.

Departures: there is no pre-training on other domains, and so no fake negatives and no permutation of codes,
which belong to it. The codes are learned from the texts of the whole catalogue, not of the items of training
alone: texts are known before interactions. The published code calls Faiss, which alternates as we do, 50
rounds from a random rotation, but takes more steps of k-means a round and splits a large cluster where
another is empty. The published width is 300. The recommender, loss and training are the harness's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from methods.base import Context, Items, Method, Reads, states_of
from methods.errors import UserError
from methods.quantisation import ProductQuantiser

GROUPS, CODES = 32, 256
"""The published M and K."""
SAMPLE = 65_536
"""Items from which the codes are learned at most: 256 for each of 256 centroids, the limit of Faiss."""


@dataclass(frozen=True)
class VQRecConfig:
    """Hyper-parameters of vqrec."""

    groups: Annotated[int, Field(ge=0, le=4096)] = 0
    """M, codes of an item; it divides the width of the language model. 0 is the published 32, or the largest
    number below it that divides the width."""
    codes: Annotated[int, Field(ge=0, le=65536)] = 0
    """K, centroids of a group. 0 is the published 256, or an eighth of the catalogue where that is less."""
    rotate: bool = True
    """Whether a rotation is learned with the centroids, as published; without it the groups are runs of the
    language model's own dimensions."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 50
    """Rounds of k-means, each with a new rotation."""


class VQRec(Method):
    """Learned vectors of discrete codes of the texts, by product quantisation (Hou et al. 2023)."""

    reads: ClassVar[Reads] = "states"
    replayable: ClassVar[bool] = True
    Config: ClassVar[type[Any]] = VQRecConfig
    by_default: ClassVar[bool] = False
    mean: Tensor

    def __init__(self, config: VQRecConfig, context: Context) -> None:
        super().__init__(config, context)
        assert context.state_mean is not None
        self.groups, self.codes = sizes(config, context.llm_width, context.n_items)
        self.register_buffer("mean", context.state_mean[0].clone(), persistent=False)  # [D]
        self.quantiser = ProductQuantiser(context.llm_width, self.groups, self.codes)
        self.table = nn.Parameter(torch.empty(self.groups * self.codes, context.out_dim))
        nn.init.normal_(self.table, std=0.02)

    def observe(self, states: Iterable[Tensor]) -> None:
        """Learn the codes: chunks of `[c, 1, D]`."""
        rows = torch.cat([chunk[:, 0] - self.mean for chunk in states])  # [c, 1, D] -> [I, D]
        if len(rows) > SAMPLE:
            rows = rows[torch.randperm(len(rows))[:SAMPLE]]  # [I, D] -> [n, D]
        self.quantiser.fit(rows, self.config.rounds, self.config.rotate)

    def precompute(self, states: Tensor) -> Tensor:
        """Rows of the table: `[c, 1, D]` -> `[c, groups]` int64."""
        codes: Tensor = self.quantiser(states[:, 0] - self.mean)  # [c, groups]
        return codes + self.codes * torch.arange(self.groups)

    def forward(self, items: Items) -> Tensor:
        """Embed items: `[M, groups]` -> `[M, d]`."""
        # the vectors of all codes of a step, [M, groups, d], never exist together
        return F.embedding_bag(states_of(items), self.table, mode="mean")  # [M, groups] -> [M, d]

    def extra_record(self) -> dict[str, Any]:
        """The numbers of groups and codes, which may follow from width and catalogue."""
        return {"groups": self.groups, "codes": self.codes}


def sizes(config: VQRecConfig, width: int, n_items: int) -> tuple[int, int]:
    """Groups and codes. Raises `UserError` where they do not fit the language model or the catalogue."""
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    groups = config.groups or max(number for number in divisors if number <= GROUPS)
    if groups not in divisors:
        allowed = ", ".join(map(str, divisors))
        raise UserError(
            f"groups={groups} does not divide the width {width} of the language model: take one of {allowed}."
        )
    codes = config.codes or max(1, min(CODES, n_items // 8))
    if codes > n_items:
        raise UserError(f"codes={codes} is more than the catalogue has items: 1 to {n_items}, or 0.")
    return groups, codes
