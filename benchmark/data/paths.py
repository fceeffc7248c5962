"""Where data files are searched and stored. Only the standard library is imported here."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

DATA_VARIABLE = "ADAPTREC_DATA"
"""Environment variable: the folder of data that the user has put there."""


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
