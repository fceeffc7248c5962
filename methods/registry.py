"""Names of methods: the built-in ones and those that other packages offer through an entry point.

Nothing is imported until a method is asked for, so that `list` and `--help` answer at once. A package that is
broken, or that claims the name of another method, affects its own methods alone: where it would be used among
others it is left out, with a warning in one line.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from methods.errors import UserError, unknown
from methods.plugins import BROKEN, offered, warn

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


def default_names() -> list[str]:
    """The names that "every method" means. Imports all; broken ones of other packages are left out."""
    return [name for name, cls in _usable() if cls.by_default]


def hyperparameters() -> Iterator[set[str]]:
    """The hyper-parameters of each method, built-in ones first: those of other packages are imported only
    if the caller asks for more. Broken ones are left out."""
    for _, cls in _usable():
        yield {field.name for field in fields(cls.Config)}


def _usable() -> Iterator[tuple[str, type[Method]]]:
    for name in names():
        try:
            yield name, get(name)
        except UserError as error:
            if not entries()[name].external:
                raise
            warn(f"{error} It is left out.")


@cache
def entries() -> dict[str, Entry]:
    """All registered names, the broken ones included. An outsider never replaces a name."""
    from methods import BUILTIN

    found = {
        name: Entry(name, target, "adaptrec", _version("adaptrec"), external=False)
        for name, target in BUILTIN.items()
    }
    for point in offered(GROUP):
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
    own = everything.get(name)
    if own is None:
        raise unknown("method", name, names(), "`adaptrec list methods` describes them.")
    for found in everything.values():
        if found.name == own.name and found.problem:
            line = f"method '{own.name}' from {found.distribution}: {found.problem}. Uninstall or rename it."
            if own.problem or own.external:
                raise UserError(line)
            warn(line)
    return own


def get(name: str) -> type[Method]:
    """Import the class of method `name`."""
    from methods.declarations import check_class, line

    found = entry(name)
    module, _, attribute = found.target.partition(":")
    try:
        cls: type[Method] = getattr(importlib.import_module(module), attribute)
    except BROKEN as error:
        reason = f"importing {found.target} raised {line(error)}"
        raise UserError(f"method '{name}' from {found.distribution} cannot be loaded: {reason}.") from error
    try:
        check_class(cls)
    except AssertionError as error:
        raise UserError(f"method '{name}' from {found.distribution} cannot be used: {error}.") from error
    return cls


def _external(point: EntryPoint) -> Entry:
    distribution = point.dist.name if point.dist else "unknown"
    number = point.dist.version if point.dist else "unknown"
    target = "".join(point.value.partition("[")[0].split())  # without extras and spaces, which may be there
    return Entry(
        point.name, target, distribution, number, external=True, problem=_problem(point.name, target)
    )


def _problem(name: str, target: str) -> str:
    """Why `target` cannot be offered as `name`, or nothing."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        return "the name of a method may hold letters, digits, '.', '_' and '-' only"
    if not re.fullmatch(r"[\w.]+:\w+", target):
        return f"its entry point '{target}' is not of the form module:Class"
    module = target.partition(":")[0]
    try:
        return "" if importlib.util.find_spec(module) else f"there is no module '{module}'"
    except BROKEN as error:  # looking runs the packages that the module lies in
        return f"module '{module}' cannot be found: {type(error).__name__}: {' '.join(str(error).split())}"


def _summary(module: str, attribute: str) -> str:
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else None
    except BROKEN:  # the summary is a courtesy
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
