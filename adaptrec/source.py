"""The source of a class and of what it uses of its module, as a module of its own."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import os
import site
import symtable
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from benchmark.process.startup import ROOT
from methods.errors import UserError

CELLS = "_ih"
"""Where IPython keeps the text of all cells that were executed, as Python."""


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement at the top level of a module or of a cell."""

    text: str
    node: ast.stmt
    defines: frozenset[str]
    """Names that it gives a value."""


def source_of(cls: type) -> str:
    """The text of a module with `cls` and what it uses: imports, functions, classes and values that
    statements at the top level define.

    Of several definitions of a name the last one counts. Raises `UserError` where the source cannot be found,
    or uses what other processes cannot have.
    """
    if "." in cls.__qualname__:
        raise UserError(
            f"class {cls.__name__} is defined inside {cls.__qualname__.partition('.')[0]}; define it at the "
            "top level of the notebook or file, so that other processes can have it."
        )
    module = sys.modules.get(cls.__module__)
    texts = _texts(module) if module else []
    statements = [statement for text in texts for statement in _statements(text)]
    last = {name: statement for statement in statements for name in statement.defines}
    if module is None or cls.__name__ not in last:
        raise UserError(
            f"Python does not know the source of class {cls.__name__}; define it in a notebook, a script or "
            "a module."
        )
    needed = _needed(cls.__name__, last, module)
    imports = [one for one in statements if isinstance(one.node, ast.Import | ast.ImportFrom)]
    kept = [one for one in imports if one in needed or _always(one.node)]
    _check_imports(cls, kept)
    first = sorted(kept, key=lambda one: not _is_future(one.node))
    others = [one for one in needed if one not in kept]
    head = "\n".join(dict.fromkeys(one.text for one in first))
    return "\n\n\n".join([*([head] if head else []), *(one.text for one in others)]) + "\n"


def _texts(module: ModuleType) -> list[str]:
    """The cells of a notebook in the order of execution, or the text of a file."""
    cells = vars(module).get(CELLS)
    if isinstance(cells, list):
        return [str(cell) for cell in cells]
    try:
        return [inspect.getsource(module)]
    except (OSError, TypeError):
        return []


def _statements(text: str) -> Iterator[Statement]:
    try:
        body = ast.parse(text).body
    except SyntaxError:  # a cell that was executed with an error
        return
    lines = text.splitlines()
    for node in body:
        decorators = getattr(node, "decorator_list", [])
        first = min(part.lineno for part in (node, *decorators))
        whole = "\n".join(lines[first - 1 : node.end_lineno])
        segment = whole if decorators else ast.get_source_segment(text, node) or whole
        yield Statement(segment, node, frozenset(_defined(node)))


def _defined(node: ast.AST) -> Iterator[str]:
    """The names that a statement defines outside functions and classes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
    elif not isinstance(node, ast.Lambda | ast.comprehension):
        for part in ast.iter_child_nodes(node):
            yield from _defined(part)


def _needed(name: str, last: dict[str, Statement], module: ModuleType) -> list[Statement]:
    """The statement that defines `name`, after all that it uses, each once."""
    done: dict[Statement, None] = {}
    begun: set[Statement] = set()

    def add(statement: Statement) -> None:
        if statement in begun:  # functions may call each other
            return
        begun.add(statement)
        for used in sorted(_used(statement.text)):
            if used in last:
                add(last[used])
            elif not hasattr(builtins, used) and used in vars(module) and not used.startswith("__"):
                raise UserError(
                    f"class {name} uses '{used}', which no statement at the top level of its module or "
                    "notebook defines; define it there."
                )
        done[statement] = None

    add(last[name])
    return list(done)


def _used(text: str) -> set[str]:
    """The names of the module that a statement reads, at once or when its functions are called."""
    top = symtable.symtable(text, "<statement>", "exec")
    names = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    waiting = top.get_children()
    while waiting:
        table = waiting.pop()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        waiting += table.get_children()
    return names


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _always(node: ast.stmt) -> bool:
    """Whether an import has an effect without being named."""
    return isinstance(node, ast.ImportFrom) and (_is_future(node) or node.names[0].name == "*")


def _check_imports(cls: type, imports: Sequence[Statement]) -> None:
    """Raise `UserError` for an import that other processes cannot do."""
    for statement in imports:
        node = statement.node
        if isinstance(node, ast.ImportFrom) and node.level:
            raise UserError(
                f"class {cls.__name__} uses `{statement.text}`, an import from its own package; make the "
                "package offer the method by an entry point (CONTRIBUTING.md)."
            )
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in _aliases(node)]
        for name in names:
            if (folder := _private_folder(name.partition(".")[0])) is not None:
                raise UserError(
                    f"class {cls.__name__} uses the module '{name}' in {folder}, which other processes do "
                    "not find; install it, or set PYTHONPATH to its folder before Python starts."
                )


def _aliases(node: ast.stmt) -> list[ast.alias]:
    assert isinstance(node, ast.Import)
    return node.names


def _private_folder(name: str) -> Path | None:
    """The folder of a module that this process alone finds, as in the working directory; None for others."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    shared = set(_resolved(_shared()))
    private = [folder for folder in _resolved(sys.path) if folder not in shared]
    folders = {Path(place).resolve().parent for place in places if Path(place).is_absolute()}
    return next((folder for folder in private if folder in folders), None)


def _shared() -> list[str]:
    """Folders in which every process of this Python looks for modules."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    library = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    return [str(ROOT), *given, *site.getsitepackages(), *user, *library]


def _resolved(paths: Iterable[str]) -> list[Path]:
    return [Path(path or ".").resolve() for path in paths]
