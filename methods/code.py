"""A digest of a method's code, so that runs of different code are kept apart.

It covers the modules of the method's class and of its base classes, and all modules that these import from
their own packages. It ignores comments, docstrings and formatting, and does not depend on the version of
Python. It imports nothing, and misses modules that are imported by a computed name.
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
from importlib.machinery import ModuleSpec, PathFinder

LENGTH = 16
"""Hexadecimal digits of a digest."""
_IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}
"""Fields of a node that follow from its context, or that Python does not use."""


def code_digest(cls: type) -> str | None:
    """Digest of the code of the method `cls`; None where its source is missing."""
    own = __name__.partition(".")[0]
    first = cls.__module__.partition(".")[0]
    names = [base.__module__ for base in cls.__mro__]
    canonical_forms: dict[str, bytes] = {}
    waiting = [name for name in names if name.partition(".")[0] in {first, own}]
    while waiting:
        name = waiting.pop()
        if name in canonical_forms or (module := read_module(name)) is None:
            continue
        canonical_forms[name], imports = module
        waiting += imports
    if cls.__module__ not in canonical_forms:
        if (source := _class_source(cls)) is None:
            return None
        canonical_forms[cls.__module__] = canonical(source)
    digest = hashlib.sha256()
    for name, text in sorted(canonical_forms.items()):
        digest.update(f"{name} {hashlib.sha256(text).hexdigest()}\n".encode())
    return digest.hexdigest()[:LENGTH]


def canonical(source: str) -> bytes:
    """The syntax of `source` without comments, docstrings and formatting, the same in all versions of Python.

    `ast.dump` and `ast.unparse` differ between versions. Raises `SyntaxError`.
    """
    parts: list[str] = []
    waiting: list[object] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.AST):
            parts.append(f"{type(node).__name__}(")
            waiting.append(_END)
            waiting += [part for name, value in reversed(_fields(node)) for part in (value, _Token(name))]
        elif isinstance(node, list):
            parts.append("[")
            waiting.append(_END)
            waiting += reversed(node)
        else:
            parts.append(str(node) if isinstance(node, _Token) else f"{type(node).__name__} {node!a}")
    return "\n".join(parts).encode()


class _Token(str):
    """Text of the canonical form, as opposed to a string of the code."""


_END = _Token(")")


def _fields(node: ast.AST) -> list[tuple[str, object]]:
    """The fields of a node that have an effect."""
    fields: list[tuple[str, object]] = []
    for name, value in ast.iter_fields(node):
        kept = value
        if isinstance(value, list):
            kept = [child for child in value if not _without_effect(child, node)]
        empty = kept == [] or (kept is None and not isinstance(node, ast.Constant))
        if name not in _IGNORED and not empty:
            fields.append((name, kept))
    return fields


def _without_effect(node: object, parent: ast.AST) -> bool:
    """Whether a node is a lone string such as a docstring, `pass`, or an empty text in an f-string, which
    Python 3.12 adds."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(parent, ast.JoinedStr):
        return isinstance(node, ast.Constant) and node.value == ""
    return isinstance(node, ast.Pass)


@cache
def read_module(module: str) -> tuple[bytes, tuple[str, ...]] | None:
    """The canonical form of a module and what it imports of its own package; None where it has no source."""
    if (spec := _spec(module)) is None:
        return None
    try:
        source = spec.loader.get_source(module)  # type: ignore[union-attr]
        if source is None:
            return None
        package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
        return canonical(source), tuple(sorted(set(_imports(ast.parse(source), package, module))))
    except (AttributeError, ImportError, OSError, SyntaxError, ValueError):  # compiled, or without source
        return None


def _imports(tree: ast.AST, package: str, module: str) -> Iterator[str]:
    """Modules that `tree` may import of the package in which `module` lies, lazily or not."""
    top = module.partition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            full = importlib.util.resolve_name(base, package) if node.level else base
            inner = [f"{full}.{alias.name}" for alias in node.names]  # modules, or what is in the module
            names = [name if full.partition(".")[0] == top and _spec(name) else full for name in inner]
        yield from (name for name in names if name.partition(".")[0] == top)


def _spec(module: str) -> ModuleSpec | None:
    """The spec of a module below an imported package. Neither it nor its parents are imported."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__spec__", None)
    package = _spec(parent) if (parent := module.rpartition(".")[0]) else None
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(module, list(package.submodule_search_locations))


def _class_source(cls: type) -> str | None:
    """The source of a class whose module has none, as in a notebook."""
    try:
        return textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return None
