"""The planted law for catalogues and users by the million, drawn attribute by attribute, a block of users at
a time.

The law is that of `benchmark.data.synthetic`, each item's weight multiplied with its popularity. Since the
law is a product over attributes, its sums over all items that share some of them can be tabled once: the use
of the next item is drawn from the sums over all else, its brand from the sums given the use, and so on, and
last an item of that kind by popularity. A draw so costs as many weights as attributes have values, not as
there are items or kinds. What it needs in memory is a few numbers an item and one block of users.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmark.data.planted import Floats, Ints, Mask, Planted, integers, popularities

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
            drawn.append(_one_of(weights, rng))
        kind = np.ravel_multi_index(tuple(drawn), self._shape)  # [B]
        inside = (rng.random(len(kind)) * self._mass[kind]).astype(np.int64)
        at = np.searchsorted(self._reach, self._before[kind] + inside, side="right")
        found: Ints = self._items[at]
        return found


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


def _one_of(weights: Floats, rng: np.random.Generator) -> Ints:
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


def _seen(planted: Planted, kinds: Ints, history: Ints, position: int) -> list[Ints]:
    """What each attribute's weight looks at: 4 of `[B]`, one past the last value where there is no item."""
    found = []
    for axis, back in enumerate(SEES):
        if position < back:
            found.append(np.full(len(history), planted.shape[axis]))
        else:
            values = np.unravel_index(kinds[history[:, position - back]], planted.shape)
            found.append(values[axis])
    return found
