"""Exact ranks over the full catalogue, in fp32, without ever holding a users x items matrix.

The catalogue is encoded once, and its embeddings are the only matrix of its size. Users are sharded over
processes without duplicates and scored few enough at once that their scores take the same memory whatever the
catalogue. A rank is counted, not sorted: 1 + the number of items that score higher, with the number of
items that score the same. The best items of each user, where they are asked for, come from the same scores,
so that they agree with the ranks to the last bit. All methods are evaluated in fp32, whatever the precision
of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmark.model.chunks import Ints
from benchmark.model.parallel import world_size
from benchmark.model.recommender import Recommender
from benchmark.results.metrics import Floats, Ranks, metrics_of, target_weights
from benchmark.results.schema import METRICS, Metrics
from benchmark.train.batches import Sequences, share_of
from benchmark.train.rows import Rows, bin_width, joined, pack, share_of_users

CHUNK_USERS = 1024
"""Users that SASRec reads at once."""
CHUNK_ITEMS = 4096
"""Items that are encoded at once."""
CHUNK_SCORES = {"cpu": 2**20, "cuda": 2**26}
"""Scores that are held at once: on a CPU what its caches hold, on a GPU enough to keep it busy."""
LEAST_USERS = 16
"""Least users that are scored at once, since each time all embeddings are read again."""
LIST_USERS = 8
"""Users whose items are put in order at once, since the key of an item takes 64 bits."""
HALF_MAX = 65504.0
"""Largest number of fp16."""
EXACT_ROWS = 2**22
"""Signs that are summed up in one go: fp32 counts exactly up to 2**24, and a row may be several items."""


class NotFiniteError(RuntimeError):
    """The training loss or a score became infinite or nan."""


@dataclass(frozen=True)
class TopItems:
    """The best items for each target, the history left out and the target kept, ties by item index.

    Both fields are `[T, k]`; where fewer than k items are left, -1 and minus infinity fill the rest.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float16]


@dataclass(frozen=True)
class UserRanks:
    """Ranks of targets, by user and then by time. All fields are `[T]`."""

    user: Ints
    position: Ints
    """Position of the target in the user's sequence."""
    raw: Ranks
    """Rank among all items."""
    masked: Ranks
    """Rank with the items of the user's history left out, the target itself always kept."""
    top: TopItems | None = None
    """The best items, where they were asked for."""

    @property
    def weight(self) -> Floats:
        """Weight of each target, by which every user has weight one."""
        return target_weights(self.user)

    def metrics(
        self, split: str, names: Sequence[str] = METRICS, chosen: NDArray[np.bool_] | None = None
    ) -> dict[str, Metrics]:
        """Means over users: of the raw ranks under the name of the `split`, of the masked ones under
        `<split>_masked`. Of the `chosen` targets `[T]` alone, where they are given."""
        targets = np.ones(len(self.user), dtype=bool) if chosen is None else chosen
        weight = self.weight[targets]
        return {
            split: metrics_of(self.raw[targets], names, weight),
            f"{split}_masked": metrics_of(self.masked[targets], names, weight),
        }


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

    def scores(self, u: Tensor) -> Tensor:
        """Scores of all rows for some users, as `Recommender.scored` gives these: `[c, d]` -> `[c, R]`."""
        return (u @ self.embeddings.T).mul_(self.scale)  # [c, d] x [d, R] -> [c, R]


@torch.no_grad()
def evaluate(
    model: Recommender,
    data: Sequences,
    rows: Rows,
    history_start: Ints,
    device: torch.device,
    rank: int = 0,
    top: int = 0,
) -> UserRanks:
    """Rank the target of each of `rows`, the item after its last input, and list the `top` best items.

    `history_start` `[U]` is where each user's sequence begins in the flat array; the history to mask is
    everything from there to the target, longer than what SASRec reads. Every process returns all ranks, or
    raises `NotFiniteError` where any score is nan: nothing compares with nan, it would rank first.
    """
    was_training = model.training
    model.eval()
    with model.encoder.full_precision():
        catalogue = encode_catalogue(model, data, device, rank)
    shard = share_of_users(rows, rank, world_size())
    mine = rows.take(shard)
    counts = [np.zeros((0, 4))]  # [u, 4] of each chunk
    items, scores = [np.zeros((0, top), np.int32)], [np.zeros((0, top), np.float16)]  # [u, top] of each chunk
    for begin in range(0, len(mine), CHUNK_USERS):
        chunk = mine.take(np.arange(begin, min(begin + CHUNK_USERS, len(mine))))
        columns = _rank_chunk(model, data, chunk, history_start, catalogue, top)  # [u, 4 + 2 top]
        if top:  # validation, which has no lists, has no operator for them either
            items.append(columns[:, 4 : 4 + top].int().cpu().numpy())
            scores.append(columns[:, 4 + top :].half().cpu().numpy())
        counts.append(columns.cpu().numpy()[:, :4])
    model.train(was_training)
    arrays = [np.concatenate(counts)]  # [t, 4]
    if top:
        arrays += [np.concatenate(items), np.concatenate(scores)]  # two of [t, top]
    _, placed, *lists = gather_rows(shard, *arrays)
    if np.isnan(placed).any():  # known to every process, so that none waits for another
        raise NotFiniteError("scores are not finite; lower learning_rate or set precision=no.")
    return user_ranks(rows, history_start, placed, TopItems(*lists) if top else None)


