"""A digest of a method's code, so that a run of edited code is not taken for a run of today's.

It covers the modules of the method's class and of its base classes, and all that these import from their
own packages. Comments, docstrings and formatting do not count, nor does the version of Python that reads the
code.
Nothing is imported for it. A module that is imported by a computed name is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec

LENGTH = 16
"""Hexadecimal digits of a digest."""
_IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}
"""Fields of a node that follow from its place, or that only tools other than Python read."""


def code_digest(cls: type) -> str | None:
    """Digest of the code of the method `cls`, worked out once a process; None where no source is there."""
    return _digest(cls)


@cache
def _digest(cls: type) -> str | None:
    own = __name__.partition(".")[0]
    first = cls.__module__.partition(".")[0]
    classes = [one for one in cls.__mro__ if one.__module__.partition(".")[0] in {first, own}]
    found: dict[str, bytes] = {}
    waiting = [one.__module__ for one in classes]
    while waiting:
        name = waiting.pop()
        if name in found or (read := _read(name)) is None:
            continue
        found[name], imports = read
        waiting += imports
    if cls.__module__ not in found:
        if (source := _class_source(cls)) is None:
            return None
        found[cls.__module__] = canonical(source)
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(f"{name} {hashlib.sha256(found[name]).hexdigest()}\n".encode())
    return whole.hexdigest()[:LENGTH]


def canonical(source: str) -> bytes:
    """The syntax of `source` without comments, docstrings and formatting, the same in all versions of Python.

    Not by `ast.dump` or `ast.unparse`, which differ between versions. Raises `SyntaxError`.
    """
    parts: list[str] = []
    waiting: list[object] = [ast.parse(source)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, ast.AST):
            parts.append(f"{type(one).__name__}(")
            waiting.append(_END)
            waiting += [part for name, value in reversed(_fields(one)) for part in (value, _Name(name))]
        elif isinstance(one, list):
            parts.append("[")
            waiting.append(_END)
            waiting += reversed(one)
        else:
            parts.append(str(one) if isinstance(one, _Name) else f"{type(one).__name__} {one!a}")
    return "\n".join(parts).encode()


class _Name(str):
    """Text of the canonical form itself, as opposed to a string of the code."""


_END = _Name(")")


def _fields(node: ast.AST) -> list[tuple[str, object]]:
    """What a node says: its fields without those that say nothing."""
    found: list[tuple[str, object]] = []
    for name, value in ast.iter_fields(node):
        said = [one for one in value if not _says_nothing(one, node)] if isinstance(value, list) else value
        nothing = said == [] or (said is None and not isinstance(node, ast.Constant))
        if name not in _IGNORED and not nothing:
            found.append((name, said))
    return found


def _says_nothing(node: object, above: ast.AST) -> bool:
    """Whether a statement is a string alone, such as a docstring, or `pass`; in an f-string, an empty text,
    which Python 3.12 puts there."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(above, ast.JoinedStr):
        return isinstance(node, ast.Constant) and node.value == ""
    return isinstance(node, ast.Pass)


@cache
def _read(module: str) -> tuple[bytes, tuple[str, ...]] | None:
    """The canonical form of a module and what it imports of its own package; None where it has no source."""
    if (spec := _spec(module)) is None:
        return None
    try:
        source = spec.loader.get_source(module)  # type: ignore[union-attr]
        if source is None:
            return None
        package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
        return canonical(source), tuple(sorted(set(_imports(ast.parse(source), package, module))))
    except (AttributeError, ImportError, OSError, SyntaxError, ValueError):  # compiled, or no source at hand
        return None


def _imports(tree: ast.AST, package: str, module: str) -> Iterator[str]:
    """Modules that `tree` may import of the package in which `module` lies, lazily or not."""
    top = module.partition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            full = importlib.util.resolve_name(base, package) if node.level else base
            names = []
            for alias in node.names:  # a module of the package, or something in it
                inner = f"{full}.{alias.name}"
                names.append(inner if full.partition(".")[0] == top and _spec(inner) else full)
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == top)


def _spec(module: str) -> ModuleSpec | None:
    """Where a module comes from; neither it nor its parents are imported."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__spec__", None)
    path = None
    if parent := module.rpartition(".")[0]:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and (found := find(module, path)) is not None:
            return found  # type: ignore[no-any-return]
    return None


def _class_source(cls: type) -> str | None:
    """Of a class whose module has no source that can be found, as in a notebook."""
    try:
        return textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return None
