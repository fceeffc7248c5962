"""The planted dataset: a catalogue and users whose law is known, so that the best possible result is too.

Every item has a use, a brand, a material and a size, which its title names. The next item `j` of a user is
drawn with probability proportional to a weight,

    w(j) = use(j, last) * brand(j, last) * size(j, last) * material(j, last but one) * cold(j)

over the items that the user has not had. Uses stand on a ring: the next item most often serves the following
use, sometimes the same. Cold items are drawn only as validation and test targets, there `cold_weight` to
`warm_weight` as often as a warm item of equal attributes. All weights are whole numbers, so that the sums are
exact and the draws are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmark.data.planted import (
    Floats,
    Ints,
    Mask,
    Planted,
    deal,
    integers,
    parameters,
    popularities,
    raw_of,
)
from benchmark.data.raw import RawData
from benchmark.data.recipe import Recipe

TOP = (10, 50)
"""k of the Recall@k and NDCG@k that the ceiling gives."""
CHUNK_CELLS = 4_000_000
Ceiling = dict[str, dict[str, float]]
"""Split -> metric -> its best possible value."""


@dataclass(frozen=True)
class World:
    """The catalogue as groups of items with equal weights: same attributes, all cold or all warm."""

    attributes: Ints
    """`[G, 4]` use, brand, material, size of each group."""
    kinds: Ints
    """`[I]` kind of each item."""
    cold: Mask
    """`[G]`"""
    sizes: Ints
    """`[G]` items in each group."""
    group: Ints
    """`[I]` group of each item."""
    members: Ints
    """`[I]` items sorted by group; those of group g begin at `first[g]`."""
    first: Ints
    """`[G]`"""


def generate(recipe: Recipe) -> tuple[RawData, Ceiling | None]:
    """Draw the catalogue and the users of `recipe.synthetic`: the data, and the best possible metrics.

    Raises `UserError` as `parameters` does.
    """
    planted = parameters(recipe)
    rng = np.random.Generator(np.random.PCG64(planted.seed))
    kinds, cold = deal(planted, rng)
    if not planted.ceiling:
        return raw_of(planted, kinds, draw_blocks(planted, kinds, cold, rng)), None
    world = groups_of(planted, kinds, cold)
    lengths = planted.min_length + integers(rng, planted.max_length - planted.min_length + 1, planted.users)
    history = _draw_users(world, planted, lengths, rng)  # [U, max_length], -1 after the end
    return raw_of(planted, kinds, [history]), ceiling_of(world, planted, history, lengths)


def groups_of(planted: Planted, kinds: Ints, cold: Mask) -> World:
    """The groups of the items of these `kinds` `[I]`, of which some are `cold` `[I]`."""
    attributes = np.stack(np.unravel_index(kinds, planted.shape), axis=1)  # [I, 4]
    _, index, group, sizes = np.unique(
        kinds * 2 + cold, return_index=True, return_inverse=True, return_counts=True
    )
    members = np.argsort(group, kind="stable")
    first = np.cumsum(sizes) - sizes
    return World(attributes[index], kinds, cold[index], sizes, group, members, first)


def _weights(world: World, planted: Planted, seen: list[Ints], targets: Mask) -> Floats:
    """Weight of one item of each group `[B, G]`; `seen` is as in `_seen`; `targets` `[B]` may be cold."""
    weights: Floats = np.where(
        targets[:, None], np.where(world.cold, planted.cold_weight, planted.warm_weight), ~world.cold
    ).astype(np.float64)  # [B, G]
    for table, values, column in zip(factors(planted), seen, world.attributes.T, strict=True):
        weights *= table[values][:, column]
    return weights


def _chunks(world: World, users: int) -> Iterator[slice]:
    step = max(1, CHUNK_CELLS // len(world.sizes))
    return (slice(start, min(start + step, users)) for start in range(0, users, step))


def _draw_users(world: World, planted: Planted, lengths: Ints, rng: np.random.Generator) -> Ints:
    """Item indices `[U, max_length]` of every user in time order, -1 after the end."""
    history = np.full((len(lengths), planted.max_length), -1, dtype=np.int64)
    for chunk in _chunks(world, len(lengths)):
        for position in range(planted.max_length):
            active = np.arange(chunk.start, chunk.stop)[lengths[chunk] > position]  # [B]
            seen = _seen(planted, world.kinds, history[active], position)
            targets = position >= lengths[active] - 2
            weights = _weights(world, planted, seen, targets) * world.sizes  # [B, G]
            left = np.arange(len(active))
            # Drawing again until the item is new is drawing from the law without the user's items.
            while len(left):
                group = _draw_column(weights[left], rng)
                member = (rng.random(len(left)) * world.sizes[group]).astype(np.int64)
                item = world.members[world.first[group] + member]
                fresh = ~(history[active[left]] == item[:, None]).any(axis=1)
                history[active[left[fresh]], position] = item[fresh]
                left = left[~fresh]
    return history


def ceiling_of(world: World, planted: Planted, history: Ints, lengths: Ints) -> Ceiling:
    """Expected metrics of the ranking by the true probabilities, and `realised_*`, what it gets on this draw.

    `valid` and `test` cannot be beaten in expectation. `test_cold` and `test_warm` are the same ranking's
    figures on the targets of each kind: a ranking that favours one kind can exceed it there, and pays in the
    other.
    """
    names = [f"{metric}@{k}" for k in TOP for metric in ("recall", "ndcg")]
    result: Ceiling = {}
    for split, from_end in (("valid", 2), ("test", 1)):
        # [2, 2, 1 + metrics]: expected and realised; warm and cold; number of targets and sums of the metrics
        sums = sum(
            _oracle(world, planted, history[c], lengths[c] - from_end) for c in _chunks(world, len(lengths))
        )
        assert isinstance(sums, np.ndarray)
        for prefix, (warm, cold) in zip(("", "realised_"), sums, strict=True):
            for suffix, part in (("", warm + cold), ("_cold", cold), ("_warm", warm)):
                if part[0] > 0:
                    result[prefix + split + suffix] = dict(
                        zip(names, (part[1:] / part[0]).tolist(), strict=True)
                    )
    return result


def _oracle(world: World, planted: Planted, history: Ints, at: Ints) -> Floats:
    """Sums over users `[2, 2, 1 + metrics]`, as in `ceiling_of`, for targets at positions `at` `[B]`."""
    row = np.arange(len(history))
    seen = _seen(planted, world.kinds, history, at)
    weights = _weights(world, planted, seen, np.ones(len(history), dtype=bool))  # [B, G]
    items = np.repeat(world.sizes[None], len(history), axis=0)  # [B, G] items that the user has not had
    past = (np.arange(history.shape[1]) < at[:, None]) & (history >= 0)  # [B, L]
    np.subtract.at(items, (np.nonzero(past)[0], world.group[history[past]]), 1)
    mass = weights * items  # [B, G]
    mass /= mass.sum(axis=1, keepdims=True)
    drawn = np.zeros_like(mass)
    drawn[row, world.group[history[row, at]]] = 1
    shares = np.stack([np.ones_like(mass), *_shares(weights, items)])  # [1 + metrics, B, G]
    return np.stack(
        [
            np.stack(
                [(shares[:, :, kind] * law[:, kind]).sum(axis=(1, 2)) for kind in (~world.cold, world.cold)]
            )
            for law in (mass, drawn)
        ]
    )


def _shares(weights: Floats, items: Ints) -> list[Floats]:
    """Recall@k and NDCG@k `[B, G]` of a target in each group, items ranked by weight, ties at random."""
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)  # [B, G] descending
    through = np.cumsum(np.take_along_axis(items, order, axis=1), axis=1)  # [B, G] items down to this group
    before = through - np.take_along_axis(items, order, axis=1)
    differs = ranked[:, 1:] != ranked[:, :-1]
    edge = np.ones((len(weights), 1), dtype=bool)
    first = np.where(np.concatenate([edge, differs], axis=1), before, 0)
    low = np.maximum.accumulate(first, axis=1)  # [B, G] items above the ties
    last = np.where(np.concatenate([differs, edge], axis=1), through, np.iinfo(np.int64).max)
    high = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]  # [B, G] items down to the end of the ties
    ties = np.maximum(high - low, 1)
    back = np.argsort(order, axis=1)
    result = []
    for k in TOP:
        gain = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])  # [k + 1]
        top, bottom = np.minimum(low, k), np.minimum(high, k)
        for share in ((bottom - top) / ties, (gain[bottom] - gain[top]) / ties):
            result.append(np.take_along_axis(share, back, axis=1))  # [B, G] in the order of the groups
    return result


BLOCK = 1 << 16
"""Users that are drawn at a time, from random numbers of their own."""
SEES = (1, 1, 2, 1)
"""How far back the item lies that the weight of each attribute (use, brand, material, size) looks at."""


def draw_blocks(planted: Planted, kinds: Ints, cold: Mask, rng: np.random.Generator) -> Iterator[Ints]:
    """Histories `[B, max_length]` of all users, block after block: item indices, -1 after the end.

    `kinds` `[I]` and `cold` `[I]` are those of `planted.deal`.
    """
    popular = popularities(planted, rng)
    training = Draws(planted, kinds, np.where(cold, 0, popular))
    target = Draws(planted, kinds, popular * np.where(cold, planted.cold_weight, planted.warm_weight))
    for number, start in enumerate(range(0, planted.users, BLOCK)):
        own = np.random.Generator(np.random.PCG64([planted.seed, 2, number]))
        yield _block(planted, kinds, min(BLOCK, planted.users - start), training, target, own)


class Draws:
    """Draws items with probability proportional to their weight `[I]` and the law's factors."""

    def __init__(self, planted: Planted, kinds: Ints, weight: Ints) -> None:
        self._shape = planted.shape
        self._items = np.argsort(kinds, kind="stable")  # [I] by kind
        self._reach = np.cumsum(weight[self._items])  # [I]
        mass = np.bincount(kinds, weight, planted.kinds).astype(np.float64)  # [kinds], whole numbers
        self._mass = mass.astype(np.int64)
        self._before = np.cumsum(self._mass) - self._mass  # [kinds]
        self._factors = factors(planted)
        # tables[k]: attributes before k as drawn, those after k as the history has them, k itself last
        table: Floats = mass.reshape(self._shape)
        self._tables = [table]
        for axis in (3, 2, 1):
            summed = np.tensordot(self._factors[axis], table, axes=(1, axis))  # [n + 1, ...]
            table = np.moveaxis(summed, 0, axis)
            self._tables.insert(0, np.ascontiguousarray(np.moveaxis(table, axis - 1, -1)))

    def __call__(self, seen: list[Ints], rng: np.random.Generator) -> Ints:
        """Items `[B]`; `seen[k]` `[B]` is the value of attribute k that the history has, one past the last
        value where it has none."""
        drawn: list[Ints] = []
        for axis, table in enumerate(self._tables):
            weights = table[(*drawn, *seen[axis + 1 :])] * self._factors[axis][seen[axis]]  # [B, n]
            drawn.append(_draw_column(weights, rng))
        kind = np.ravel_multi_index(tuple(drawn), self._shape)  # [B]
        inside = (rng.random(len(kind)) * self._mass[kind]).astype(np.int64)
        at = np.searchsorted(self._reach, self._before[kind] + inside, side="right")
        return self._items[at]


