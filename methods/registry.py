"""Names of methods and controls: the built-in ones and those of other packages, found by an entry point.

Nothing is imported until a method is asked for, so that `list` and `--help` answer at once. A package that is
broken, or that claims the name of another method, affects its own methods alone: where all methods are asked
for, it is left out with a warning of one line.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from methods.declared import class_nodes, declared_value
from methods.errors import UserError, unknown
from methods.plugins import BROKEN, offered, one_line, warn

if TYPE_CHECKING:
    from methods.base import Method
    from methods.controls.base import Control

GROUP = "adaptrec.methods"
ALL = "all"
"""In place of a name: every method and control."""


@dataclass(frozen=True)
class RegisteredMethod:
    """A name of a method and where its class is."""

    name: str
    target: str
    """`module:Class`."""
    distribution: str
    version: str
    external: bool
    problem: str = ""
    """Why it cannot be used (a name that is taken, a module that is missing), or empty."""

    @property
    def summary(self) -> str:
        """The problem, or the first line of the class's docstring."""
        if self.problem or not self._classes:
            return self.problem
        return (ast.get_docstring(self._classes[0][1]) or "").partition("\n")[0]

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of input that the class or a base class declares in `reads`; none where not known."""
        kinds = self._declared("reads") or ()
        return (kinds,) if isinstance(kinds, str) else tuple(kinds)

    @property
    def by_default(self) -> bool:
        """Whether it runs where no methods are named."""
        return self._declared("by_default") is not False

    def _declared(self, attribute: str) -> Any:
        """The literal that the class or a base class gives to `attribute`; None where there is none."""
        found = declared_value(self._classes, attribute)
        return None if found is None else ast.literal_eval(found[1])

    @property
    def trains(self) -> bool:
        """Whether it is a method that trains, not a control."""
        return not any(module == "methods.controls.base" for module, _ in self._classes)

    @cached_property
    def _classes(self) -> list[tuple[str, ast.ClassDef]]:
        """Its class and base classes with their modules, read without importing them, as far as found."""
        try:
            return [] if self.problem else list(class_nodes(*self.target.split(":")))
        except BROKEN:  # a list without a summary is better than none
            return []


def names() -> list[str]:
    """Every name that can be run, built-in ones first."""
    return [entry.name for entry in entries().values() if not entry.problem]


def chosen_names(given: Sequence[str] | None) -> list[str]:
    """The names that are `given`; those of the default for none, and every one for ALL.

    For these two it imports all methods; broken ones of other packages are left out.
    """
    if given and ALL not in given:
        return list(given)
    return [name for name, cls in _usable() if cls.by_default or given]


def hyperparameters() -> Iterator[set[str]]:
    """The hyper-parameters of each method, built-in ones first. Broken methods are left out.

    A method is imported only when the iterator reaches it.
    """
    for _, cls in _usable():
        yield {field.name for field in fields(cls.Config)}


def _usable() -> Iterator[tuple[str, type[Method] | type[Control]]]:
    for name in names():
        try:
            yield name, load(name)
        except UserError as error:
            if not entries()[name].external:
                raise
            warn(f"{error} It is left out.")


@cache
def entries() -> dict[str, RegisteredMethod]:
    """All registered names, those with a problem included. An external method never replaces another."""
    from methods import BUILTIN, CONTROLS

    try:
        own_version = version("adaptrec")
    except PackageNotFoundError:
        own_version = "not installed"
    registered = {
        name: RegisteredMethod(name, target, "adaptrec", own_version, external=False)
        for name, target in {**BUILTIN, **CONTROLS}.items()
    }
    for point in offered(GROUP):
        target = "".join(point.value.partition("[")[0].split())  # without extras and spaces
        source = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
        problem = _problem(point.name, target)
        entry = RegisteredMethod(point.name, target, *source, external=True, problem=problem)
        clash = registered.setdefault(entry.name, entry)
        if clash.target != entry.target:
            problem = f"the name '{entry.name}' is already taken by {clash.distribution} ({clash.target})"
            registered[f"{entry.name} ({entry.distribution})"] = replace(entry, problem=problem)
            if clash.external:  # the order of installation does not decide between two external methods
                problem = f"the name is also claimed by {entry.distribution} ({entry.target})"
                registered[entry.name] = replace(clash, problem=problem)
    return registered


def entry(name: str) -> RegisteredMethod:
    """The entry of `name`. Raises `UserError` where it is unknown, taken twice or broken."""
    if (own := entries().get(name)) is None:
        raise unknown("method", name, names(), "`adaptrec list methods` describes them.")
    for other in entries().values():
        if other.name == own.name and other.problem:
            line = f"method '{own.name}' from {other.distribution}: {other.problem}. Uninstall or rename it."
            if own.problem or own.external:
                raise UserError(line)
            warn(line)
    return own


def controls() -> list[str]:
    """Names of all controls without training. Broken ones of other packages are left out."""
    from methods.controls.base import Control

    return [name for name, cls in _usable() if issubclass(cls, Control)]


def get(name: str) -> type[Method]:
    """The class of method `name`, as `load` gives it. Raises `UserError` also where `name` is a control."""
    from methods.base import Method

    cls = load(name)
    if not issubclass(cls, Method):
        raise UserError(f"'{name}' is a control without training; this needs a method that trains.")
    return cls


def load(name: str) -> type[Method] | type[Control]:
    """Import the method or control `name`. Raises `UserError` where that fails or its class is not valid."""
    from methods.declarations import check_class

    registered = entry(name)
    module, _, attribute = registered.target.partition(":")
    source = f"method '{name}' from {registered.distribution}"
    try:
        cls: type[Method] | type[Control] = getattr(importlib.import_module(module), attribute)
    except BROKEN as error:
        reason = f"importing {registered.target} raised {one_line(error)}"
        raise UserError(f"{source} cannot be loaded: {reason}.") from error
    try:
        check_class(cls)
    except AssertionError as error:
        raise UserError(f"{source} cannot be used: {error}.") from error
    return cls


def _problem(name: str, target: str) -> str:
    """Why `target` cannot be offered as `name`, or empty."""
    if name == ALL:
        return f"the name '{ALL}' means every method"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        return "the name of a method may hold letters, digits, '.', '_' and '-' only"
    if not re.fullmatch(r"[\w.]+:\w+", target):
        return f"its entry point '{target}' is not of the form module:Class"
    module = target.partition(":")[0]
    try:
        return "" if importlib.util.find_spec(module) else f"there is no module '{module}'"
    except BROKEN as error:  # find_spec imports the packages that contain the module
        return f"module '{module}' cannot be found: {one_line(error)}"
