"""From raw interactions and items to sequences, targets and fingerprint: the steps of docs/datasets.md."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.data import filters
from benchmark.data.readers import Raw, read_tables
from benchmark.data.recipe import Recipe
from benchmark.data.unisrec import read_unisrec
from methods.errors import UserError

UNKNOWN_ITEM = "unknown item"
"""Text of an item that has none, where the recipe keeps such items."""


@dataclass
class Built:
    """What the filters and the split leave, before it is written; fields as in `Prepared`."""

    user_ids: list[str]
    item_ids: list[str]
    texts: list[str]
    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    split: filters.Split
    fingerprint: dict[str, Any]
    ceiling: dict[str, dict[str, float]] | None


def build(recipe: Recipe, files: Mapping[str, Path]) -> Built:
    """Read (or generate), filter and split; the order of the steps is the one of docs/datasets.md."""
    if recipe.format == "synthetic":
        from benchmark.data.synthetic import generate

        drawn = generate(recipe)
        raw, ceiling = drawn.raw, drawn.ceiling
    else:
        raw, ceiling = read(recipe, files), None
    flow = _Flow(recipe, raw)
    flow.drop_unknown_items()
    flow.drop_items_without_text()
    flow.sort()
    flow.filter()
    flow.drop_short_users()
    return flow.finish(ceiling)


def read(recipe: Recipe, files: Mapping[str, Path]) -> Raw:
    """Read the recipe's files. Raises `UserError` naming file and row for a fault that it does not repair."""
    reader = read_unisrec if recipe.format == "unisrec" else read_tables
    return reader(dict(files), recipe, Counter())


class _Flow:
    """The interactions on their way through the filters: parallel arrays that shrink together."""

    def __init__(self, recipe: Recipe, raw: Raw) -> None:
        import pandas as pd

        self.recipe, self.raw = recipe, raw
        self.where = f"dataset '{recipe.name}'"
        codes, names = pd.factorize(np.asarray(raw.users, dtype=object))
        self.user_names = names
        self.users = codes.astype(np.int64)
        index, wanted = (pd.Index(ids, dtype=object) for ids in (raw.item_ids, raw.items))
        self.items = index.get_indexer(wanted).astype(np.int64)
        self.times = raw.times
        self.order = np.arange(len(self.users))
        self.allowed = np.ones(len(raw.item_ids), dtype=bool)
        self.no_text = np.array([not text for text in raw.texts], dtype=bool)
        self.dropped: Counter[str] = Counter()

    def keep(self, mask: filters.Mask, why: str) -> None:
        """Keep the interactions where `mask` `[N]` is true; raises `UserError` when none is left."""
        lost = int((~mask).sum())
        if not lost:
            return
        self.dropped[why] += lost
        if lost == len(mask):
            raise UserError(
                f"{self.where}: no interaction is left ({why}); loosen that option of the recipe."
            )
        self.users, self.items, self.times, self.order = (
            array[mask] for array in (self.users, self.items, self.times, self.order)
        )

    def drop_unknown_items(self) -> None:
        """Interactions whose item the items file lacks: an error, or a counted repair."""
        missing = self.items < 0
        if not missing.any():
            return
        if self.recipe.unknown_items == "error":
            first = int(np.flatnonzero(missing)[0])
            raise UserError(
                f"{self.raw.places.at(first)}: item '{self.raw.items[first]}' is not in the items file "
                f"({missing.sum():,} such interactions); add it there, or set "
                'unknown_items = "drop" in the recipe.'
            )
        self.raw.repairs["interactions with unknown items dropped"] += int(missing.sum())
        self.keep(~missing, "interactions with unknown items")

    def drop_items_without_text(self) -> None:
        if self.recipe.no_text == "drop" and self.no_text.any():
            self.allowed &= ~self.no_text
            self.dropped["items without text"] += int(self.no_text.sum())
            self.keep(self.allowed[self.items], "interactions with items without text")

    def sort(self) -> None:
        """By user, then time; equal times keep the order of the file."""
        order = np.lexsort((self.times, self.users))
        self.users, self.items, self.times, self.order = (
            array[order] for array in (self.users, self.items, self.times, self.order)
        )

    def filter(self) -> None:
        recipe = self.recipe
        if recipe.repeats == "first":
            self.keep(filters.first_of_pairs(self.users, self.items), "repeated pairs")
        if recipe.core:
            self.keep(
                filters.k_core(self.users, self.items, recipe.core),
                f"interactions outside the {recipe.core}-core",
            )
        if recipe.recent is not None:
            self.keep(
                filters.most_recent(self.users, recipe.recent),
                f"interactions before the {recipe.recent} most recent",
            )

    def drop_short_users(self) -> None:
        """Leave-one-out needs three interactions: one for training, one for validation, one for test."""
        if self.recipe.split != "leave-one-out":
            return
        counts = np.bincount(self.users)  # [U]
        short = (counts < 3)[self.users]
        if not short.any():
            return
        affected = len(np.unique(self.users[short]))
        if self.recipe.short_users == "error":
            user = self.users[np.flatnonzero(short)[0]]
            place = self.raw.places.at(int(self.order[self.users == user].min()))
            raise UserError(
                f"{place}: user '{self.user_names[user]}' has {counts[user]} interactions left, "
                f"leave-one-out needs three ({affected:,} such users); set short_users = "
                '"drop" in the recipe.'
            )
        self.raw.repairs["users with fewer than three interactions dropped"] += affected
        self.keep(~short, "interactions of users with fewer than three")

    def finish(self, ceiling: dict[str, dict[str, float]] | None) -> Built:
        """Renumber users and items without gaps, split, and take the fingerprint."""
        recipe, raw = self.recipe, self.raw
        kept, lengths = np.unique(self.users, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)  # [U+1]
        touched = np.bincount(self.items, minlength=len(raw.item_ids)) > 0  # [I in the file]
        catalogue = np.flatnonzero(self.allowed if recipe.untouched == "keep" else touched)
        if missed := int((self.allowed & ~touched).sum()) if recipe.untouched == "drop" else 0:
            self.dropped["items without interactions"] += missed
        renumber = np.full(len(raw.item_ids), -1, dtype=np.int32)
        renumber[catalogue] = np.arange(len(catalogue), dtype=np.int32)
        if recipe.split == "temporal":
            split = filters.temporal(self.times, offsets, recipe.valid_share, recipe.test_share, self.where)
        else:
            split = filters.leave_one_out(lengths.astype(np.int64))
        built = Built(
            user_ids=[str(name) for name in self.user_names[kept]],
            item_ids=[raw.item_ids[i] for i in catalogue],
            texts=[raw.texts[i] or UNKNOWN_ITEM for i in catalogue],
            items=renumber[self.items],
            offsets=offsets,
            split=split,
            fingerprint={},
            ceiling=ceiling,
        )
        built.fingerprint = _fingerprint(built, int(self.no_text[catalogue].sum()))
        built.fingerprint["dropped"] = dict(self.dropped)
        built.fingerprint["repairs"] = {what: count for what, count in raw.repairs.items() if count}
        return built


