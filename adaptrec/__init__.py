"""AdaptRec from Python: the same code as the command `adaptrec`, see docs/api.md.

Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrec.noise import without_noise

if TYPE_CHECKING:
    from adaptrec.grids import RunError, bench, prepare, run
    from adaptrec.records import Run, load, results
    from benchmark.serve.model import LoadedModel, load_model
    from methods.base import Context, Items, Method
    from methods.checks import check_method
    from methods.errors import UserError

    __version__: str

__all__ = [
    "Context",
    "Items",
    "LoadedModel",
    "Method",
    "Run",
    "RunError",
    "UserError",
    "__version__",
    "bench",
    "check_method",
    "load",
    "load_model",
    "prepare",
    "results",
    "run",
]
_HOMES = {
    "Context": "methods.base",
    "Items": "methods.base",
    "LoadedModel": "benchmark.serve.model",
    "Method": "methods.base",
    "Run": "adaptrec.records",
    "RunError": "adaptrec.grids",
    "UserError": "methods.errors",
    "bench": "adaptrec.grids",
    "check_method": "methods.checks",
    "load": "adaptrec.records",
    "load_model": "benchmark.serve.model",
    "prepare": "adaptrec.grids",
    "results": "adaptrec.records",
    "run": "adaptrec.grids",
}
"""Public name -> the module that has it, which is imported when the name is used."""


def _check_packages() -> None:
    """Raise `ImportError` where a module of the user hides a package of this project."""
    root = Path(__file__).resolve().parents[1]
    for name in ("benchmark", "methods"):
        module = import_module(name)
        place = Path(module.__file__ or next(iter(module.__path__))).resolve()
        if place.parent not in (root, root / name):
            raise ImportError(
                f"{place} hides the package '{name}' of AdaptRec; rename it, or start Python in another "
                "folder."
            )


_check_packages()

if not TYPE_CHECKING:  # a checker would take every name for one of the package

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version(__name__)
        elif name in _HOMES:
            with without_noise():
                value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
