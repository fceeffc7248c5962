"""Approximate search: an HNSW index (Malkov and Yashunin 2018) of the item vectors, by USearch.

Scores are dot products of user and item vectors; for cosines both have length one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.model.chunks import Ints
from benchmark.serve.model import LoadedModel, Recommendation, ScoredItem
from methods.errors import UserError

CONNECTIVITY, EXPANSION = 32, 200
"""Neighbours of an item in the graph, and candidates that are kept while it is built and searched."""
SLACK = 1e-6
"""By how much equal scores may differ between the two searches."""


class HNSWIndex:
    """Recommendations of a model by approximate search."""

    def __init__(self, model: LoadedModel) -> None:
        usearch = _import_usearch()
        start = time.perf_counter()
        self.model = model
        self._vectors = model.item_vectors().cpu().numpy()  # [I, d]
        self._index = usearch.Index(
            ndim=self._vectors.shape[1], metric="ip", dtype="f32",
            connectivity=CONNECTIVITY, expansion_add=EXPANSION, expansion_search=EXPANSION,
        )  # fmt: skip
        self._index.add(np.arange(len(self._vectors)), self._vectors)
        self.seconds = time.perf_counter() - start
        """To build it."""

    def recommend_batch(
        self, histories: Sequence[Sequence[str]], k: int = 10, exclude_history: bool = False
    ) -> list[Recommendation]:
        """As `LoadedModel.recommend_batch`."""
        self.model.check_k(k)
        known, unknown = self.model.numbered(histories)
        lists: list[list[ScoredItem]] = [[] for _ in known]
        if some := [user for user, items in enumerate(known) if len(items)]:
            vectors = self.model.vectors_by_number([known[user] for user in some]).cpu().numpy()  # [u, d]
            left_out = [np.unique(known[user]) if exclude_history else known[user][:0] for user in some]
            for user, u, found in zip(some, vectors, self._search(vectors, left_out, k), strict=True):
                lists[user] = self.model.listed(found, self._vectors[found] @ u)  # [k, d] x [d] -> [k]
        return [Recommendation(*both) for both in zip(lists, unknown, strict=True)]

    def _search(self, vectors: NDArray[np.float32], left_out: Sequence[Ints], k: int) -> list[Ints]:
        """The best items of each user, without those `left_out`."""
        wanted = min(k + max(map(len, left_out)), len(self._vectors))
        keys = np.atleast_2d(self._index.search(vectors, wanted).keys).astype(np.int64)  # [u, wanted]
        return [found[~np.isin(found, some)][:k] for found, some in zip(keys, left_out, strict=True)]

    def recall(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        exclude_history: bool,
        found: Sequence[Recommendation],
    ) -> tuple[int, int]:
        """How many places of the exact lists the lists `found` fill with items of the same rank: -> hits and
        places. An item that ties with the last exact one counts."""
        exact = self.model.recommend_batch(histories, k, exclude_history)
        hits = places = 0
        for own, right in zip(found, exact, strict=True):
            if right.items:
                least = right.items[-1].score - SLACK
                hits += sum(item.score >= least for item in own.items)
                places += len(right.items)
        return hits, places


def _import_usearch() -> Any:
    try:
        from usearch import index
    except ImportError as error:
        raise UserError(
            "--index hnsw needs USearch, which is not installed; `pip install 'adaptrec[index]'` does it."
        ) from error
    return index
