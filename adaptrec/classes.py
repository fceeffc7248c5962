"""Methods given as classes, such as those of a notebook.

Each run is a process of its own, which can import neither a notebook nor the script that started it. So the
class, and what it uses of its module, are written into a package that offers the method by an entry point, as
any other package does; during the call, this process and those that it starts find it. What a class uses is
read from the source: nothing else of a script or notebook runs again.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adaptrec.source import source_of
from methods.errors import UserError

DISTRIBUTION = "given-class"
"""Of such a package, in records and tables."""


@contextmanager
def named_methods(
    methods: Sequence[str | type] | None, executor: str = "local"
) -> Iterator[list[str] | None]:
    """The names of the methods; inside, those given as classes are registered.

    Raises `UserError` for a class that processes of their own cannot have.
    """
    if methods is None:
        yield None
        return
    methods = [_as_registered(method) for method in methods]
    names = [method if isinstance(method, str) else _name(method) for method in methods]
    classes = {name: method for name, method in zip(names, methods, strict=True) if isinstance(method, type)}
    if twice := [name for name in classes if names.count(name) > 1]:
        raise UserError(f"methods: '{twice[0]}' is there twice; rename a class.")
    if classes and executor != "local":
        raise UserError(
            f"methods: {next(iter(classes))} is a class of this process, and executor {executor} may run on "
            "other machines; make it a package (CONTRIBUTING.md)."
        )
    with _importable([_package(name, cls) for name, cls in classes.items()]):
        for name, cls in classes.items():
            _check(name, cls)
        yield list(dict.fromkeys(names))


def _as_registered(method: str | type) -> str | type:
    """The name of a class that an installed package offers; anything else as it is."""
    from methods import registry

    if not isinstance(method, type):
        return method
    target = f"{method.__module__}:{method.__name__}"
    return next((entry.name for entry in registry.entries().values() if entry.target == target), method)


def _name(cls: type) -> str:
    if not isinstance(cls, type):
        raise UserError(f"methods: {cls!r} is neither a name nor a class.")
    return cls.__name__.lower()


def _package(name: str, cls: type) -> Path:
    """A folder in the cache with the module of the class and the description of a package."""
    from benchmark.config import digest
    from benchmark.files import cache_folder, make_once
    from methods.code import canonical

    source = source_of(cls)
    folder = cache_folder() / "methods" / f"{name}-{digest(source)}"
    version = f"0+{digest(canonical(source).decode(), 8)}"

    def write(part: Path) -> None:
        info = part / f"{DISTRIBUTION.replace('-', '_')}_{name}-{version}.dist-info"
        info.mkdir()
        files = {
            part / f"{_module(name)}.py": source,
            info / "METADATA": f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n",
            info / "entry_points.txt": f"[adaptrec.methods]\n{name} = {_module(name)}:{cls.__name__}\n",
        }
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")

    return make_once(folder, f"the source of {cls.__name__}", write)


def _module(name: str) -> str:
    return f"given_{name}"


@contextmanager
def _importable(folders: Sequence[Path]) -> Iterator[None]:
    """Let this process, and those that it starts, find the packages in `folders`."""
    if not folders:
        yield
        return
    paths, variable = [str(folder) for folder in folders], os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*([variable] if variable else []), *paths])
    sys.path += paths
    _look_again()
    try:
        yield
    finally:
        for path in paths:
            sys.path.remove(path)
        if variable is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = variable
        _look_again()


def _look_again() -> None:
    """Forget what was found before on the path of imports."""
    from methods import code, registry

    for name in [name for name in sys.modules if name.startswith(_module(""))]:
        del sys.modules[name]
    importlib.invalidate_caches()
    code.read_module.cache_clear()
    registry.entries.cache_clear()


def _check(name: str, cls: type) -> None:
    """Raise `UserError` unless `name` is the given class."""
    from methods import registry

    registered = registry.entries().get(name)
    if registered is None or registered.distribution != DISTRIBUTION:
        owner = registered.distribution if registered else "another package"
        raise UserError(
            f"methods: {cls.__name__} would be named '{name}', which {owner} has; rename the class."
        )
    registry.load(name)