def factors(planted: Planted) -> list[Floats]:
    """For each attribute of n values `[n + 1, n]`: the factor of each value after each; the last row, where
    nothing came before, is 1."""
    tables = [np.ones((count + 1, count)) for count in planted.shape]
    same = (planted.same_use, planted.same_brand, planted.same_material, planted.same_size)
    for table, factor in zip(tables, same, strict=True):
        np.fill_diagonal(table, factor)
    use = np.arange(planted.uses)
    tables[0][use, (use + 1) % planted.uses] = planted.next_use
    return tables


def _draw_column(weights: Floats, rng: np.random.Generator) -> Ints:
    """A column of each row of `weights` `[B, n]`, with probability proportional to them: -> `[B]`."""
    reach = np.cumsum(weights, axis=1)
    point = rng.random(len(weights)) * reach[:, -1]
    column: Ints = (reach <= point[:, None]).sum(axis=1)
    return column


def _block(
    planted: Planted, kinds: Ints, users: int, training: Draws, target: Draws, rng: np.random.Generator
) -> Ints:
    """The histories `[users, max_length]` of one block."""
    lengths = planted.min_length + integers(rng, planted.max_length - planted.min_length + 1, users)
    history = np.full((users, planted.max_length), -1)
    for position in range(planted.max_length):
        ahead = lengths - position  # [users] interactions that are still to come
        for draws, some in ((training, ahead > 2), (target, (ahead == 1) | (ahead == 2))):
            left = np.flatnonzero(some)
            # Drawing again until the item is new is drawing from the law without the user's items.
            while len(left):
                item = draws(_seen(planted, kinds, history[left], position), rng)
                fresh = ~(history[left] == item[:, None]).any(axis=1)
                history[left[fresh], position] = item[fresh]
                left = left[~fresh]
    return history


def _seen(planted: Planted, kinds: Ints, history: Ints, position: int | Ints) -> list[Ints]:
    """What each attribute's weight looks at: 4 of `[B]`, one past the last value where there is no item.

    `position` `[B]` is that of the next item of each user, or of all.
    """
    seen = []
    for axis, back in enumerate(SEES):
        item = history[np.arange(len(history)), np.maximum(position - back, 0)]  # [B]
        value = np.unravel_index(kinds[item], planted.shape)[axis]
        seen.append(np.where(np.greater_equal(position, back), value, planted.shape[axis]))
    return seen
