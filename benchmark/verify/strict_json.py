"""JSON of strangers: no key twice, no NaN, no infinity, no endless number, nothing deeply nested."""

from __future__ import annotations

import json
import math
from typing import Any

from benchmark.verify.format import DEEPEST, MOST_DIGITS, MOST_JSON, shown
from methods.errors import UserError


class _RefusedError(Exception):
    """What is wrong, in the middle of a sentence."""


def strict_json(content: bytes, name: str) -> Any:
    """The value of a JSON file that messages call `name`; raises `UserError` for any fault."""
    if len(content) > MOST_JSON:
        raise UserError(f"{name} has {len(content):,} bytes; at most {MOST_JSON:,} are read.")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_real,
            parse_int=_whole,
        )
    except _RefusedError as fault:
        raise UserError(f"{name} {fault}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text, from byte {error.start:,} on.") from None
    except RecursionError:
        raise UserError(_too_deep(name)) from None
    except ValueError as error:
        raise UserError(f"{name} is no JSON: {shown(error)}.") from None
    if _is_deep(value):
        raise UserError(_too_deep(name))
    return value


def json_in(text: str) -> Any:
    """The object or list in JSON that a text is, as configurations of `peft` are; None for any other text."""
    if not text.startswith(("{", "[")):
        return None
    try:
        return strict_json(text.encode(errors="surrogatepass"), "it")
    except UserError:
        return None


def _too_deep(name: str) -> str:
    return f"{name} is nested more than {DEEPEST} levels deep."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"has the field {shown(twice)} twice")
    return fields


def _constant(word: str) -> Any:
    raise _RefusedError(f"has {word}, which is no number")


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"has the number {shown(text)}, which is infinite")
    return value


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise _RefusedError(f"has a whole number of more than {MOST_DIGITS} digits")
    return int(text)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = (part for part in level if isinstance(part, (dict, list)))
        level = [one for part in inner for one in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return True
