"""Exact ranks over the full catalogue, in fp32, without ever holding a users x items matrix.

The catalogue is encoded once. Users are sharded over processes without duplicates and scored in chunks; a
rank is counted, not sorted: 1 + the items that score higher + half of the others that score the same, the
expected rank under a random order of ties. So a constant scorer ranks everything in the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.batches import Sequences, bin_width, share_of
from benchmark.data.sequences import Ints, Rows, pack
from benchmark.model.loss import normalise
from benchmark.model.parallel import world_size
from benchmark.model.recommender import Recommender

CHUNK_USERS = 1024
CHUNK_ITEMS = 4096


class NotFiniteError(RuntimeError):
    """The training loss or a score became infinite or nan."""


@dataclass(frozen=True)
class UserRanks:
    """Ranks of one target a user. All fields are `[U]`, ordered by user."""

    user: Ints
    raw: NDArray[np.float64]
    """Rank among all items."""
    masked: NDArray[np.float64]
    """Rank with the items of the user's history left out, the target itself always kept."""


@dataclass(frozen=True)
class Catalogue:
    """Embeddings of all items, each distinct input once, so that equal texts tie to the last bit."""

    embeddings: Tensor
    """`[R, d]`, as SASRec reads them."""
    unit: Tensor
    """`[R, d]`, unit length, as scores use them."""
    row: Tensor
    """`[I]` row of each item."""
    repeated: Tensor
    """Rows of the items that are not the first with their input: each counts once more."""


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
    catalogue = encode_catalogue(model, data, device, rank)
    mine = rows.take(np.arange(rank, len(rows), world_size()))
    raw, masked = [], []
    for begin in range(0, len(mine), CHUNK_USERS):
        chunk = mine.take(np.arange(begin, min(begin + CHUNK_USERS, len(mine))))
        chunk_raw, chunk_masked = _rank_chunk(model, data, chunk, history_start, catalogue)
        raw.append(chunk_raw)
        masked.append(chunk_masked)
    model.train(was_training)
    ranks = _gather(UserRanks(mine.user, _to_numpy(raw), _to_numpy(masked)))
    if np.isnan(ranks.raw).any():  # known to every process, so that none waits for another
        raise NotFiniteError("scores are not finite; lower learning_rate or set precision=no.")
    return ranks


def encode_catalogue(model: Recommender, data: Sequences, device: torch.device, rank: int = 0) -> Catalogue:
    """Embed every item; processes share the work."""
    distinct, row = np.unique(data.twin, return_inverse=True)
    parts = [
        model.embed(share_of(distinct[begin : begin + CHUNK_ITEMS], rank, world_size()))
        for begin in range(0, len(distinct), CHUNK_ITEMS)
    ]
    embeddings = torch.cat(parts)  # [R, d]
    return Catalogue(
        embeddings,
        normalise(embeddings),
        torch.from_numpy(row).to(device),
        torch.from_numpy(row[data.twin != np.arange(len(row))]).to(device),
    )


def _rank_chunk(
    model: Recommender, data: Sequences, rows: Rows, history_start: Ints, catalogue: Catalogue
) -> tuple[Tensor, Tensor]:
    """Raw and masked ranks of a chunk of `u` users: two of `[u]` fp64."""
    device = catalogue.unit.device

    def on_device(x: Ints) -> Tensor:
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
    scores = normalise(u) @ catalogue.unit.T  # [u, d] x [d, R] -> [u, R]
    targets = data.items[rows.start + rows.length]  # [u]
    own = scores.gather(1, catalogue.row[on_device(targets)].unsqueeze(1))  # [u, 1]
    # the target is among the ties and counts one half: 1 + higher + others tied / 2
    raw = _above(scores, own) + _above(scores[:, catalogue.repeated], own) + 0.5  # [u]
    raw = raw.masked_fill(scores.sum(1).isnan(), math.nan)
    history, counts = _history(data.items, rows, history_start, targets)
    seen = scores.gather(1, catalogue.row[on_device(history)])  # [u, H]
    return raw, raw - _above(seen.masked_fill(~torch.from_numpy(counts).to(device), -math.inf), own)


def _above(scores: Tensor, own: Tensor) -> Tensor:
    """How many of `scores` `[u, C]` outrank `own` `[u, 1]`, a tied one counting half: -> `[u]` fp64."""
    higher, tied = (scores > own).sum(1), (scores == own).sum(1)
    return higher.double() + 0.5 * tied.double()


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


def _to_numpy(parts: list[Tensor]) -> NDArray[np.float64]:
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)


def _gather(mine: UserRanks) -> UserRanks:
    """Everybody's users, ordered by user; the shares are disjoint, so none is counted twice."""
    parts: list[UserRanks] = [mine] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, mine)
    user = np.concatenate([part.user for part in parts])
    order = np.argsort(user, kind="stable")
    raw = np.concatenate([part.raw for part in parts])[order]
    return UserRanks(user[order], raw, np.concatenate([part.masked for part in parts])[order])
