"""Where data files are looked for and kept. Standard library only, so that `list datasets` is quick."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

DATA_VARIABLE = "ADAPTREC_DATA"
"""Environment variable: the folder of data that the user has put there."""
LEDGER = "files.json"
"""In the folder of a recipe's raw files: which were used first, their size and SHA-256."""


def cache_folder() -> Path:
    """Where downloads, prepared data and hidden states are kept: $ADAPTREC_CACHE, else ~/.cache/adaptrec."""
    return Path(os.environ.get("ADAPTREC_CACHE") or Path.home() / ".cache" / "adaptrec")


def data_folder() -> Path | None:
    """The folder that $ADAPTREC_DATA names, if any."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser().resolve() if named else None


def path_of(written: str) -> Path | None:
    """What a user wrote as a path; None where no file system could have it."""
    try:
        path = Path(written).expanduser()
        path.exists()
    except (ValueError, RuntimeError):  # a NUL, the home folder of nobody
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise
    return None if "\0" in written else path


def shortened(name: str, most: int = 80) -> str:
    """A name for an error: one of thousands of characters says no more than its beginning."""
    return name if len(name) <= most else f"{name[:most]}... ({len(name):,} characters)"


def raw_folder(name: str, cache: Path) -> Path:
    """Where the recipe's downloads lie."""
    return cache / "raw" / name


def file_name(url: str) -> str:
    """The last part of a URL's path: the official name of the file."""
    return PurePosixPath(url.partition("?")[0]).name


def read_ledger(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> what is recorded of it. Raises `ValueError` where the file is damaged."""
    try:
        found = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise ValueError("not a table of files")
    return found


def locate(name: str, source: Path | None, urls: Sequence[str], cache: Path) -> Path | None:
    """A file of the recipe `name` that is already here, under one of its official names.

    Looked for in the folder that the user gave, in `$ADAPTREC_DATA/<name>` and `$ADAPTREC_DATA`, where it was
    when it was first used, and among the downloads.
    """
    data, downloads = data_folder(), raw_folder(name, cache)
    folders = [folder for folder in (source, data and data / name, data) if folder is not None]
    try:
        ledger = read_ledger(downloads)
    except (OSError, ValueError):
        ledger = {}  # whoever checks the files complains of it
    names = list(dict.fromkeys(file_name(url) for url in urls))
    places = [folder / official for folder in folders for official in names]
    places += [Path(ledger[official]["path"]) for official in names if "path" in ledger.get(official, {})]
    places += [downloads / official for official in names]
    return next((path for path in places if path.is_file()), None)


def all_here(name: str, source: Path | None, files: Mapping[str, Sequence[str]], cache: Path) -> bool:
    """Whether every file of the recipe is on this machine."""
    return all(locate(name, source, urls, cache) is not None for urls in files.values())
