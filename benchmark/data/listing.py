"""The lines of `list datasets`: every recipe, and whether its files are on this machine.

Standard library only, as in `benchmark.data.recipe`, so that listing is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from benchmark.data.places import all_here
from benchmark.data.recipe import checked, entries
from methods.errors import UserError


class Listed(NamedTuple):
    """A line of `list datasets`."""

    name: str
    edition: str
    state: str
    """Whether the files are on this machine."""
    summary: str
    category: str = ""
    """Of a family of datasets, one a category; empty for others."""


def available(cache: Path) -> dict[str, Listed]:
    """Every recipe by name; one that cannot be read has its fault in place of the summary."""
    found: dict[str, Listed] = {}
    for name, entry in entries().items():
        try:
            raw = entry.content()
            edition, summary = (str(raw.get(key, "")) for key in ("edition", "summary"))
            state = _state(name, raw, entry.path, cache)
            found[name] = Listed(name, edition, state, summary, entry.category)
        except UserError as error:
            found[name] = Listed(name, "", "", f"unusable: {error}")
    return found


def _state(name: str, raw: dict[str, Any], path: Path, cache: Path) -> str:
    """Whether the files are here, to be fetched, or for the user to put somewhere."""
    try:
        recipe = checked(name, raw, path, None)
    except UserError:
        if "folder" in raw and "download" not in raw:
            return "not here"
        raise
    if recipe.format == "synthetic":
        return "generated"
    here = not recipe.files or all_here(name, None, recipe.files, cache)
    return "here" if here else "to fetch"
