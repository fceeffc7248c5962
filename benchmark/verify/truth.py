"""L3, truth: with the data at hand, targets and masks are right, and no figure is above a known ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.chance import chance_of
from benchmark.data.filters import Ints, distinct_before, in_training, target_positions
from benchmark.data.prepare import Prepared
from benchmark.results.metrics import Floats, Ranks, chance, measure, metrics_of
from benchmark.results.record import ALWAYS, ranks_path
from benchmark.results.schema import METRICS
from benchmark.results.targets import NO_ITEM, POSITION, StoredLists, read_columns
from benchmark.verify.arithmetic import EXACT
from benchmark.verify.format import shown
from benchmark.verify.opened import BundledRun
from methods.errors import UserError

LUCK = 4.0
"""Standard errors over users by which a figure may lie above what can be expected at best."""
COUNTS = (
    "users", "items", "interactions", "valid_targets", "test_targets", "valid_users", "test_users",
    "cold_items", "cold_valid_targets", "cold_test_targets",
)  # fmt: skip
BESIDE = ("name", "source", "notes", "expected", "given")
"""Fields of the recipe in a record that are no options."""


@dataclass
class RunOnData:
    """A run and its data."""

    run: BundledRun
    data: Prepared

    @cached_property
    def targets(self) -> tuple[Ints, Ints]:
        """User and position of each test target, by user and then by time: two of `[T]`."""
        at = np.where(self.data.test_at > 0, self.data.test_at, -1)
        return target_positions(at, self.data.test_end)

    @cached_property
    def target_items(self) -> NDArray[np.int32]:
        """`[T]` the item of each test target."""
        user, position = self.targets
        items: NDArray[np.int32] = self.data.items[self.data.offsets[user] + position]
        return items

    @cached_property
    def distinct(self) -> Ints:
        """`[T]` distinct items in the history of each target, itself left out."""
        return distinct_before(self.data.items, self.data.offsets, len(self.data.texts), *self.targets)

    @property
    def is_cold(self) -> NDArray[np.bool_]:
        """`[T]` whether the target never occurs in training."""
        return ~np.isin(self.target_items, self.data.trained)


def at_hand(runs: Sequence[BundledRun], data: Sequence[Prepared]) -> list[RunOnData]:
    """The data of every run are at hand, with the content that its record states."""
    named = {prepared.name: prepared for prepared in data}
    pairs = []
    for run in runs:
        own: dict[str, Any] = run.record.data["fingerprint"]
        alike = (prepared for prepared in data if prepared.fingerprint["sha256"] == own.get("sha256"))
        prepared = named.get(run.record.dataset) or next(alike, None)
        if prepared is None:
            raise run.fail(f"its data are not at hand; name {shown(run.record.dataset)} by --data.")
        if prepared.fingerprint["sha256"] != own.get("sha256"):
            stated, found = str(own.get("sha256"))[:16], prepared.fingerprint["sha256"][:16]
            raise run.fail(
                f"its data have content {shown(stated)}, and those at hand {found}: they are other data "
                "under the same name."
            )
        for name in COUNTS:
            if name in own and own[name] != (count := prepared.fingerprint.get(name)):
                raise run.fail(f"its fingerprint has {own[name]} {name}, and the data have {count}.")
        pairs.append(RunOnData(run, prepared))
    return pairs


def recipe(on: RunOnData) -> None:
    """Its data were made by the recipe's options, and have the key, of those at hand."""
    run, stated = on.run, on.run.record.data
    own, found = (_options(options) for options in (stated.get("recipe") or {}, on.data.recipe))
    for name in sorted(own.keys() | found.keys()):
        if own.get(name) != found.get(name):
            raise run.fail(
                f"its data were made with {shown(name)} {shown(own.get(name))}, and those at hand with "
                f"{shown(found.get(name))}."
            )
    if (key := stated.get("key")) != on.data.key:
        raise run.fail(
            f"its data have the key {shown(key)}, and those at hand {on.data.key}: they are of other "
            "files, or prepared by another version."
        )


