"""Ids and texts as Python or a JSON file gives them: checked, and as lists of text."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from benchmark.data.formats import shortened
from benchmark.escape import one_line
from methods.errors import UserError


def listed(values: Any, wanted: str) -> list[Any]:
    """The values as a list; raises `UserError`, which says what is `wanted`, where they are none.

    A text is none: Python would take it as a sequence of letters.
    """
    if isinstance(values, str | bytes):
        shown = _shown(values)
        raise UserError(f"{wanted}, got the text {shown}; give [{shown}].")
    try:
        iter(values)
    except TypeError as error:
        raise UserError(f"{wanted}, got {_shown(values)}.") from error
    return list(values)


def item_ids(history: Any) -> list[str]:
    """The ids of a history as text, as catalogues have them; raises `UserError` for what is none."""
    return [_item_id(value) for value in listed(history, "a history is a list of item ids")]


def _item_id(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):  # also those of NumPy
        return str(int(value))
    raise UserError(f"item ids are text or whole numbers, got {_shown(value)} in a history.")


def item_texts(texts: Any) -> list[str]:
    """The texts of items as a list that has some; raises `UserError` for anything else."""
    found = listed(texts, "texts of items are a list of text")
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"texts of items are a list of text, got {_shown(text)} at [{place}].")
    if not found:
        raise UserError("the list of texts is empty; give at least one.")
    return found


def _shown(value: Any) -> str:
    """A value for an error: tables and arrays have several lines."""
    return shortened(one_line(repr(value)))
