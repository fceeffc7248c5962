"""Exact ranks over the full catalogue, in fp32, without ever holding a users x items matrix.

The catalogue is encoded once, and its embeddings are the only matrix of its size. Users are sharded over
processes without duplicates and scored few enough at once that their scores take the same memory whatever the
catalogue. A rank is counted, not sorted: 1 + the number of items that score higher, with the number of
items that score the same. All methods are evaluated in fp32, whatever the precision of training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from benchmark.model.batch import Ints
from benchmark.model.parallel import world_size
from benchmark.model.recommender import Recommender
from benchmark.results.metrics import Ranks
from benchmark.train.batches import Sequences, bin_width, share_of
from benchmark.train.sequences import Rows, pack

CHUNK_USERS = 1024
"""Users that SASRec reads at once."""
CHUNK_ITEMS = 4096
"""Items that are encoded at once."""
CHUNK_SCORES = {"cpu": 2**20, "cuda": 2**26}
"""Scores that are held at once: on a CPU what its caches hold, on a GPU enough to keep it busy."""
LEAST_USERS = 16
"""Least users that are scored at once, since each time all embeddings are read again."""
EXACT_ROWS = 2**22
"""Signs that are summed up in one go: fp32 counts exactly up to 2**24, and a row may be several items."""


class NotFiniteError(RuntimeError):
    """The training loss or a score became infinite or nan."""


@dataclass(frozen=True)
class UserRanks:
    """Ranks of one target a user. All fields are `[U]`, ordered by user."""

    user: Ints
    raw: Ranks
    """Rank among all items."""
    masked: Ranks
    """Rank with the items of the user's history left out, the target itself always kept."""