def _fingerprint(built: Built, without_text: int) -> dict[str, Any]:
    """Counts, shares and digest of what was built; cold items are those that never occur in training."""
    users, items, interactions = len(built.user_ids), len(built.item_ids), len(built.items)
    lengths = np.diff(built.offsets)
    position = np.arange(interactions) - np.repeat(built.offsets[:-1], lengths)  # [N]
    training = built.items[position < np.repeat(built.split.train_end, lengths)]
    cold = np.bincount(training, minlength=items) == 0  # [I]
    held_out = np.bincount(built.items, minlength=items) > 0
    copies = Counter(built.texts)
    shared = sum(count for text, count in copies.items() if count > 1 and text != UNKNOWN_ITEM)
    facts: dict[str, Any] = {
        "users": users,
        "items": items,
        "interactions": interactions,
        "interactions_per_user": interactions / users,
        "interactions_per_item": interactions / items,
        "share_without_text": without_text / items,
        "share_duplicate_text": shared / items,
        "cold_items": int((cold & held_out).sum()),
        "items_without_interactions": int((~held_out).sum()),
    }
    for name, at in (("valid", built.split.valid_at), ("test", built.split.test_at)):
        targets = built.items[(built.offsets[:-1] + at)[at >= 0]]
        facts[f"{name}_targets"] = len(targets)
        facts[f"cold_{name}_targets"] = int(cold[targets].sum())
    facts["sha256"] = _content_digest(built)
    return facts


def _content_digest(built: Built) -> str:
    """SHA-256 over sequences, split, ids and texts, the same on every machine."""
    result = hashlib.sha256()
    for array in (
        built.offsets,
        built.items,
        built.split.train_end,
        built.split.valid_at,
        built.split.test_at,
    ):
        result.update(array.astype("<i8").tobytes())
    for texts in (built.user_ids, built.item_ids, built.texts):
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            result.update(len(data).to_bytes(8, "little") + data)
    return result.hexdigest()
