"""Checks of `recipe.toml`, key by key; docs/datasets.md explains every key."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    "target": ("successive", "first", "last", "random"),
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


def check(key: str, value: Any, path: Path) -> None:
    """Raise `UserError` for a value of the wrong type or out of range."""
    if key in CHOICES:
        if value not in CHOICES[key] and (key != "format" or value not in format_names()):
            allowed = format_names() if key == "format" else CHOICES[key]
            raise unknown(f"value of {key} in {path}:", value, allowed)
        return
    valid, allowed_values = _validity(key, value)
    if not valid:
        raise UserError(f"{path}: {key} = {value!r} is not valid; it must be {allowed_values}.")
    if key == "expected":
        _check_expected(value, path)
    if key == "categories":
        for name in value:
            _check_category(name, path)
    if key == "settings":
        for protocol, chosen in value.items():
            if not isinstance(chosen, dict):
                raise UserError(f"{path}: settings.{protocol} must be a table, [settings.{protocol}].")


def _validity(key: str, value: Any) -> tuple[bool, str]:
    """Whether `value` is one for `key`, and what would be."""
    valid, allowed = isinstance(value, str), "text in quotes"
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key in ("settings", "synthetic", "expected", "download"):
        valid, allowed = isinstance(value, dict), f"a table, [{key}]"
    elif key in _LEAST:
        valid = type(value) is int and _LEAST[key] <= value <= _MOST
        allowed = f"a whole number of at least {_LEAST[key]} and at most {_MOST}"
    elif key in ("valid_share", "test_share"):
        valid, allowed = type(value) in (int, float) and 0 < value < 1, "a number between 0 and 1"
    elif key == "text_fields":
        valid, allowed = texts, 'a list of column names, such as ["title", "brand"]'
    elif key == "categories":
        valid, allowed = texts and bool(value), "a list of names, each of which makes a dataset"
    elif key == "columns":
        valid = isinstance(value, dict) and all(isinstance(name, str) for name in value.values())
        allowed = 'a table [columns] of names, such as user_id = "uid"'
    elif key == "folder":
        valid, allowed = valid and value.isprintable(), "the name of a folder"
    elif key == "separator":  # one byte, which Arrow needs, and none that a name or a quoted field has
        plain = valid and len(value) == 1 and value.isascii() and not value.isalnum()
        valid, allowed = plain and value not in '"\r\n\0', 'one character, such as ";"'
    return valid, allowed


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
        if type(count) is not int or not 0 < count <= _MOST:
            allowed = f"a whole number above 0 and at most {_MOST}"
            raise UserError(f"{path}: expected.{name} = {count!r} is not valid; it must be {allowed}.")


def check_files(files: Any, kind: str, text_fields: object, path: Path) -> dict[str, tuple[str, ...]]:
    """Role -> URLs, mirrors in order, of [download.files]; raises `UserError` for a fault in it."""
    if kind not in ROLES:
        raise UserError(f"{path}: [download] needs format = one of {', '.join(ROLES)}, not '{kind}'.")
    if not isinstance(files, dict) or set(files) != set(ROLES[kind]):
        roles = " and ".join(ROLES[kind])
        raise UserError(f"{path}: [download.files] must have {roles}, each a list of URLs, for {kind}.")
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
