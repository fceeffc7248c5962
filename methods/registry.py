"""Names of methods: the built-in ones and those that other packages offer through an entry point.

Nothing is imported until a method is asked for, so that `list` and `--help` answer at once.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING

from methods.errors import UserError, unknown

if TYPE_CHECKING:
    from methods.base import Method

GROUP = "adaptrec.methods"


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    name: str
    target: str
    """`module:Class`."""
    distribution: str
    version: str
    external: bool
    problem: str = ""
    """Why it cannot be used (a clash, a module that is missing), or empty."""

    @property
    def summary(self) -> str:
        """First line of the class's docstring, read without importing it."""
        return self.problem or _summary(*self.target.split(":"))


def names() -> list[str]:
    """Every name that can be run, built-in ones first."""
    return [entry.name for entry in entries().values() if not entry.problem]


@cache
def entries() -> dict[str, Entry]:
    """All registered names, the broken ones included. An outsider never replaces a name."""
    from methods import BUILTIN

    found = {
        name: Entry(name, target, "adaptrec", _version("adaptrec"), external=False)
        for name, target in BUILTIN.items()
    }
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        entry = _external(point)
        clash = found.get(entry.name)
        if clash is None:
            found[entry.name] = entry
        elif clash.target != entry.target:
            problem = f"the name '{entry.name}' is already taken by {clash.distribution} ({clash.target})"
            key = f"{entry.name} ({entry.distribution})"
            found[key] = Entry(
                entry.name, entry.target, entry.distribution, entry.version, external=True, problem=problem
            )
            if clash.external:  # neither of two outsiders wins by the order of installation
                found[entry.name] = Entry(
                    clash.name, clash.target, clash.distribution, clash.version, external=True,
                    problem=f"the name is also claimed by {entry.distribution} ({entry.target})",
                )  # fmt: skip
    return found


def entry(name: str) -> Entry:
    """The entry of `name`; raises `UserError` for an unknown, clashing or broken one."""
    everything = entries()
    for found in everything.values():
        if found.name == name and found.problem:
            raise UserError(
                f"method '{name}' from {found.distribution}: {found.problem}. Uninstall or rename it."
            )
    if name not in everything:
        raise unknown("method", name, names(), "`adaptrec list methods` describes them.")
    return everything[name]


def get(name: str) -> type[Method]:
    """Import the class of method `name`."""
    from methods.base import Method

    found = entry(name)
    module, _, attribute = found.target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"method '{name}' from {found.distribution} cannot be loaded: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise UserError(f"method '{name}': {found.target} is not a subclass of methods.base.Method")
    if getattr(cls, "reads", None) not in ("states", "tokens", "ids"):
        raise UserError(f"method '{name}': `reads` must be 'states', 'tokens' or 'ids'")
    return cls


def _external(point: EntryPoint) -> Entry:
    distribution = point.dist.name if point.dist else "unknown"
    number = point.dist.version if point.dist else "unknown"
    module, _, attribute = point.value.partition(":")
    if not attribute:
        problem = f"its entry point '{point.value}' is not of the form module:Class"
        return Entry(point.name, point.value, distribution, number, external=True, problem=problem)
    try:
        problem = "" if importlib.util.find_spec(module) else f"there is no module '{module}'"
    except Exception as error:  # a broken package must not take `list` down with it
        problem = f"module '{module}' cannot be found: {error}"
    return Entry(point.name, point.value, distribution, number, external=True, problem=problem)


def _summary(module: str, attribute: str) -> str:
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else None
    except Exception:  # the summary is a courtesy
        return ""
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
