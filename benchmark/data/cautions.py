"""What a user should know of a dataset before trusting its numbers, from its fingerprint; a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.data.delimited import MERGED
from benchmark.data.recipe import Recipe

COUNTED = ("share_equal_times", "texts_like_missing")
"""Facts of a fingerprint that earlier versions did not count."""
MISSING_WORDS = (
    "nan", "null", "none", "nil", "n/a", "#n/a", "na", "<na>", "nat", "undefined", "-", "--", "?",
)  # fmt: skip
"""How programs write a value that is missing."""
MANY_EQUAL_TIMES = 0.5
LARGE_CHANCE = 0.2
"""Recall@10 of a random order from which a catalogue is small."""


def cautions(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    """The lines for a dataset; a fact that an earlier version did not count is passed over."""
    found = _mismatches(recipe, facts)
    if (share := facts.get("share_equal_times", 0)) >= MANY_EQUAL_TIMES:
        found.append(
            f"{recipe.name}: {share:.0%} of neighbouring interactions of a user have equal times; their "
            "order is that of the file, so make sure that the file is in the order in which they happened"
        )
    if count := facts.get("texts_like_missing", 0):
        found.append(
            f"{recipe.name}: {count:,} of {facts['items']:,} texts look like missing values (such as nan, "
            "null or n/a); leave the field empty where an item has no text"
        )
    found += [
        f"{recipe.name}: {count:,} {what}"
        for what, count in facts["repairs"].items()
        if what.startswith(MERGED)
    ]
    if (chance := 10 / facts["items"]) >= LARGE_CHANCE:
        found.append(
            f"{recipe.name}: a random order of the {facts['items']} items reaches a Recall@10 of "
            f"{min(chance, 1):.2f}; so small a catalogue hardly tells methods apart"
        )
    return found


def _mismatches(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    """A line that names the counts that are not the expected ones, where there are any."""
    expected = recipe.expected or {}
    other = [
        f"{facts[name]:,} {name}, not {count:,}" for name, count in expected.items() if facts[name] != count
    ]
    if not other:
        return []
    return [
        f"{recipe.name} has {'; '.join(other)}, as its recipe expects: other files or other options than "
        "the published set's"
    ]