@dataclass(frozen=True)
class Catalogue:
    """Embeddings of all items, each distinct input once, so that equal texts tie to the last bit."""

    embeddings: Tensor
    """`[R, d]`, as SASRec reads them."""
    scale: Tensor
    """`[R]` what a score is multiplied by; not above zero where an embedding is not finite. For cosines it
    makes each embedding's length one, so that there is no second matrix."""
    row: Tensor
    """`[I]` row of each item."""
    items: Tensor
    """`[R]` how many items have this input, fp32."""

    @property
    def users_at_once(self) -> int:
        """How many users are scored at once."""
        scores = CHUNK_SCORES.get(self.scale.device.type, CHUNK_SCORES["cpu"])
        return max(LEAST_USERS, scores // len(self.scale))


@torch.no_grad()
def evaluate(
    model: Recommender, data: Sequences, rows: Rows, history_start: Ints, device: torch.device, rank: int = 0
) -> UserRanks:
    """Rank each row's target (the item after its last input) for each user of `rows`.

    `history_start` `[U]` is where each user's sequence begins in the flat array; the history to mask is
    everything from there to the target, longer than what SASRec reads. Every process returns all users, or
    raises `NotFiniteError` where any score is nan: nothing compares with nan, it would rank first.
    """
    was_training = model.training
    model.eval()
    with model.encoder.full_precision():
        catalogue = encode_catalogue(model, data, device, rank)
    mine = rows.take(np.arange(rank, len(rows), world_size()))
    counts = [np.zeros((0, 4))]  # [u, 4] of each chunk
    for begin in range(0, len(mine), CHUNK_USERS):
        chunk = mine.take(np.arange(begin, min(begin + CHUNK_USERS, len(mine))))
        counts.append(_rank_chunk(model, data, chunk, history_start, catalogue).cpu().numpy())
    model.train(was_training)
    user, columns = _gather(mine.user, np.concatenate(counts))  # [U], [U, 4]
    if np.isnan(columns).any():  # known to every process, so that none waits for another
        raise NotFiniteError("scores are not finite; lower learning_rate or set precision=no.")
    best, tied, best_masked, tied_masked = columns.astype(np.int64).T  # four of [U]
    return UserRanks(user, Ranks(best, tied), Ranks(best_masked, tied_masked))


def encode_catalogue(model: Recommender, data: Sequences, device: torch.device, rank: int = 0) -> Catalogue:
    """Embed every item; processes share the work."""
    distinct, row, items = np.unique(data.twin, return_inverse=True, return_counts=True)
    embeddings = torch.empty(len(distinct), model.settings.width, device=device)  # [R, d]
    for begin in range(0, len(distinct), CHUNK_ITEMS):
        some = distinct[begin : begin + CHUNK_ITEMS]
        embeddings[begin : begin + len(some)] = model.embed(share_of(some, rank, world_size()))
    length = torch.linalg.vector_norm(embeddings, dim=1)  # [R]
    cosine = model.settings.similarity == "cosine"
    scale = 1 / length.clamp(min=1e-12) if cosine else 1 + 0 * length  # [R], as `normalise`
    return Catalogue(
        embeddings,
        scale,
        torch.from_numpy(row).to(device),
        torch.from_numpy(items).to(device, torch.float32),
    )


def _rank_chunk(
    model: Recommender, data: Sequences, rows: Rows, history_start: Ints, catalogue: Catalogue
) -> Tensor:
    """Best rank and ties, raw and masked, of a chunk of `u` users: `[u, 4]` fp64.

    All four are nan where a score is not finite.
    """
    device = catalogue.scale.device

    def on_device(x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(x).to(device)

    packed = pack(rows, bin_width(model.settings.window))
    inputs = catalogue.row[on_device(data.items[np.maximum(packed.source, 0)])]  # [N, S]
    u = model.users(
        catalogue.embeddings,
        inputs,
        on_device(packed.position),
        on_device(packed.segment),
        on_device(packed.slot),
    )  # [u, d]
    targets = data.items[rows.start + rows.length]  # [u]
    history, counts = _history(data.items, rows, history_start, targets)  # [u, H]
    own, seen = catalogue.row[on_device(targets)], catalogue.row[on_device(history)]  # [u], [u, H]
    whole = (model.scored(u), own, seen, on_device(counts))
    parts = zip(*(torch.split(x, catalogue.users_at_once) for x in whole), strict=True)
    placed = torch.cat([_count(catalogue, *part) for part in parts])  # [u, 4]
    finite = u.isfinite().all(1) & (catalogue.scale > 0).all()  # [u]; nan is not above 0
    return placed.masked_fill(~finite.unsqueeze(1), math.nan)


def _count(catalogue: Catalogue, u: Tensor, own: Tensor, seen: Tensor, counts: Tensor) -> Tensor:
    """Best rank and ties, raw and masked, of some users: unit vectors `[c, d]`, their targets' rows `[c]`,
    rows of their histories `[c, H]` and which of these count: -> `[c, 4]` fp64.

    The signs of what each score is above the target's sum up to the items above it minus those below it, and
    their absolute values to both together: two sums over one matrix, which is worked on in place.
    """
    scores = (u @ catalogue.embeddings.T).mul_(catalogue.scale)  # [c, d] x [d, R] -> [c, R]
    signs = scores.sub_(scores.gather(1, own.unsqueeze(1))).sign_()  # [c, R]
    history = signs.gather(1, seen)  # [c, H]
    lead = _weighted(signs, catalogue.items)  # [c] items above minus items below
    apart = _weighted(signs.abs_(), catalogue.items)  # [c] items above and below
    above, tied = (apart + lead) / 2, len(catalogue.row) - apart  # [c]
    seen_above = ((history > 0) & counts).sum(1)  # [c]
    seen_tied = ((history == 0) & counts).sum(1)  # [c]
    return torch.stack([1 + above, tied, 1 + above - seen_above, tied - seen_tied], dim=1)  # [c, 4]


def _weighted(signs: Tensor, items: Tensor) -> Tensor:
    """Exact sums of rows, each column counted `items` `[R]` times: `[c, R]` -> `[c]` fp64."""
    total = torch.zeros(len(signs), dtype=torch.float64, device=signs.device)  # [c]
    for some, times in zip(torch.split(signs, EXACT_ROWS, 1), torch.split(items, EXACT_ROWS), strict=True):
        total += some @ times  # [c, r] x [r] -> [c]
    return total


def _history(items: Ints, rows: Rows, history_start: Ints, targets: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Each user's history before the target, and True where an entry counts: two of `[u, H]`.

    A repeated item counts once, the target never, padding (item 0) never.
    """
    begin = history_start[rows.user]
    length = rows.start + rows.length - begin
    column = np.arange(length.max())
    inside = column < length[:, None]  # [u, H]
    history = np.where(inside, items[np.minimum(begin[:, None] + column, len(items) - 1)], -1)  # [u, H]
    history.sort(axis=1)
    repeated = np.zeros_like(inside)
    repeated[:, 1:] = history[:, 1:] == history[:, :-1]
    counts = (history >= 0) & ~repeated & (history != targets[:, None])
    return np.maximum(history, 0), counts


def _gather(user: Ints, counts: NDArray[np.float64]) -> tuple[Ints, NDArray[np.float64]]:
    """Everybody's users `[U]` and counts `[U, 4]`, ordered by user; the shares are disjoint."""
    parts = [(user, counts)] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, (user, counts))
    users = np.concatenate([part[0] for part in parts])
    order = np.argsort(users, kind="stable")
    return users[order], np.concatenate([part[1] for part in parts])[order]
