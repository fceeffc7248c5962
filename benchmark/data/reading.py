"""How the command line says that the folder of a dataset is to be read: --recipe, --columns, --separator.

Standard library only, as in `benchmark.data.recipe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

COLUMNS = ("user_id", "item_id", "timestamp")
"""Columns of the interactions; the items have `item_id` and texts."""


@dataclass(frozen=True)
class Reading:
    """What the command line adds to a folder; nothing where no option is given."""

    recipe: str = ""
    """The recipe whose options hold for the folder."""
    columns: tuple[tuple[str, str], ...] = ()
    """(name that this project uses, column of the files that has it)."""
    separator: str = ""
    """The character between the fields of a line."""

    def words(self) -> list[str]:
        """The options as a command line has them; empty where there is none."""
        mapped = ",".join(f"{name}={column}" for name, column in self.columns)
        given = {"recipe": self.recipe, "columns": mapped, "separator": self.separator}
        return [f"--{option}={value}" for option, value in given.items() if value]

    def over(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a recipe, with the columns and the separator of the command line before them."""
        found = dict(options)
        if self.columns:
            found["columns"] = {**found.get("columns", {}), **dict(self.columns)}
        if self.separator:
            found["separator"] = self.separator
        return found


PLAIN = Reading()
"""No option is given."""


def mapping_hint(needed: Iterable[str], have: Iterable[str]) -> str:
    """What to do about columns that have other names: an option to copy, the likely columns filled in."""
    import difflib
    import shlex

    columns = list(have)
    likely = ((name, difflib.get_close_matches(name, columns, n=1)) for name in needed)
    pairs = ",".join(f"{name}={near[0] if near else 'COLUMN'}" for name, near in likely)
    return f"name yours with --columns {shlex.quote(pairs)}, or in a table [columns] of recipe.toml"
