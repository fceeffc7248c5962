"""The planted dataset: a catalogue and users whose law is known, so that the best possible result is too.

Every item has a use, a brand, a material and a size, and its title says them. The next item `j` of a user is
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
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from benchmark.config import parse
from benchmark.data.raw import Place, Raw, interactions_batch, items_batch
from benchmark.data.recipe import Recipe
from methods.errors import UserError

USES = (
    "hiking boots", "trekking backpack", "camping tent", "sleeping bag", "cooking stove", "frying pan",
    "kitchen knife", "cutting board", "lunch box", "water bottle", "bicycle basket", "cycling helmet",
    "rain jacket", "garden hose", "flower pot", "desk lamp", "reading chair", "picture frame", "wall clock",
    "coffee grinder", "tea kettle", "baby blanket", "toy train", "guitar strap",
)  # fmt: skip
BRANDS = (
    "Northwind", "Bluebird", "Oakfield", "Silverpine", "Redstone", "Harborlight", "Foxglove", "Ironbridge",
    "Sunmeadow", "Whitecliff", "Stormcrow", "Maplewood", "Riverbend", "Goldfinch", "Blackthorn", "Clearwater",
)  # fmt: skip
MATERIALS = (
    "leather", "stainless steel", "bamboo", "cotton", "ceramic", "plastic", "aluminium", "wool", "silicone",
    "copper", "canvas", "glass",
)  # fmt: skip
SIZES = ("small", "medium", "large", "extra large")

TOP = (10, 50)
"""k of the Recall@k and NDCG@k that the ceiling gives."""
_CHUNK_CELLS = 4_000_000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Planted:
    """Parameters of the generator."""

    seed: Annotated[int, Field(ge=0)] = 7
    users: Annotated[int, Field(ge=1)] = 600
    items: Annotated[int, Field(ge=20)] = 300
    uses: Annotated[int, Field(ge=3, le=len(USES))] = 12
    """Number of different uses; the first so many of `USES`. The same for the next three."""
    brands: Annotated[int, Field(ge=2, le=len(BRANDS))] = 8
    materials: Annotated[int, Field(ge=2, le=len(MATERIALS))] = 6
    sizes: Annotated[int, Field(ge=1, le=len(SIZES))] = 3
    min_length: Annotated[int, Field(ge=3)] = 6
    """Least interactions of a user; lengths are uniform up to `max_length`."""
    max_length: Annotated[int, Field(ge=3)] = 14
    cold_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the items that occur only as validation or test targets."""
    cold_weight: Annotated[int, Field(ge=1)] = 3
    """Weight of a cold item as a target; `warm_weight` is a warm one's."""
    warm_weight: Annotated[int, Field(ge=1)] = 2
    next_use: Annotated[int, Field(ge=1)] = 60
    """Weight of an item that serves the use after the last item's; of any other use 1."""
    same_use: Annotated[int, Field(ge=1)] = 12
    same_brand: Annotated[int, Field(ge=1)] = 8
    """Weight of an item of the last item's brand; of another brand 1. The same for the next two."""
    same_material: Annotated[int, Field(ge=1)] = 3
    """As `same_brand`, against the last item but one."""
    same_size: Annotated[int, Field(ge=1)] = 2
    shuffle_texts: bool = False
    """Deal the texts out to the items anew, so that they say nothing about them."""

    @property
    def cold_items(self) -> int:
        """Number of cold items."""
        return round(self.cold_share * self.items)


@dataclass(frozen=True)
class World:
    """The catalogue as groups of items that no weight tells apart: same attributes, cold alike."""

    attributes: Ints
    """`[G, 4]` use, brand, material, size of each group."""
    cold: npt.NDArray[np.bool_]
    """`[G]`"""
    sizes: Ints
    """`[G]` items in each group."""
    group: Ints
    """`[I]` group of each item."""
    members: Ints
    """`[I]` items sorted by group; those of group g begin at `first[g]`."""
    first: Ints
    """`[G]`"""


