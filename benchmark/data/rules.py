"""What `recipe.toml` may say, key by key; docs/datasets.md explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.data.folders import FORMATS
from methods.errors import UserError, unknown

ROLES = {
    "amazon-2014": ("interactions", "items"),
    "amazon-2018": ("interactions", "items"),
    "amazon-2023": ("interactions", "items"),
    "movielens": ("archive",),
}
"""Formats of files as their publishers hand them out, and what each file is for."""

CHOICES: dict[str, tuple[str, ...]] = {
    "format": ("auto", *FORMATS, *ROLES, "synthetic"),
    "no_text": ("drop", "keep"),
    "repeats": ("keep", "first"),
    "duplicate_reviews": ("keep", "drop"),
    "split": ("leave-one-out", "temporal"),
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

_LEAST = {"core": 0, "recent": 3, "max_text": 1}
_SHARES = ("valid_share", "test_share")
_COUNTS = ("users", "items", "interactions")
_TABLES = ("settings", "synthetic", "expected", "download")


def check(key: str, value: Any, path: Path) -> None:
    """Raise `UserError` for a value of the wrong type or out of range."""
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise unknown(f"value of {key} in {path}:", value, CHOICES[key])
        return
    good, want = _judge(key, value)
    if not good:
        raise UserError(f"{path}: {key} = {value!r} is not valid; it must be {want}.")
    if key == "expected":
        _check_expected(value, path)
    if key == "settings":
        for protocol, chosen in value.items():
            if not isinstance(chosen, dict):
                raise UserError(f"{path}: settings.{protocol} must be a table, [settings.{protocol}].")


def _judge(key: str, value: Any) -> tuple[bool, str]:
    """Whether `value` is one for `key`, and what would be."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key in _LEAST:
        return whole and value >= _LEAST[key], f"a whole number of at least {_LEAST[key]}"
    if key in _SHARES:
        number = whole or isinstance(value, float)
        return number and 0 < value < 1, "a number between 0 and 1"
    if key == "text_fields":
        return texts, 'a list of column names, such as ["title", "brand"]'
    if key == "categories":
        return texts and bool(value), "a list of names, each of which makes a dataset"
    if key in _TABLES:
        return isinstance(value, dict), f"a table, [{key}]"
    return isinstance(value, str), "text in quotes"


def _check_expected(value: dict[str, Any], path: Path) -> None:
    for name, count in value.items():
        if name not in _COUNTS:
            raise unknown(f"key of [expected] in {path}:", name, _COUNTS)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(
                f"{path}: expected.{name} = {count!r} is not valid; it must be a whole number above 0."
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
    return {role: tuple(urls) for role, urls in files.items()}


_EXAMPLES = {
    "amazon-2014": '["title", "categories", "brand"]',
    "amazon-2018": '["title", "category", "brand"]',
    "amazon-2023": '["title", "categories", "store"]',
    "movielens": '["title", "genres"]',
}
