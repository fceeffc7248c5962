"""What the functions take: data and settings, as the command line's code takes them."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adaptrec.frames import folder_of, naming
from methods.errors import UserError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

    from benchmark.data.recipe import FolderOptions

T = TypeVar("T")


@dataclass(frozen=True)
class GivenData:
    """Datasets, and how their folders are to be read."""

    datasets: list[str]
    reading: FolderOptions
    frames: Path | None = None
    """The folder that holds DataFrames, where the user gave some."""


def given_data(
    datasets: Sequence[str | Path],
    interactions: DataFrame | None,
    items: DataFrame | None,
    name: str,
    recipe: str,
    columns: Mapping[str, str] | None,
    separator: str,
) -> GivenData:
    """The data that the user named or gave. Raises `UserError` for a fault in DataFrames."""
    from benchmark.data.recipe import FolderOptions

    mapped = dict(columns or {})
    reading = FolderOptions(recipe, tuple(mapped.items()), separator)
    if interactions is None and items is None:
        return GivenData([str(dataset) for dataset in datasets], reading)
    if datasets or interactions is None or items is None:
        raise UserError("give either datasets, or interactions and items together.")
    frames = folder_of({"interactions": interactions, "items": items}, name, mapped)
    return GivenData([str(frames)], reading, frames)


def not_empty(argument: str, values: list[T]) -> list[T]:
    """The values of an argument that was given. Raises `UserError` where there are none.

    Without this an empty list, such as one that a filter left, would mean all that runs by default.
    """
    if not values:
        raise UserError(f"{argument} is empty; give at least one, or leave it out to have the default.")
    return values


def pairs(
    function: Callable[..., object], settings: Mapping[str, object], methods: Sequence[str] | None
) -> tuple[str, ...]:
    """Settings and hyper-parameters as `key=value`, which the code of the command line checks.

    Raises `UserError` for a name that is none of them and nearly that of an argument of `function`.
    """
    from benchmark.run.spec import accepted
    from methods import registry

    arguments = list(inspect.signature(function).parameters)[:-1]
    near = [name for name in settings if difflib.get_close_matches(name, arguments, n=1, cutoff=0.75)]
    if near:
        known = set().union(*(accepted(registry.load(one)) for one in registry.chosen_names(methods)))
        if wrong := [name for name in near if name not in known]:
            raise unknown(f"argument of adaptrec.{function.__name__}:", wrong[0], arguments)
    return tuple(f"{name}={_text(value)}" for name, value in settings.items())


def _text(value: Any) -> str:
    """A value as one writes it on the command line."""
    return json.dumps(value) if isinstance(value, bool | dict | list | tuple) else str(value)


@contextmanager
def asking(data: GivenData) -> Iterator[None]:
    """While the code of the command line works for this process, which lives longer than a command does."""
    from benchmark.run.spec import look_again

    look_again()
    with naming(data.frames):
        yield
