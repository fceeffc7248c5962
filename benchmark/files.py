"""Write files so that a reader sees the old file, the new one, or none; and name their content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `path` when the block ends well, and is gone when it does not.

    It is a neighbour of `path` named `<name>.<8 characters>.tmp`, under a lock that the system frees with the
    process. What a killed process has left of an earlier try is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, temporary = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)  # under the lock: nobody can take it for abandoned
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to a temporary neighbour and rename it onto `path`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _temporary(path: Path) -> tuple[int, Path]:
    """A new neighbour of `path`, locked: its descriptor and its place."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        with suppress(OSError):  # a file system without locks: then nothing is ever taken for abandoned
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another writer removed it before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove temporary neighbours of `path` that no living process writes."""
    ours = re.compile(re.escape(path.name) + r"\.[a-z0-9_]{8}\.tmp")
    for left in [left for left in path.parent.iterdir() if ours.fullmatch(left.name)]:
        with suppress(OSError):  # it is being written, or is gone
            handle = os.open(left, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