@dataclass(frozen=True)
class Drawn:
    """A generated dataset: what the files would hold, and what only the generator knows."""

    raw: Raw
    ceiling: dict[str, dict[str, float]]


def parameters(recipe: Recipe) -> Planted:
    """The generator's parameters; raises `UserError` for one that is unknown or out of range."""
    where = f"[synthetic] of the recipe '{recipe.name}'"
    planted = parse(Planted, recipe.synthetic, where)
    if planted.max_length < planted.min_length:
        raise UserError(
            f"{where}: max_length={planted.max_length} is below min_length={planted.min_length}; raise it."
        )
    if planted.items - planted.cold_items < 2 * planted.max_length:
        raise UserError(
            f"{where}: {planted.items - planted.cold_items} warm items are too few for sequences of "
            f"{planted.max_length} without repeats; wanted twice as many. Raise items or lower max_length."
        )
    return planted


def generate(recipe: Recipe) -> Drawn:
    """Draw the catalogue and the users of `recipe.synthetic`; raises `UserError` as `parameters` does."""
    planted = parameters(recipe)
    rng = np.random.Generator(np.random.PCG64(planted.seed))
    titles, world = _catalogue(planted, rng)
    if planted.shuffle_texts:  # a generator of its own, so that the users stay those of the unshuffled set
        deal = np.argsort(np.random.Generator(np.random.PCG64([planted.seed, 1])).random(planted.items))
        titles = [titles[i] for i in deal]
    lengths = planted.min_length + _integers(rng, planted.max_length - planted.min_length + 1, planted.users)
    history = _draw_users(world, planted, lengths, rng)  # [U, max_length], -1 after the end
    width = len(str(max(planted.items, planted.users)))
    users, items = (np.char.zfill(np.arange(n).astype(str), width) for n in (planted.users, planted.items))
    user_ids, item_ids = np.char.add("u", users), np.char.add("i", items)
    real = history >= 0
    rows = np.arange(1, real.sum() + 1)
    times = np.broadcast_to(np.arange(planted.max_length), history.shape)[real]
    place = partial(_place, Path("(generated)"))
    raw = Raw(
        interactions=[
            interactions_batch(
                np.repeat(user_ids, lengths).tolist(), item_ids[history[real]].tolist(), times, rows
            )
        ],
        items=[items_batch(item_ids.tolist(), titles, np.arange(1, planted.items + 1))],
        place=place,
        item_place=place,
    )
    return Drawn(raw, _ceiling(world, planted, history, lengths))


def _place(path: Path, row: int) -> Place:
    return Place(path, f"row {row}")


def _integers(rng: np.random.Generator, bound: int, count: int) -> Ints:
    """`[count]` whole numbers below `bound`, from `random()` alone, whose stream never changes."""
    return (rng.random(count) * bound).astype(np.int64)


def _catalogue(planted: Planted, rng: np.random.Generator) -> tuple[list[str], World]:
    """Titles `[I]` and the groups of items."""
    shape = (planted.uses, planted.brands, planted.materials, planted.sizes)
    kinds = int(np.prod(shape))
    order = np.argsort(rng.random(kinds))
    code = np.resize(order, planted.items)  # [I] each combination once, then all of them again
    attributes = np.stack(np.unravel_index(code, shape), axis=1)  # [I, 4]
    cold = np.zeros(planted.items, dtype=bool)
    cold[np.argsort(rng.random(planted.items))[: planted.cold_items]] = True
    titles = []
    for number, (use, brand, material, size) in enumerate(attributes):
        model = f", model {number // kinds + 1}" if planted.items > kinds else ""
        titles.append(f"{BRANDS[brand]} {MATERIALS[material]} {USES[use]}, {SIZES[size]}{model}")
    _, index, group, sizes = np.unique(
        code * 2 + cold, return_index=True, return_inverse=True, return_counts=True
    )
    members = np.argsort(group, kind="stable")
    first = np.cumsum(sizes) - sizes
    return titles, World(attributes[index], cold[index], sizes, group, members, first)