def _options(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe decides how the data look, and so enters their key."""
    return {name: value for name, value in stated.items() if name not in BESIDE}


def targets(on: RunOnData) -> None:
    """The ranks and lists are of the test targets of the data, the lists with its counts of items."""
    run, (user, position) = on.run, on.targets
    if not np.array_equal(run.ranks.user, user):
        raise run.fail("its ranks are of other users than those with test targets.")
    several = len(np.unique(user)) < len(user)
    if several and not np.array_equal(
        read_columns(ranks_path(run.path), [POSITION]).values[POSITION], position
    ):
        raise run.fail("its ranks are of other positions than those of the test targets.")
    if (cold := int(on.is_cold.sum())) != run.record.cold_targets:
        raise run.fail(f"it counts {run.record.cold_targets} cold test targets, and the data have {cold}.")
    if (lists := run.stored.lists) is not None:
        if not np.array_equal(lists.history, position) or not np.array_equal(lists.target, on.target_items):
            raise run.fail("its lists have other targets than the data.")
        _check_counts(on, lists)


def _check_counts(on: RunOnData, lists: StoredLists) -> None:
    """Older lists know the counts of those items alone that stand in them, and the sum of all."""
    data = on.data
    trained = np.bincount(data.items[in_training(data.offsets, data.train_end)], minlength=len(data.texts))
    same = lists.catalogue == len(trained) and lists.interactions == trained.sum()
    if not same or (lists.trained != trained)[lists.trained > 0].any():
        raise on.run.fail("the training interactions of items in its lists are not those of the data.")


def masks(on: RunOnData) -> None:
    """Masking moved no rank by more than the user's history has items, and no list has one of them."""
    run, distinct = on.run, on.distinct
    raw, masked = run.ranks.raw, run.ranks.masked
    moved: NDArray[Any]
    last: NDArray[Any]
    if isinstance(raw, Ranks) and isinstance(masked, Ranks):
        moved = raw.best - masked.best + raw.tied - masked.tied
        last = masked.best + masked.tied - 1
    else:
        assert not isinstance(raw, Ranks) and not isinstance(masked, Ranks)
        moved, last = raw - masked, masked
    if (wrong := moved > distinct).any():
        user = run.ranks.user[wrong][0]
        raise run.fail(f"masking moves the rank of user {user} by more than the history has items.")
    if (wrong := last > run.items - distinct).any():
        user = run.ranks.user[wrong][0]
        raise run.fail(f"a masked rank of user {user} lies beyond the items that masking leaves.")
    if (lists := run.stored.lists) is not None and (user := _user_with_history(on, lists)) is not None:
        raise run.fail(f"the list of user {user} has an item of the user's history.")


def _user_with_history(on: RunOnData, lists: StoredLists) -> int | None:
    """The first user in whose list an item of the history stands, the target aside."""
    user, position = on.targets
    for row, (one, length) in enumerate(zip(user, position, strict=True)):
        begin = on.data.offsets[one]
        items = lists.items[row]
        own = items[(items != NO_ITEM) & (items != lists.target[row])]
        if np.isin(own, on.data.items[begin : begin + length]).any():
            return int(one)
    return None


def parts(on: RunOnData) -> None:
    """Metrics of warm and cold test targets are there where the data have both, as the ranks give them."""
    run, is_cold, stated = on.run, on.is_cold, on.run.record.metrics
    weight = run.ranks.weight
    several = bool((weight < 1).any())
    total = float(weight[is_cold].sum()) if several else None
    if (own := run.record.cold_weight) is not None and (total is None or not abs(own - total) <= EXACT):
        raise run.fail(f"its cold test targets weigh {own!r}, and those of the data {total!r}.")
    chosen = {"warm": ~is_cold, "cold": is_cold} if is_cold.any() else {}
    expected = {f"test_{part}": mask for part, mask in chosen.items() if mask.any()}
    names = {f"{part}{form}" for part in expected for form in ("", "_masked")}
    if unknown := sorted(stated.keys() - names - {*ALWAYS}):
        raise run.fail(f"it has metrics of {shown(unknown[0])}, of which the data have no targets.")
    for split, ranks in run.splits.items():
        for part, mask in expected.items():
            name = part + split.removeprefix("test")
            if name not in stated:
                raise run.fail(f"it has no metrics of {name}, of which the data have {mask.sum():,} targets.")
            again = metrics_of(ranks[mask], [*stated[name]], weight[mask])
            for metric, value in again.items():
                if not abs((own := stated[name][metric]) - value) <= EXACT:
                    raise run.fail(f"{name} {metric} is {own!r}, and its ranks give {value!r}.")


def random_order(on: RunOnData) -> None:
    """What it states of a random order of the catalogue is what the data give."""
    stated, again = on.run.record.data.get("chance"), chance_of(on.data)
    if not isinstance(stated, dict) or stated.keys() != again.keys():
        raise on.run.fail("it does not state what a random order gives on each split.")
    for split, values in again.items():
        for name, value in values.items():
            if not abs((own := stated[split][name]) - value) <= EXACT:
                raise on.run.fail(
                    f"its {split} {name} of a random order is {own!r}, and its data give {value!r}."
                )


def ceiling(on: RunOnData) -> None:
    """On a planted set no test figure is above the best possible one by more than 4 standard errors."""
    best = on.data.ceiling
    if best is None:
        return
    if on.run.record.data.get("ceiling") != best:
        raise on.run.fail("it states another ceiling than its planted data have.")
    every = np.ones(len(on.target_items), dtype=bool)
    for split, ranks in on.run.splits.items():
        _check_below(on, split, ranks, every, best["test"], "the best possible one")


def cold(on: RunOnData) -> None:
    """Where texts are shuffled, cold items are ranked no better than by chance among themselves."""
    # a scorer may well put all cold items first; which of them is the target, nothing can tell
    if not on.data.recipe.get("synthetic", {}).get("shuffle_texts") or not on.is_cold.any():
        return
    among = len(on.data.texts) - len(on.data.trained) - 1  # one less where a history has one of them
    best = chance(np.array([max(1, among)]))
    for split, ranks in on.run.splits.items():
        _check_below(on, split, ranks, on.is_cold, best, "chance among cold items, whose texts are shuffled,")


def _check_below(
    on: RunOnData,
    split: str,
    ranks: Ranks | Floats,
    chosen: NDArray[np.bool_],
    best: dict[str, float],
    what: str,
) -> None:
    """The figures of `chosen` targets `[T]` are not above the `best` by more than luck."""
    weight = on.run.ranks.weight[chosen]
    _, user = np.unique(on.run.ranks.user[chosen], return_inverse=True)
    for name in METRICS:
        gains = measure(name).gains(ranks)[chosen]
        value = float(np.average(gains, weights=weight))
        apart = np.bincount(user, weights=weight * (gains - value))  # [U]
        error = float(np.sqrt((apart**2).sum()) / weight.sum())
        if value > best[name] + LUCK * error:
            raise on.run.fail(
                f"its {split} {name} is {value:.4f}; {what} is {best[name]:.4f}, and {LUCK:g} standard "
                f"errors are {LUCK * error:.4f}."
            )


CHECKS = (recipe, targets, masks, parts, random_order, ceiling, cold)


def prepared_data(names: Sequence[str], reading: Any) -> list[Prepared]:
    """The data of these names or folders, prepared where they are not yet. Raises `UserError` as they do."""
    from benchmark.data.catalogue import find
    from benchmark.data.prepare import prepare
    from benchmark.files import cache_folder

    found: list[Prepared] = []
    for name in names:
        prepared = prepare(find(name, reading), cache_folder())
        if prepared.name in {other.name for other in found}:
            raise UserError(f"--data names '{prepared.name}' twice; give it once.")
        found.append(prepared)
    return found
