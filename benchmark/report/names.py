"""File names for what is reported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmark.report.rows import Group


def stems_of(found: Iterable[Group]) -> dict[str, Group]:
    """A file name for each table: `<dataset>-<llm>-<protocol>`, and a number from the second of a name on."""
    stems: dict[str, Group] = {}
    taken: set[str] = set()  # in lower case: some file systems do not tell cases apart
    for group in found:
        key = group.key
        name = "-".join(slug(part) for part in (key.dataset, key.llm or "none", key.protocol))
        number, stem = 1, name
        while stem.lower() in taken:
            number += 1
            stem = f"{name}-{number}"
        taken.add(stem.lower())
        stems[stem] = group
    return stems


def slug(name: str) -> str:
    """Part of a file name; of a path its last folder."""
    last = Path(name).name if Path(name).is_absolute() else name
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.") or "unnamed"