def _weights(
    world: World, planted: Planted, last: Ints, before: Ints, targets: npt.NDArray[np.bool_]
) -> Floats:
    """Weight of one item of each group `[B, G]`, given the groups `[B]` of the last two items (-1: none)."""
    new = world.attributes  # [G, 4]
    old, older = new[last], new[before]  # [B, 4]
    weights = np.where(
        targets[:, None], np.where(world.cold, planted.cold_weight, planted.warm_weight), ~world.cold
    )  # [B, G]
    ahead = (new[:, 0] - old[:, None, 0]) % planted.uses  # [B, G] steps on the ring of uses
    there = (last >= 0)[:, None]  # [B, 1]
    weights = weights * np.where(there & (ahead == 1), planted.next_use, 1)
    weights *= np.where(there & (ahead == 0), planted.same_use, 1)
    weights *= np.where(there & (new[:, 1] == old[:, None, 1]), planted.same_brand, 1)
    weights *= np.where(there & (new[:, 3] == old[:, None, 3]), planted.same_size, 1)
    weights *= np.where((before >= 0)[:, None] & (new[:, 2] == older[:, None, 2]), planted.same_material, 1)
    return weights.astype(np.float64)


def _chunks(world: World, users: int) -> Iterator[slice]:
    step = max(1, _CHUNK_CELLS // len(world.sizes))
    return (slice(start, min(start + step, users)) for start in range(0, users, step))


def _state(world: World, history: Ints, at: Ints) -> tuple[Ints, Ints]:
    """Groups `[B]` of the last item before position `at` `[B]` and of the one before it, -1 where none."""
    row = np.arange(len(history))
    last = np.where(at >= 1, world.group[history[row, np.maximum(at - 1, 0)]], -1)
    before = np.where(at >= 2, world.group[history[row, np.maximum(at - 2, 0)]], -1)
    return last, before


def _draw_users(world: World, planted: Planted, lengths: Ints, rng: np.random.Generator) -> Ints:
    """Item indices `[U, max_length]` of every user in time order, -1 after the end."""
    history = np.full((len(lengths), planted.max_length), -1, dtype=np.int64)
    for chunk in _chunks(world, len(lengths)):
        for position in range(planted.max_length):
            active = np.arange(chunk.start, chunk.stop)[lengths[chunk] > position]  # [B]
            at = np.full(len(active), position)
            targets = position >= lengths[active] - 2
            last, before = _state(world, history[active], at)
            weights = _weights(world, planted, last, before, targets) * world.sizes  # [B, G]
            reach = np.cumsum(weights, axis=1)  # [B, G]
            left = np.arange(len(active))
            # Drawing again until the item is new is drawing from the law without the user's items.
            while len(left):
                point = rng.random(len(left)) * reach[left, -1]
                group = (reach[left] <= point[:, None]).sum(axis=1)  # [B]
                member = (rng.random(len(left)) * world.sizes[group]).astype(np.int64)
                item = world.members[world.first[group] + member]
                fresh = ~(history[active[left]] == item[:, None]).any(axis=1)
                history[active[left[fresh]], position] = item[fresh]
                left = left[~fresh]
    return history


def _ceiling(world: World, planted: Planted, history: Ints, lengths: Ints) -> dict[str, dict[str, float]]:
    """Expected metrics of the ranking by the true probabilities, and `realised_*`, what it gets on this draw.

    `valid` and `test` cannot be beaten in expectation. `test_cold` and `test_warm` are the same ranking's
    figures on the targets of each kind: a ranking that favours one kind can exceed it there, and pays in the
    other.
    """
    names = [f"{metric}@{k}" for k in TOP for metric in ("recall", "ndcg")]
    result: dict[str, dict[str, float]] = {}
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
    """Sums over users `[2, 2, 1 + metrics]`, as `_ceiling` has them, for targets at positions `at` `[B]`."""
    row = np.arange(len(history))
    weights = _weights(
        world, planted, *_state(world, history, at), np.ones(len(history), dtype=bool)
    )  # [B, G]
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
