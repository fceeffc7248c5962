"""Histories of users: from a file or the command line, in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmark.serve.arguments import item_ids
from methods.errors import UserError

FORMATS = (".jsonl", ".tsv", ".txt")


@dataclass(frozen=True)
class UserHistory:
    """The items of one user, the most recent last."""

    user: str
    """As the file names him; the number of his line where it does not."""
    items: list[str]


def read_histories(words: str, size: int) -> Iterator[list[UserHistory]]:
    """Batches of at most `size` histories of what the user gave: a file, or ids by commas.

    A file has one user a line, by its ending: `.jsonl` a list of ids, or an object with `history` and maybe
    `user`; `.tsv` the user, a tab, and ids by spaces; `.txt` ids by spaces. Raises `UserError` with the line
    at fault.
    """
    if is_file(words):
        lines = _of_file(Path(words))
        return iter(lambda: list(islice(lines, size)), [])
    return iter([[UserHistory("1", [name for name in map(str.strip, words.split(",")) if name])]])


def is_file(words: str) -> bool:
    """Whether the user gave a file rather than ids."""
    return Path(words).suffix in FORMATS or Path(words).is_file()


def _of_file(path: Path) -> Iterator[UserHistory]:
    if path.suffix not in FORMATS:
        raise UserError(f"--history {path}: a file of histories ends in {', '.join(FORMATS)}; rename it.")
    parse = {".jsonl": _json, ".tsv": _tabbed, ".txt": _spaced}[path.suffix]
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse(line.rstrip("\n"), number, path)
    except OSError as error:
        raise UserError(f"--history {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--history {path} is not UTF-8; save it as UTF-8.") from error


def _json(line: str, number: int, path: Path) -> UserHistory:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _fault(path, number, "it is not JSON") from error
    user, items = str(number), value
    if isinstance(value, dict):
        user, items = str(value.get("user", number)), value.get("history")
    if not isinstance(items, list):
        raise _fault(path, number, 'it is neither a list of ids nor {"user": ..., "history": [ids]}')
    try:
        return UserHistory(user, item_ids(items))
    except UserError as error:
        raise _fault(path, number, str(error).rstrip(".")) from error


def _tabbed(line: str, number: int, path: Path) -> UserHistory:
    user, tab, items = line.partition("\t")
    if not tab or "\t" in items:
        raise _fault(path, number, "it is not a user, one tab, and ids by spaces")
    return UserHistory(user, items.split())


def _spaced(line: str, number: int, path: Path) -> UserHistory:
    return UserHistory(str(number), line.split())


def _fault(path: Path, number: int, what: str) -> UserError:
    return UserError(f"{path} line {number}: {what}; docs/serving.md shows the formats.")
