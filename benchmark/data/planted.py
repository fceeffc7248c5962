"""What a planted dataset is made of: its parameters, its items as combinations of attributes, their titles.

`benchmark.data.synthetic` draws the users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from benchmark.config import parse
from benchmark.data.raw import BATCH_ROWS, Location, RawData, interactions_batch, items_batch
from benchmark.data.recipe import Recipe
from methods.errors import UserError
from methods.fields import later

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

MOST = 10**9
"""Users, items or interactions of a user that may be asked for; indices are kept in 32 bits."""
_LARGEST_SUM = 2**53

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


Weight = Annotated[int, Field(ge=1, le=10**6)]


@dataclass(frozen=True)
class Planted:
    """Parameters of the generator."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 7
    users: Annotated[int, Field(ge=1, le=MOST)] = 600
    items: Annotated[int, Field(ge=20, le=MOST)] = 300
    uses: Annotated[int, Field(ge=3, le=len(USES))] = 12
    """Number of different uses; the first so many of `USES`. The same for the next three."""
    brands: Annotated[int, Field(ge=2, le=len(BRANDS))] = 8
    materials: Annotated[int, Field(ge=2, le=len(MATERIALS))] = 6
    sizes: Annotated[int, Field(ge=1, le=len(SIZES))] = 3
    min_length: Annotated[int, Field(ge=3, le=MOST)] = 6
    """Least interactions of a user; lengths are uniform up to `max_length`."""
    max_length: Annotated[int, Field(ge=3, le=MOST)] = 14
    cold_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the items that occur only as validation or test targets."""
    cold_weight: Weight = 3
    """Weight of a cold item as a target; `warm_weight` is a warm one's."""
    warm_weight: Weight = 2
    next_use: Weight = 60
    """Weight of an item that serves the use after the last item's; of any other use 1."""
    same_use: Weight = 12
    same_brand: Weight = 8
    """Weight of an item of the last item's brand; of another brand 1. The same for the next two."""
    same_material: Weight = 3
    """As `same_brand`, against the last item but one."""
    same_size: Weight = 2
    shuffle_texts: bool = False
    """Give the texts to other items, so that a text has no relation to its item."""
    ceiling: bool = later(True)
    """Compute the best possible metrics, for which each kind of item is weighed for each user. Without it,
    items and users are drawn in blocks, and there may be millions of them."""
    popularity: Annotated[int, Field(ge=1, le=10**6)] = later(1)
    """Weight of the most popular item, where the least popular has 1 (`popularities`); above 1 it needs
    ceiling = false, since items of one kind are then no longer alike."""

    @property
    def cold_items(self) -> int:
        """Number of cold items."""
        return round(self.cold_share * self.items)

    @property
    def heaviest(self) -> int:
        """The largest weight that an item can have."""
        factors = (self.same_brand, self.same_material, self.same_size, self.popularity)
        return max(self.next_use, self.same_use) * max(self.cold_weight, self.warm_weight) * prod(factors)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of uses, brands, materials and sizes: a *kind* of item is a cell of this table."""
        return self.uses, self.brands, self.materials, self.sizes

    @property
    def kinds(self) -> int:
        """Number of kinds."""
        return int(np.prod(self.shape))


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
            f"{planted.max_length} without repeats; at least {2 * planted.max_length} are needed. Raise "
            "items or lower max_length."
        )
    if planted.heaviest > _LARGEST_SUM // planted.items:
        raise UserError(
            f"{where}: the weights multiplied with each other and with items must stay below 2^53, so that "
            "sums are exact; lower the largest."
        )
    if planted.popularity > 1 and planted.ceiling:
        raise UserError(f"{where}: popularity={planted.popularity} needs ceiling = false.")
    return planted


def deal(planted: Planted, rng: np.random.Generator) -> tuple[Ints, Mask]:
    """Kind `[I]` of each item, and which `[I]` are cold: each kind once, then all of them again."""
    order = np.argsort(rng.random(planted.kinds))
    cold = np.zeros(planted.items, dtype=bool)
    cold[np.argsort(rng.random(planted.items))[: planted.cold_items]] = True
    return np.resize(order, planted.items), cold


def popularities(planted: Planted, rng: np.random.Generator) -> Ints:
    """Weight `[I]` of each item: the first thousandth about as popular as the first, then as 1 / rank.

    So the share of interactions that a share of the items has is the same in catalogues of all sizes. Whole
    numbers, for the same sums on every machine.
    """
    if planted.popularity == 1:
        return np.ones(planted.items, np.int64)
    rank = np.argsort(rng.random(planted.items))  # [I]
    head = max(1, planted.items // 1000)
    return 1 + (planted.popularity - 1) * head // (head + rank)


def raw_of(planted: Planted, kinds: Ints, histories: Iterable[Ints]) -> RawData:
    """The streams of a drawn set: items of `kinds` `[I]`, users in blocks of histories `[B, max_length]`.

    A history has item indices in time order, -1 after its end.
    """

    def place(row: int) -> Location:
        return Location(Path("(generated)"), f"row {row}")

    return RawData(_interactions(planted, histories), _items(planted, kinds), place, place)


def _items(planted: Planted, kinds: Ints) -> Iterator[Any]:
    shown = np.arange(planted.items)  # [I] whose title each item has
    if planted.shuffle_texts:  # a generator of its own, so that the users stay those of the unshuffled set
        shown = np.argsort(np.random.Generator(np.random.PCG64([planted.seed, 1])).random(planted.items))
    for start in range(0, planted.items, BATCH_ROWS):
        items = np.arange(start, min(start + BATCH_ROWS, planted.items))
        of = shown[items]
        yield items_batch(_names("i", items, planted), _titles(planted, of, kinds[of]), items + 1)


def _titles(planted: Planted, items: Ints, kinds: Ints) -> Any:
    """Arrow strings `[n]`: the texts of `items` `[n]` of these `kinds` `[n]`."""
    use, brand, material, size = (
        pa.array(words).take(pa.array(index))
        for words, index in zip(
            (USES, BRANDS, MATERIALS, SIZES), np.unravel_index(kinds, planted.shape), strict=True
        )
    )
    parts = [pc.binary_join_element_wise(brand, material, use, " "), size]
    if planted.items > planted.kinds:
        number = pa.array(items // planted.kinds + 1).cast(pa.string())
        parts.append(pc.binary_join_element_wise("model", number, " "))
    return pc.binary_join_element_wise(*parts, ", ")


def _names(letter: str, numbers: Ints, planted: Planted) -> Any:
    """Arrow strings `[n]`: the ids of users or items."""
    width = len(str(max(planted.items, planted.users)))
    return pc.binary_join_element_wise(
        letter, pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0"), ""
    )


def _interactions(planted: Planted, histories: Iterable[Ints]) -> Iterator[Any]:
    user, row = 0, 1
    for history in histories:
        real = history >= 0  # [B, max_length]
        of, time = np.nonzero(real)  # [n] twice
        yield interactions_batch(
            _names("u", user + of, planted),
            _names("i", history[real], planted),
            time,
            np.arange(row, row + len(of)),
        )
        user, row = user + len(history), row + len(of)


def integers(rng: np.random.Generator, bound: int, count: int) -> Ints:
    """`[count]` whole numbers below `bound`, from `random()` alone, whose stream never changes."""
    return (rng.random(count) * bound).astype(np.int64)
