"""Checks of `recipe.toml`, key by key; docs/datasets.md explains every key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.data.formats import BUILT_IN, COLUMNS, MAPPED, ROLES, SEPARATED, format_names
from benchmark.data.paths import file_name, shortened
from methods.errors import UserError, unknown

CHOICES: dict[str, tuple[str, ...]] = {
    "format": BUILT_IN,
    "no_text": ("drop", "keep"),
    "repeats": ("keep", "first"),
    "duplicate_reviews": ("keep", "drop"),
    "split": ("leave-one-out", "temporal"),
    "target": ("first", "last", "random"),
    "tie_order": ("file", "random"),
    "untouched": ("drop", "keep"),
    "quotes": ("standard", "none"),
    "clean": ("none", "html", "unisrec"),
    "short_users": ("error", "drop"),
    "bad_rows": ("error", "skip"),
    "bad_bytes": ("error", "replace"),
    "unknown_items": ("error", "drop"),
    "duplicate_items": ("error", "first"),
    "long_texts": ("error", "cut"),
    "negative_times": ("error", "drop"),
    "mixed_times": ("error", "mend"),
}
"""Keys whose value is one of a few words."""

SCHEMES = ("https", "http", "hf", "file")
"""What a URL of [download.files] may begin with; `hf` is the Hugging Face hub."""

_LEAST = {"core": 0, "recent": 3, "max_text": 1, "seed": 0}
_MOST = 2**31 - 1
"""The largest whole number that a recipe may give: counts are kept in 32 bits."""
_LONGEST_NAME = 100
_COUNTS = ("users", "items", "interactions")
_TABLES = ("settings", "synthetic", "expected", "download")


def check(key: str, value: Any, path: Path) -> None:
    """Raise `UserError` for a value of the wrong type or out of range."""
    if key in CHOICES:
        if value not in CHOICES[key] and (key != "format" or value not in format_names()):
            allowed = format_names() if key == "format" else CHOICES[key]
            raise unknown(f"value of {key} in {path}:", value, allowed)
        return
    good, want = _validity(key, value)
    if not good:
        raise UserError(f"{path}: {key} = {value!r} is not valid; it must be {want}.")
    if key == "expected":
        _check_expected(value, path)
    if key == "categories":
        for name in value:
            _check_category(name, path)
    if key == "settings":
        for protocol, chosen in value.items():
            if not isinstance(chosen, dict):
                raise UserError(f"{path}: settings.{protocol} must be a table, [settings.{protocol}].")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _separates(value: Any) -> bool:
    """One character of one byte, which Arrow needs, and none that a name or a quoted field has."""
    plain = isinstance(value, str) and len(value) == 1 and value.isascii() and not value.isalnum()
    return plain and value not in '"\r\n\0'


_TESTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text_fields": (_texts, 'a list of column names, such as ["title", "brand"]'),
    "categories": (
        lambda value: _texts(value) and bool(value),
        "a list of names, each of which makes a dataset",
    ),
    "separator": (_separates, 'one character, such as ";"'),
    "columns": (
        lambda value: isinstance(value, dict) and _texts([*value.values()]),
        'a table [columns] of names, such as user_id = "uid"',
    ),
    "folder": (lambda value: isinstance(value, str) and value.isprintable(), "the name of a folder"),
    **{
        key: (
            lambda value, least=least: _whole(value) and least <= value <= _MOST,  # type: ignore[misc]
            f"a whole number of at least {least} and at most {_MOST}",
        )
        for key, least in _LEAST.items()
    },
    **dict.fromkeys(
        ("valid_share", "test_share"),
        (
            lambda value: (_whole(value) or isinstance(value, float)) and 0 < value < 1,
            "a number between 0 and 1",
        ),
    ),
}
"""Key -> whether a value is one for it, and what would be."""


def _validity(key: str, value: Any) -> tuple[bool, str]:
    """Whether `value` is one for `key`, and what would be."""
    if key in _TABLES:
        return isinstance(value, dict), f"a table, [{key}]"
    test, allowed = _TESTS.get(key, (lambda value: isinstance(value, str), "text in quotes"))
    return test(value), allowed


def _check_category(name: str, path: Path) -> None:
    """A category becomes a part of names of folders: nothing that leads elsewhere, on any system."""
    if len(name) > _LONGEST_NAME or not re.fullmatch(r"\w(?:[\w.-]*[\w-])?", name):
        raise UserError(
            f"{path}: the category {shortened(name)!r} is not a plain name; it may have letters, digits, "
            f"'_', '-' and, inside, '.', at most {_LONGEST_NAME} characters."
        )


def check_columns(
    columns: Sequence[tuple[str, str]], separator: str, kind: str, text_fields: Sequence[str], path: Path
) -> None:
    """Raise `UserError` where a column mapping or a separator does not go with the files' format."""
    known = tuple(dict.fromkeys((*COLUMNS, *text_fields)))
    for name, column in columns:
        if name not in known:
            raise unknown(f"name in the columns of {path}:", name, known)
        if kind not in MAPPED:
            raise UserError(f"{path}: columns are for files of {', '.join(MAPPED)}; this is {kind}.")
        twice = [other for other, same in columns if same == column and other != name]
        if twice:
            raise UserError(f"{path}: the column '{column}' cannot be both {name} and {twice[0]}.")
    if separator and kind not in SEPARATED:
        raise UserError(f"{path}: separator is for files of {', '.join(SEPARATED)}; this is {kind}.")


def _check_expected(value: dict[str, Any], path: Path) -> None:
    for name, count in value.items():
        if name not in _COUNTS:
            raise unknown(f"key of [expected] in {path}:", name, _COUNTS)
        if not _whole(count) or not 0 < count <= _MOST:
            raise UserError(
                f"{path}: expected.{name} = {count!r} is not valid; it must be a whole number above 0 and at "
                f"most {_MOST}."
            )


def check_files(files: Any, kind: str, text_fields: object, path: Path) -> dict[str, tuple[str, ...]]:
    """Role -> URLs, mirrors in order, of [download.files]; raises `UserError` for a fault in it."""
    if kind not in ROLES:
        raise UserError(f"{path}: [download] needs format = one of {', '.join(ROLES)}, not '{kind}'.")
    if not isinstance(files, dict) or set(files) != set(ROLES[kind]):
        wanted = " and ".join(ROLES[kind])
        raise UserError(f"{path}: [download.files] must have {wanted}, each a list of URLs, for {kind}.")
    if not text_fields:
        raise UserError(f"{path}: {kind} needs text_fields, such as {_EXAMPLES[kind]}.")
    for role, urls in files.items():
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
            raise UserError(f"{path}: download.files.{role} must be a list of URLs, the best mirror first.")
        for url in urls:
            scheme, colon, _ = url.partition("://")
            if colon and scheme not in SCHEMES:
                raise unknown(f"scheme of a URL in {path}:", scheme, SCHEMES)
            if not url.isprintable() or file_name(url) in ("", ".", ".."):
                raise UserError(f"{path}: download.files.{role}: {url!r} does not end in the name of a file.")
    return {role: tuple(urls) for role, urls in files.items()}


_EXAMPLES = {
    "amazon-2014": '["title", "categories", "brand"]',
    "amazon-2018": '["title", "category", "brand"]',
    "amazon-2023": '["title", "categories", "store"]',
    "movielens": '["title", "genres"]',
}
