"""Entry points of installed packages.

Code of other packages may fail in any way when it is read or imported; that must affect those packages alone.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path

BROKEN = (Exception, SystemExit)
"""What code of another package may raise when it is imported."""


def one_line(error: BaseException) -> str:
    """Kind and message of `error` on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@cache
def warn(line: str) -> None:
    """Print a warning to stderr, once per process."""
    print(f"warning: {line}", file=sys.stderr)


def offered(group: str) -> list[EntryPoint]:
    """The entry points of `group`, sorted by name; packages that cannot be read are left out."""
    return sorted(_read(group, tuple(map(_state, sys.path))), key=lambda point: (point.name, point.value))


def _state(folder: str) -> tuple[str, int | None]:
    """A place of packages, and when one was last installed there or removed."""
    try:
        return folder, Path(folder).stat().st_mtime_ns
    except OSError:  # importlib.metadata skips it too
        return folder, None


@cache
def _read(group: str, places: tuple[tuple[str, int | None], ...]) -> list[EntryPoint]:
    """The entry points of `group`, read once for each state of `places`: it opens a file of every package."""
    try:
        return list(entry_points(group=group))
    except Exception:  # the error does not say which package is broken
        points: list[EntryPoint] = []
    for distribution in distributions():
        try:
            points += distribution.entry_points.select(group=group)
        except Exception as error:
            name = distribution.metadata["Name"]
            warn(f"the entry points of {name} cannot be read ({type(error).__name__}); reinstall it.")
    return points
