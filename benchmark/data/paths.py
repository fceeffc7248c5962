"""Where data files are searched and stored. Only the standard library is imported here."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from benchmark.files import DamagedError, read_checked

DATA_VARIABLE = "ADAPTREC_DATA"
"""Environment variable: the folder of data that the user has put there."""
CHECKSUMS = "files.json"
"""In the folder of a recipe's raw files: which were used first, their size and SHA-256."""


def cache_folder() -> Path:
    """Where downloads, prepared data and hidden states are kept: $ADAPTREC_CACHE, else ~/.cache/adaptrec."""
    return Path(os.environ.get("ADAPTREC_CACHE") or Path.home() / ".cache" / "adaptrec")


def data_folder() -> Path | None:
    """The folder that $ADAPTREC_DATA names, if any."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser().resolve() if named else None


def parse_path(written: str) -> Path | None:
    """What a user wrote as a path; None where no file system could have it."""
    try:
        path = Path(written).expanduser()
        path.exists()
    except (ValueError, RuntimeError):  # a NUL, or the home folder of an unknown user
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise
    return None if "\0" in written else path


def shortened(name: str, most: int = 80) -> str:
    """A name for an error, cut to `most` characters."""
    return name if len(name) <= most else f"{name[:most]}... ({len(name):,} characters)"


def raw_folder(name: str, cache: Path) -> Path:
    """Where the recipe's downloads lie."""
    return cache / "raw" / name


def file_name(url: str) -> str:
    """The last part of a URL's path: the official name of the file."""
    return PurePosixPath(url.partition("?")[0]).name


def read_checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> what is recorded of it. Raises `DamagedError`, and `OSError` where it cannot be read."""
    path = folder / CHECKSUMS
    try:
        return dict(read_checked(path, ("files",))["files"])
    except FileNotFoundError:
        return {}
    except DamagedError:
        older = _without_checksum(path)
        if older is None:
            raise
        return older


def _without_checksum(path: Path) -> dict[str, dict[str, Any]] | None:
    """What a file of before there was a checksum holds; None where it is none."""
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    fields = {"url", "path", "size", "sha256"}
    entries = stored.values() if isinstance(stored, dict) else [None]
    return stored if all(isinstance(entry, dict) and set(entry) <= fields for entry in entries) else None


def locate(name: str, source: Path | None, urls: Sequence[str], cache: Path) -> Path | None:
    """A file of the recipe `name` that is already here, under one of its official names.

    Looked for in the folder that the user gave, in `$ADAPTREC_DATA/<name>` and `$ADAPTREC_DATA`, where it was
    when it was first used, and among the downloads.
    """
    data, downloads = data_folder(), raw_folder(name, cache)
    folders = [folder for folder in (source, data and data / name, data) if folder is not None]
    try:
        checksums = read_checksums(downloads)
    except (OSError, DamagedError):
        checksums = {}  # reported when the files are checked
    names = list(dict.fromkeys(file_name(url) for url in urls))
    candidates = [folder / official for folder in folders for official in names]
    candidates += [
        Path(checksums[official]["path"]) for official in names if "path" in checksums.get(official, {})
    ]
    candidates += [downloads / official for official in names]
    return next((path for path in candidates if path.is_file()), None)


def all_here(name: str, source: Path | None, files: Mapping[str, Sequence[str]], cache: Path) -> bool:
    """Whether every file of the recipe is on this machine."""
    return all(locate(name, source, urls, cache) is not None for urls in files.values())
