"""Optimised product quantisation (Ge et al. 2013): a rotation, then k-means in each group of dimensions.

`n` rows of `D` dimensions, `M` groups of `s` = D / M dimensions, `K` centroids a group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProductQuantiser(nn.Module):
    """Rotation and centroids with the least squared error between rotated rows and their centroids.

    Each round of `fit` takes one step of Lloyd's k-means in each group, then the rotation that is best for
    the centroids. Both start at random, by torch's generator. A centroid that loses all its rows stays
    where it is.
    """

    rotation: Tensor
    centroids: Tensor

    def __init__(self, width: int, groups: int, codes: int) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("centroids", torch.zeros(groups, codes, width // groups))  # [M, K, s]

    @torch.no_grad()
    def fit(self, rows: Tensor, rounds: int, rotate: bool) -> None:
        """Learn from at least K centred rows `[n, D]`; without `rotate` a group is a run of dimensions."""
        rows = rows[torch.randperm(len(rows))]
        if rotate:  # a random rotation gives each group its share of the variance
            self.rotation.copy_(torch.linalg.qr(torch.randn_like(self.rotation))[0])
        self.centroids.copy_(self._pieces(rows)[:, : self.centroids.shape[1]])  # the first K rows
        for _ in range(rounds):
            pieces = self._pieces(rows)  # [M, n, s]
            nearest = self._nearest(pieces)  # [M, n]
            lloyd_step(self.centroids, pieces, nearest)
            if rotate:
                restored = [own[codes] for own, codes in zip(self.centroids, nearest, strict=True)]
                self.rotation.copy_(best_rotation(rows, torch.cat(restored, dim=1)))  # M of [n, s] -> [n, D]

    def forward(self, rows: Tensor) -> Tensor:
        """The nearest centroid of each group: `[n, D]` -> `[n, M]` int64."""
        return self._nearest(self._pieces(rows)).T  # [n, D] -> [M, n, s] -> [M, n] -> [n, M]

    def _pieces(self, rows: Tensor) -> Tensor:
        groups, _, length = self.centroids.shape
        rotated = rows @ self.rotation.T  # [n, D]
        return rotated.view(-1, groups, length).transpose(0, 1)  # [n, D] -> [n, M, s] -> [M, n, s]

    def _nearest(self, pieces: Tensor) -> Tensor:
        """Group by group, to save memory: `[M, n, s]` -> `[M, n]`."""
        squares = self.centroids.square().sum(2)  # [M, K, s] -> [M, K]
        nearest = [
            (square - 2 * rows @ own.T).argmin(1)  # [n, s] x [s, K] -> [n, K] -> [n]
            for rows, own, square in zip(pieces, self.centroids, squares, strict=True)
        ]
        return torch.stack(nearest)


def lloyd_step(centroids: Tensor, pieces: Tensor, nearest: Tensor) -> None:
    """Move each centroid `[M, K, s]` to the mean of its pieces `[M, n, s]`; `nearest` is `[M, n]`."""
    for own, rows, codes in zip(centroids, pieces, nearest, strict=True):
        count = torch.bincount(codes, minlength=len(own))[:, None]  # [K, 1]
        total = torch.zeros_like(own).index_add_(0, codes, rows)  # [K, s]
        own.copy_(torch.where(count > 0, total / count.clamp(min=1), own))


def best_rotation(rows: Tensor, restored: Tensor) -> Tensor:
    """The orthogonal R with the least `|rows R^T - restored|` (Procrustes): both `[n, D]` -> `[D, D]`."""
    left, _, right = torch.linalg.svd(restored.T @ rows)  # [D, n] x [n, D] -> three of [D, D]
    rotation: Tensor = left @ right  # [D, D]
    return rotation
