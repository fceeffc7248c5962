"""What a process sets before it imports anything else: where it imports from, how its threads wait, and that
PyTorch's compiler is imported only where something compiles.

Processes import this package from its own folder, and never from the working directory, as a user's may hold
folders named `benchmark`, `methods` or `datasets`. Standard library only.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
"""This package, in a checkout or installed."""
ROOT = PACKAGE.parent
"""The folder that this package is imported from: a checkout, or a folder of installed packages."""
SPINS = "1000"
"""Turns, some microseconds, that a thread looks again before it sleeps. The threads of a step meet a thousand
times: where they sleep at once it takes 1.4 times as long on a machine with nothing else to do, and where
they never sleep, many times as long on one that has."""


def environment() -> dict[str, str]:
    """Environment variables with which a process and its children import this package from `ROOT` and nothing
    from the working directory."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    known = {os.path.realpath(path) for path in (*given, *_installed())}
    # a folder of installed packages would precede the standard library there
    paths = given if os.path.realpath(ROOT) in known else [str(ROOT), *given]
    return {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def secure_imports() -> None:
    """Make this process, started by `python -m`, and its children import as `environment` describes."""
    first = sys.path[0] if sys.path and not sys.flags.safe_path else ROOT
    if _same(first, ".") and not _same(first, ROOT):
        del sys.path[0]
    os.environ.update(environment())


def wait_briefly() -> None:
    """Let OpenMP's threads spin a little and then sleep, unless the user has set how they wait.

    It must be called before torch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=SPINS)


COMPILER = "torch._dynamo"


def defer_compiler() -> None:
    """Import PyTorch's compiler where something compiles, and not for the first optimiser.

    An optimiser imports it for two functions that do nothing outside compiled code. The import takes a third
    of the time that a run takes to start. It must be called before torch is imported.
    """
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = _Deferred(COMPILER)


class _Deferred(ModuleType):
    """Stands for the compiler until something else of it is used, which imports it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` asks all modules, an import for the path
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(import_module(COMPILER), name)

    @staticmethod
    def graph_break(*_: object, **__: object) -> None:
        """Outside compiled code there is no graph."""

    def disable(self, *function: Any, wrapping: bool = True, **how: Any) -> Any:
        """A function that must not be compiled; without `wrapping`, PyTorch asks at a call of its own."""
        if not wrapping:
            return function[0]
        disable: Callable[..., Any] = self.__getattr__("disable")
        return disable(*function, **how)


def packaged_data(packaged: str, checkout: str) -> Path:
    """Data files that belong to this package: in the installed package `packaged`, or `checkout` below the
    root of a checkout."""
    installed = PACKAGE / packaged
    return installed if installed.is_dir() else ROOT / checkout


def _same(path: str | Path, other: str | Path) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:  # a folder that is gone
        return False


def _installed() -> list[str]:
    """Folders of installed packages in which every process looks."""
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
