"""What a class declares, read from its source: nothing of it is imported, so that neither torch is."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from methods.fields import later, renamed


def class_nodes(module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """The class `name` of `module`, which may import it from another, and its base classes, each with its
    module."""
    tree, package = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield module, node
            for base in node.bases:
                if isinstance(base, ast.Name):
                    yield from class_nodes(module, base.id)
        elif (source := _import_of(node, name, package)) is not None:
            yield from class_nodes(*source)


def declared_value(nodes: Iterable[tuple[str, ast.ClassDef]], attribute: str) -> tuple[str, ast.expr] | None:
    """What the first of these classes that declares `attribute` gives it, and its module; None for none."""
    for module, node in nodes:
        for statement in node.body:
            match statement:
                case (
                    ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                    | ast.Assign(targets=[ast.Name(id=name)], value=value)
                ) if name == attribute:
                    return module, value
    return None


def declared_config(target: str) -> type[Any]:
    """A dataclass like the `Config` of the class `module:Class`: its fields with their defaults, and what
    `methods.fields.hashed` reads of them.

    Raises ValueError for a declaration in another form than those of the methods of this project.
    """
    found = declared_value(class_nodes(*target.split(":")), "Config")
    if found is None or not isinstance(found[1], ast.Name):
        raise ValueError(f"{target} names no class as its Config")
    fields: dict[str, Any] = {}
    for module, node in reversed([*class_nodes(found[0], found[1].id)]):  # a subclass after its base
        for statement in node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    fields[name] = _field(module, value)
    return dataclasses.make_dataclass("Declared", [(name, Any, value) for name, value in fields.items()])


def _field(module: str, value: ast.expr) -> Any:
    """The field of a dataclass with this default."""
    match value:
        case ast.Call(func=ast.Name(id="later"), args=[default]):
            return later(ast.literal_eval(default))
        case ast.Call(func=ast.Name(id="field"), keywords=keywords):
            given = {keyword.arg: keyword.value for keyword in keywords}
            default = ast.literal_eval(given.pop("default"))
            metadata = _renamed(module, given.pop("metadata"))
            if given:
                raise ValueError(f"{module}: unknown parts of a field: {', '.join(map(str, given))}")
            return dataclasses.field(default=default, metadata=metadata)
    return dataclasses.field(default=ast.literal_eval(value))


def _renamed(module: str, value: ast.expr) -> Mapping[str, Any]:
    """Metadata that `renamed` gives, as written or under a name that the module has or imports."""
    match value:
        case ast.Call(func=ast.Name(id="renamed"), args=[names]):
            return renamed(ast.literal_eval(names))
        case ast.Name(id=name):
            tree, package = _parsed(module)
            for node in tree.body:
                match node:
                    case ast.Assign(targets=[ast.Name(id=own)], value=inner) if own == name:
                        return _renamed(module, inner)
                if (source := _import_of(node, name, package)) is not None:
                    return _renamed(source[0], ast.Name(source[1]))
    raise ValueError(f"{module}: {ast.unparse(value)} is no metadata of a field")


def _import_of(node: ast.stmt, name: str, package: str | None) -> tuple[str, str] | None:
    """Module and name there, where the statement imports what `name` is here."""
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if name == (alias.asname or alias.name):
                source = "." * node.level + (node.module or "")
                return importlib.util.resolve_name(source, package), alias.name
    return None


def _parsed(module: str) -> tuple[ast.Module, str | None]:
    """The syntax of a module, empty where it has no source, and the package in which it stands."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ast.Module([], []), None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8")), spec.parent