def user_ranks(rows: Rows, history_start: Ints, placed: Floats, top: TopItems | None) -> UserRanks:
    """The ranks of the targets of `rows` from what `count_ranks` gives for each, `placed` `[T, 4]`."""
    best, tied, best_masked, tied_masked = placed.astype(np.int64).T  # four of [T]
    position = rows.targets - history_start[rows.user]
    return UserRanks(rows.user, position, Ranks(best, tied), Ranks(best_masked, tied_masked), top)


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
    model: Recommender, data: Sequences, rows: Rows, history_start: Ints, catalogue: Catalogue, top: int
) -> Tensor:
    """Best rank and ties, raw and masked, of a chunk of `u` users, then the `top` best items and their
    scores: `[u, 4 + 2 top]` fp64.

    All are nan where a score is not finite.
    """
    device = catalogue.scale.device

    def on_device(x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(x).to(device)

    u = user_states(model, data, rows, catalogue)  # [u, d]
    targets = data.items[rows.targets]  # [u]
    history, counts = masked_histories(data.items, rows, history_start, targets)  # [u, H]
    past = on_device(history)  # [u, H]
    own, seen = catalogue.row[on_device(targets)], catalogue.row[past]  # [u], [u, H]
    whole = (model.scored(u), own, seen, on_device(counts), *([past] if top else []))
    parts = zip(*(torch.split(x, catalogue.users_at_once) for x in whole), strict=True)
    placed = torch.cat([_count(catalogue, top, *part) for part in parts])  # [u, 4 + 2 top]
    finite = u.isfinite().all(1) & (catalogue.scale > 0).all()  # [u]; nan is not above 0
    return placed.masked_fill(~finite.unsqueeze(1), math.nan)


def user_states(model: Recommender, data: Sequences, rows: Rows, catalogue: Catalogue) -> Tensor:
    """What SASRec makes of the inputs of `u` rows, on the catalogue's device: `[u, d]`."""
    packed = pack(joined(rows), bin_width(model.settings.window))
    items = data.items[np.maximum(packed.source, 0)]  # [N, S]
    inputs, position, segment, slot = (
        torch.from_numpy(x).to(catalogue.scale.device)
        for x in (items, packed.position, packed.segment, packed.slot)
    )
    return model.users(catalogue.embeddings, catalogue.row[inputs], position, segment, slot)  # [u, d]


def _count(
    catalogue: Catalogue,
    top: int,
    u: Tensor,
    own: Tensor,
    seen: Tensor,
    counts: Tensor,
    past: Tensor | None = None,
) -> Tensor:
    """Best rank and ties, raw and masked, of some users: unit vectors `[c, d]`, their targets' rows `[c]`,
    rows of their histories `[c, H]` and which of these count: -> `[c, 4]` fp64. With the items `past` of
    these histories `[c, H]`, also the `top` best items and their scores: `[c, 4 + 2 top]`.
    """
    scores = catalogue.scores(u)  # [c, R]
    lists = [] if past is None else [best_items(scores, catalogue.row, past, counts, top)]  # [c, 2 top]
    placed = count_ranks(scores, catalogue.items, len(catalogue.row), own, seen, counts)  # [c, 4]
    return torch.cat([placed, *lists], dim=1) if lists else placed


def count_ranks(
    scores: Tensor, items: Tensor, n_items: int, own: Tensor, seen: Tensor, counts: Tensor
) -> Tensor:
    """Best rank and ties, raw and masked, of some users, from their `scores` `[c, R]` of rows that stand for
    `items` `[R]` (fp32) of the `n_items` items: -> `[c, 4]` fp64. The scores are overwritten.

    `own` `[c]` are the rows of the targets, `seen` `[c, H]` those of the histories, and `counts` `[c, H]` is
    True where an entry of the history counts. The signs of what each score is above the target's sum up to
    the items above it minus those below it, and their absolute values to both together: two sums over one
    matrix, which is worked on in place.
    """
    signs = scores.sub_(scores.gather(1, own.unsqueeze(1))).sign_()  # [c, R]
    history = signs.gather(1, seen)  # [c, H]
    lead = _weighted(signs, items)  # [c] items above minus items below
    apart = _weighted(signs.abs_(), items)  # [c] items above and below
    above, tied = (apart + lead) / 2, n_items - apart  # [c]
    seen_above = ((history > 0) & counts).sum(1)  # [c]
    seen_tied = ((history == 0) & counts).sum(1)  # [c]
    return torch.stack([1 + above, tied, 1 + above - seen_above, tied - seen_tied], dim=1)  # [c, 4]


def best_items(scores: Tensor, row: Tensor, past: Tensor, counts: Tensor, top: int) -> Tensor:
    """The `top` best items, without those of `past` `[c, H]` where `counts`, and their scores: `[c, R]`
    scores -> `[c, 2 top]` fp64. `row` `[I]` is the row of each item.

    An item's key has its score, as an integer of the same order, above its index: no two keys are equal, so
    that the order is the same on every device.
    """
    n_items = len(row)
    last_first = torch.arange(n_items - 1, -1, -1, device=scores.device)  # [I]
    parts = (torch.split(x, LIST_USERS) for x in (scores, past, counts))
    lists = []
    for some, history, left_out in zip(*parts, strict=True):
        own = some[:, row] + 0.0  # [c, R] -> [c, I]; -0.0 becomes 0.0, which it ties with
        user, column = left_out.nonzero(as_tuple=True)
        own[user, history[user, column]] = -math.inf
        bits = own.view(torch.int32).long()
        ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # [c, I] in the order of the scores
        keys, _ = (ordered * 2**32 + last_first).topk(min(top, n_items), dim=1)  # [c, k]
        items = n_items - 1 - (keys & 0xFFFFFFFF)
        best = own.gather(1, items)
        items = items.masked_fill(best == -math.inf, -1)
        best = torch.where(items < 0, best, best.clamp(-HALF_MAX, HALF_MAX))
        items = F.pad(items, (0, top - items.shape[1]), value=-1)
        best = F.pad(best, (0, top - best.shape[1]), value=-math.inf)
        lists.append(torch.cat([items.double(), best.double()], dim=1))
    return torch.cat(lists)  # [c, 2 top]


def _weighted(signs: Tensor, items: Tensor) -> Tensor:
    """Exact sums of rows, each column counted `items` `[R]` times: `[c, R]` -> `[c]` fp64."""
    total = torch.zeros(len(signs), dtype=torch.float64, device=signs.device)  # [c]
    for some, times in zip(torch.split(signs, EXACT_ROWS, 1), torch.split(items, EXACT_ROWS), strict=True):
        total += some @ times  # [c, r] x [r] -> [c]
    return total


def masked_histories(
    items: Ints, rows: Rows, history_start: Ints, targets: Ints
) -> tuple[Ints, NDArray[np.bool_]]:
    """Each user's history before the target, and True where an entry counts: two of `[u, H]`.

    A repeated item counts once, the target never, padding (item 0) never.
    """
    begin = history_start[rows.user]
    length = rows.targets - begin
    column = np.arange(length.max())
    inside = column < length[:, None]  # [u, H]
    history = np.where(inside, items[np.minimum(begin[:, None] + column, len(items) - 1)], -1)  # [u, H]
    history.sort(axis=1)
    repeated = np.zeros_like(inside)
    repeated[:, 1:] = history[:, 1:] == history[:, :-1]
    counts = (history >= 0) & ~repeated & (history != targets[:, None])
    return np.maximum(history, 0), counts


def gather_rows(*mine: NDArray[Any]) -> list[NDArray[Any]]:
    """Every process's row numbers `[T]` and columns `[T, ...]`, by row number; the shares are disjoint."""
    parts = [mine] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, mine)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return [column[order] for column in columns]
